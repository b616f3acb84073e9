"""Models of other houses, saved by their own programs, become runs that compute the same and that every verb opens."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from barreleye import run as runs
from barreleye.data.chat_format import Message, encode_chat
from barreleye.data.chat_template import CHAT_TEMPLATE, HOUSE
from barreleye.export.gguf import modelfile
from barreleye.export.importing import import_model
from barreleye.inference.generate import generate
from barreleye.run import Run
from barreleye.training.card import model_card
from barreleye.training.grow import resume

sys.path.insert(0, str(Path(__file__).parent))
from foreign import GUPPY, NANOGPT, SHAPES, decoder, save_guppy, save_model, save_nanogpt, tokenizer

QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRANGE = "{{ cycler.__init__.__globals__.os.system('touch owned') }}"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("theirs").mkdir()


def assert_same_logits(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))


def edit(file: str | Path, **changes: Any) -> None:
    values = json.loads(Path(file).read_text()) | changes
    Path(file).write_text(json.dumps({name: value for name, value in values.items() if value != "-"}))


# From transformers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_the_logits_of_an_imported_model_are_its_own(name: str) -> None:
    theirs = save_model(Path("theirs"), name)
    run = import_model("theirs", "ours")
    tokens = torch.randint(run.config.model.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    assert_same_logits(run.load_model()(tokens), theirs(tokens).logits)
    assert (run.name, run.config.data.kind, run.step) == ("ours", "import", 0)
    assert (run.path / "model" / "README.md").read_text() == model_card(run)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_shards_with_rows_to_spare(dtype: torch.dtype) -> None:
    theirs = save_model(Path("theirs"), "qwen2", spare_rows=7, dtype=dtype, max_shard_size="20KB")
    assert len(list(Path("theirs").glob("model-*.safetensors"))) > 2
    said: list[str] = []
    run = import_model("theirs", "ours", say=said.append)
    tokens = torch.arange(40).view(1, 40)
    rows = run.tokenizer.vocab_size
    assert_same_logits(run.load_model()(tokens), theirs(tokens).logits[..., :rows])
    assert said[0].startswith("7 rows of the embedding have no token")


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bool], ids=str)
@torch.no_grad()
def test_the_first_gpt2_files_have_other_names_and_masks(dtype: torch.dtype) -> None:
    theirs = save_model(Path("theirs"), "gpt2")
    file = Path("theirs/model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    masks = {f"h.{i}.attn.bias": torch.ones(40, 40).tril().to(dtype).view(1, 1, 40, 40) for i in range(2)}
    save_file(old | masks | {"h.0.attn.masked_bias": torch.tensor(-1e4)}, file)
    tokens = torch.arange(40).view(1, 40)
    assert_same_logits(import_model("theirs", "ours").load_model()(tokens), theirs(tokens).logits)


@pytest.mark.parametrize("name", ["gpt2", "mistral-window"])
@torch.no_grad()
def test_fewer_positions(name: str) -> None:
    theirs = save_model(Path("theirs"), name)
    if name != "gpt2":
        edit("theirs/config.json", sliding_window=16)
        with pytest.raises(ValueError, match=r"window = 16 is shorter than the context of 40.*--context-length 16"):
            import_model("theirs", "ours")
    run = import_model("theirs", "ours", context_length=16)
    tokens = torch.arange(16).view(1, 16)
    assert run.config.model.context_length == 16
    assert_same_logits(run.load_model()(tokens), theirs(tokens).logits)
    with pytest.raises(ValueError, match="--context-length 41: the model knows 40 positions"):
        import_model("theirs", "more", context_length=41)


@torch.no_grad()
def test_a_head_that_is_not_the_embedding_it_is_said_to_be() -> None:
    """Transformers 5 takes both, unless they are equal. To refuse them would do too; to take one for both would not."""
    save_model(Path("theirs"), "gpt2")
    file = Path("theirs/model.safetensors")
    weights = load_file(file)
    head = torch.randn(weights["transformer.wte.weight"].shape, generator=torch.Generator().manual_seed(2))
    save_file(weights | {"lm_head.weight": head}, file, {"format": "pt"})
    try:
        run = import_model("theirs", "ours")
    except ValueError as refusal:
        assert "lm_head.weight" in str(refusal) and "\n" not in str(refusal)
        return
    theirs = AutoModelForCausalLM.from_pretrained("theirs", tie_word_embeddings=False).eval()
    assert torch.equal(theirs.lm_head.weight, head) and not run.config.model.tie_embeddings
    tokens = torch.arange(40).view(1, 40)
    assert_same_logits(run.load_model()(tokens), theirs(tokens).logits)


@torch.no_grad()
def test_a_model_of_more_positions_than_any_of_ours() -> None:
    theirs = save_model(Path("theirs"), "llama-mlp-biased-wide")
    edit("theirs/config.json", max_position_embeddings=2**20)
    with pytest.raises(ValueError, match="context_length must be at most 1000000"):
        import_model("theirs", "ours")
    tokens = torch.arange(16).view(1, 16)
    assert_same_logits(import_model("theirs", "ours", context_length=16).load_model()(tokens), theirs(tokens).logits)


def test_text_ends_where_the_model_ends_it() -> None:
    save_model(Path("theirs"), "gpt2")
    run = import_model("theirs", "ours")
    model, end = run.load_model(), run.tokenizer.id_of("<|endoftext|>")
    assert run.tokenizer.end_ids == {end}
    with torch.no_grad():
        model.ln_final.bias += 100 * model.embed.weight[end]  # it would say nothing else
    assert "".join(generate(model, run.tokenizer, "a fish", 20)) == ""


def test_an_imported_run_is_not_resumed() -> None:
    save_model(Path("theirs"), "gpt2")
    with pytest.raises(ValueError, match=r"runs/ours was imported, and has no training.*`--from runs/ours` begins one"):
        resume(import_model("theirs", "ours"))


def test_every_verb_opens_an_imported_run() -> None:
    save_model(Path("theirs"), "qwen3", template=CHAT_TEMPLATE)
    for command, says in {
        "import theirs --name fish": "parameters in runs/fish; try: barreleye chat runs/fish",
        "look fish hello": "as a page",
        "ablate fish hello": "as a page",
        "chat fish --prompt hello --engine torch --seed 1": "",
        "generate fish --max-tokens 5 --prompt hello": "hello",
        "runs": "import theirs",
    }.items():
        done = subprocess.run(
            [sys.executable, "-m", "barreleye", *command.split()], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0 and says in done.stdout, (command, done.stdout, done.stderr)
    for command in ("ablate fish", "train --resume fish", "data report fish"):
        done = subprocess.run(
            [sys.executable, "-m", "barreleye", *command.split()], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 2 and done.stderr.count("\n") == 1, (command, done.stderr)


def test_a_run_is_called_as_its_source_is() -> None:
    save_model(Path("theirs"), "qwen2")
    Path("theirs").rename("Qwen2.5-0.5B")
    assert import_model("Qwen2.5-0.5B").name == "Qwen2.5-0.5B"


def test_what_was_imported_is_not_written_over() -> None:
    save_model(Path("theirs"), "gpt2")
    assert import_model("theirs").path == Path("runs/theirs")
    weights = Path("runs/theirs/model/model.safetensors").read_bytes()
    save_model(Path("theirs"), "qwen2")
    for again in (lambda: import_model("theirs"), lambda: runs.check_free(Path("runs/theirs"))):
        with pytest.raises(ValueError, match=r"runs/theirs already holds a model that was imported; remove it"):
            again()
    assert Path("runs/theirs/model/model.safetensors").read_bytes() == weights


# Chat templates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, QWEN2, QWEN2.replace("\n", "\\n"), "spaced"])
@pytest.mark.parametrize("messages", [["hello"], [" Hello\n", "what? ", "\n\n Why"]])
def test_a_known_template_gives_the_ids_that_transformers_gives(template: str, messages: list[str]) -> None:
    from transformers import AutoTokenizer

    if template == "spaced":  # and with no system turn of its own
        template = QWEN2[: QWEN2.index("{% if loop")] + QWEN2[QWEN2.index("{{'<|im_start|>' +") :]
        template = template.replace("{{'", "{{ '").replace("'}}", "' }}")
    save_model(Path("theirs"), "llama", template=template)
    edit_tokenizer_config()
    run = import_model("theirs", "ours")
    turns = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(messages)]
    theirs = AutoTokenizer.from_pretrained("theirs").apply_chat_template(
        [{"role": m.role, "content": m.content} for m in turns],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    assert encode_chat(turns, run.tokenizer, add_generation_prompt=True)[0] == list(theirs)
    assert (Run("ours").tokenizer.chat == HOUSE) == (template == CHAT_TEMPLATE)


def edit_tokenizer_config() -> None:
    Path("theirs/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_an_unknown_template_is_not_run_and_the_model_is_one_of_text(place: str) -> None:
    save_model(Path("theirs"), "llama", template=STRANGE)
    if place != "chat_template.jinja":
        Path("theirs/chat_template.jinja").unlink()
        Path("theirs", place).write_text(json.dumps({"chat_template": STRANGE}))
    said: list[str] = []
    run = import_model("theirs", "ours", say=said.append)
    assert said == ["its chat template is none of those known (docs/import.md), and is not run",
                    "it is loaded as a model of text: barreleye generate"]  # fmt: skip
    assert run.tokenizer.chat is None and not (run.path / "model" / "chat_template.jinja").exists()
    assert not Path("owned").exists()


@pytest.mark.parametrize("system", ["fish", 'a """fish""" it is', "fish\rwater", 'fish"""\rPARAMETER top_k 1\r'])
@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_system_text_is_taken_only_where_all_programs_read_it_alike(place: str, system: str) -> None:
    """Jinja reads \\r as \\n; in a Modelfile, three quotes at the end of a line (\\r too) end a text."""
    save_model(Path("theirs"), "llama", template=QWEN2)
    template = QWEN2.replace("You are a helpful assistant.", system)
    if place == "chat_template.jinja":
        Path("theirs", place).write_bytes(template.encode())
    else:
        Path("theirs/chat_template.jinja").unlink()
        Path("theirs", place).write_text(json.dumps({"chat_template": template}))
    said: list[str] = []
    run = import_model("theirs", "ours", say=said.append)
    if run.tokenizer.chat is None:
        assert system != "fish" and said[-1] == "it is loaded as a model of text: barreleye generate"
    else:
        assert (run.tokenizer.chat.system, system, said) == ("fish", "fish", [])
        assert 'SYSTEM """fish"""\n' in modelfile("ours.gguf", run.config.model, run.tokenizer.chat)


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("llama", dict(model_type="mixtral"), "model_type 'mixtral' is not supported; there are gpt2, llama, mistral"),
        ("llama", dict(model_type=["llama"]), "model_type"),
        ("llama", dict(rope_parameters="-", rope_scaling=dict(rope_type="llama3", factor=8.0)), "type 'llama3' are"),
        ("llama", dict(rope_parameters="-", rope_scaling=dict(type="linear", factor=2.0)), "of type 'linear' are not"),
        ("llama", dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4)), "of type 'yarn' are not supported"),
        ("llama", dict(rope_parameters=dict(rope_theta=1e4, partial_rotary_factor=0.5)), "partial_rotary_factor = 0.5"),
        ("llama", dict(partial_rotary_factor=0.25), "partial_rotary_factor = 0.25 is not supported"),
        ("llama", dict(hidden_act="gelu"), "hidden_act = 'gelu' is not supported; there are silu"),
        ("llama", dict(quantization_config=dict(bits=4)), "its weights are quantized"),
        ("llama", dict(attention_bias=True), "the weights lack 'model.layers.0.self_attn.q_proj.bias'"),
        ("qwen2", dict(use_sliding_window=True, sliding_window=8), "sliding_window = 8 is shorter"),
        ("qwen2", dict(layer_types=["linear_attention"] * 2), "layer_types: 'linear_attention' is not supported"),
        ("qwen3", dict(attention_bias=True), "attention_bias = True beside normalized queries and keys"),
        ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx = True is not supported"),
        ("gpt2", dict(activation_function="quick_gelu"), "activation_function = 'quick_gelu' is not supported"),
        ("gpt2", dict(n_layer=10**9), "n_layers must be at most 1000"),
        ("gpt2", dict(n_layer=900), "the weights lack 'transformer.h.2.ln_1.weight'"),
        ("gpt2", dict(n_embd=90_000), "has shape"),
        ("gpt2", dict(n_embd="32"), "n_embd must be a whole number, not '32'"),
        ("gpt2", dict(n_head=-4), "n_head must be a whole number, not -4"),
        ("gpt2", dict(n_head=0), "n_heads must be at least 1"),
        ("gpt2", dict(vocab_size=9_999_999), "has shape"),
        ("gpt2", dict(layer_norm_epsilon=float("nan")), "norm_eps must be a finite number"),
        ("llama", dict(max_position_embeddings=10**15), "context_length must be at most"),
        ("llama", dict(num_hidden_layers=1), "has a tensor 'model.layers.1"),
        ("llama", dict(layer_types=5), "layer_types"),
        ("llama", dict(layer_types=["full_attention", None]), "layer_types"),
        ("llama", dict(rope_parameters="-", rope_theta=10**400), "rope_theta"),
        ("llama", dict(rope_parameters=dict(rope_theta=10**400)), "rope_theta"),
        ("llama", dict(rope_parameters=dict(rope_theta=1e4), rope_scaling=dict(type="linear", factor=2.0)), "linear"),
        ("mistral-window", dict(sliding_window=8.0), "sliding_window"),
        ("mistral-window", dict(sliding_window="8"), "sliding_window"),
        ("gpt2", dict(layer_norm_epsilon=10**400), "layer_norm_epsilon"),
    ],
)  # fmt: skip
def test_what_our_model_does_not_compute_is_named(name: str, changes: dict[str, Any], says: str) -> None:
    save_model(Path("theirs"), name)
    edit("theirs/config.json", **changes)
    with pytest.raises(ValueError) as refusal:
        import_model("theirs", "ours")
    assert says in str(refusal.value) and "\n" not in str(refusal.value) and "theirs" in str(refusal.value)
    assert not Path("runs/ours").exists()


def test_a_context_that_no_memory_holds_is_refused_before_it_is_taken() -> None:
    save_model(Path("theirs"), "llama-mlp-biased-wide")
    edit("theirs/config.json", max_position_embeddings=10**6, head_dim=12)
    run = import_model("theirs", "ours", context_length=10**4)
    assert run.config.model.context_length == 10**4


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", "..\\x.safetensors"]
)
def test_an_index_that_points_elsewhere_is_refused(name: str) -> None:
    save_model(Path("theirs"), "gpt2", max_shard_size="20KB")
    Path("theirs/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"transformer.wte.weight": name}}))
    with pytest.raises(ValueError, match="which is not a safetensors file of this folder"):
        import_model("theirs", "ours")


def test_a_tensor_that_is_in_two_files_is_refused() -> None:
    save_model(Path("theirs"), "gpt2", max_shard_size="20KB")
    files = json.loads(Path("theirs/model.safetensors.index.json").read_text())["weight_map"]
    wte = Path("theirs", files["transformer.wte.weight"])
    other = next(file for file in Path("theirs").glob("model-*.safetensors") if file != wte)
    save_file(load_file(other) | {"transformer.wte.weight": load_file(wte)["transformer.wte.weight"] + 1}, other)
    with pytest.raises(ValueError, match=r"transformer\.wte\.weight") as refusal:
        import_model("theirs", "ours")
    assert "\n" not in str(refusal.value) and not Path("runs/ours").exists()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda: Path("theirs/config.json").unlink(), "config.json: there is no such file"),
        (lambda: Path("theirs/config.json").write_text("["), "is not JSON"),
        (lambda: Path("theirs/config.json").write_text("[]"), "is not a JSON object"),
        (lambda: Path("theirs/config.json").write_text("[" * 10**5), "is nested too deeply"),
        (lambda: Path("theirs/config.json").write_bytes(b"\xff"), "is not JSON"),
        (lambda: Path("theirs/model.safetensors").rename("theirs/model.bin"), "it has model.bin, a pickle"),
        (lambda: Path("theirs/tokenizer.json").unlink(), "holds no tokenizer.json; --tokenizer takes"),
        (lambda: Path("theirs/tokenizer.json").write_text("{}"), "not a tokenizer.json"),
        (lambda: save_file({"x": torch.ones(2, dtype=torch.int8)}, "theirs/model.safetensors"), "'x' is I8; only BF16"),
        (lambda: save_file({"x": torch.ones(2)}, "theirs/model.safetensors"), "has a tensor 'x'"),
    ],
)
def test_a_damaged_folder_is_refused(damage: Any, says: str) -> None:
    save_model(Path("theirs"), "gpt2")
    damage()
    with pytest.raises(ValueError) as refusal:
        import_model("theirs", "ours")
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere/at/all", "there is no such folder or file"),
        ("../x", "there is no such folder or file"),
        ("x" * 5000, "cannot be reached"),
        ("a\0b", "there is no such folder or file"),
        ("owner/name", "cannot be reached"),
    ],
)
def test_a_source_that_is_not_there(source: str, says: str) -> None:
    with pytest.raises(ValueError) as refusal:
        import_model(source, "ours")
    assert says in str(refusal.value) or "is no name on the Hub" in str(refusal.value)
    assert "\n" not in str(refusal.value)


# nanoGPT -----------------------------------------------------------------------------------------------------------

TEXT = "the fish swims.\nit is warm?\n"
ARGS = dict(n_layer=2, n_head=4, n_embd=32, block_size=24, vocab_size=len(set(TEXT)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
@torch.no_grad()
def test_a_nanogpt_by_characters(bias: bool, compiled: bool) -> None:
    Path("input.txt").write_text(TEXT)
    weights = save_nanogpt(Path("theirs"), len(set(TEXT)), bias, compiled)
    run = import_model("theirs/ckpt.pt", "ours", text="input.txt")
    tokens = torch.tensor(run.tokenizer.encode("the fish\nis"))
    assert tokens.tolist() == [sorted(set(TEXT)).index(c) for c in "the fish\nis"]
    assert_same_logits(run.load_model()(tokens[None])[0], decoder(weights, NANOGPT, 4, nn.functional.gelu, tokens))
    assert run.config.model.bias  # zeros, so that GPT2LMHeadModel loads it too


def test_a_nanogpt_by_characters_needs_its_text() -> None:
    Path("input.txt").write_text(TEXT + "é")
    save_nanogpt(Path("theirs"), len(set(TEXT)))
    with pytest.raises(ValueError, match=r"meta\.pkl, a pickle, which could run code and is not read; --text takes"):
        import_model("theirs", "ours")
    with pytest.raises(ValueError, match=r"input\.txt: has 15 characters, theirs/ckpt\.pt 14; give the text"):
        import_model("theirs", "ours", text="input.txt")


def test_a_nanogpt_of_gpt2_tokens_takes_them_from_a_folder() -> None:
    words = tokenizer()
    words.save("tokenizer.json")
    save_nanogpt(Path("theirs"), words.get_vocab_size() + 3)
    run = import_model("theirs", "ours", tokenizer=".")
    assert run.tokenizer.vocab_size == run.config.model.vocab_size == words.get_vocab_size()
    with pytest.raises(ValueError, match="give --tokenizer or --text, not both"):
        import_model("theirs", "other", tokenizer=".", text="x")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (dict(model_args=dict(n_layer=2)), "n_head = None; it must be a whole number"),
        (dict(model_args=ARGS | dict(use_rmsnorm=True)), "a fork"),
        (dict(model_args=ARGS | dict(n_layer=1)), "has a tensor"),
        (dict(model_args=ARGS | dict(block_size=10**6)), "is of shape"),
        (dict(model={}), "the weights lack 'transformer.wte.weight'"),
        (dict(model={"transformer.wte.weight": torch.ones(14, 32).to_sparse()}), "_rebuild_sparse_tensor, of which no"),
        (dict(path=Path("x")), "nothing else in it is run"),
        (dict(model_args=1), "num_hidden_layers = None"),
        (dict(model_args=1, config=1), "as GuppyLM writes them"),
    ],
)  # fmt: skip
def test_a_nanogpt_that_does_not_fit(more: dict[str, Any], says: str) -> None:
    Path("input.txt").write_text(TEXT)
    save_nanogpt(Path("theirs"), len(set(TEXT)), **more)
    with pytest.raises(ValueError, match=says) as refusal:
        import_model("theirs", "ours", text=None if more.get("model_args") == 1 else "input.txt")
    assert "\n" not in str(refusal.value) and "theirs/ckpt.pt" in str(refusal.value)


@pytest.mark.parametrize("name", ["transformer.h.0.attn.more", "transformer.h.2.ln_1.weight", "head.weight"])
def test_a_nanogpt_with_a_tensor_too_many(name: str) -> None:
    Path("input.txt").write_text(TEXT)
    weights = save_nanogpt(Path("theirs"), len(set(TEXT)))
    save_nanogpt(Path("theirs"), len(set(TEXT)), model=weights | {name: torch.ones(32)})
    with pytest.raises(ValueError, match=r"theirs/ckpt\.pt: ") as refusal:
        import_model("theirs", "ours", text="input.txt")
    assert "\n" not in str(refusal.value) and not Path("runs/ours").exists()


def test_a_nanogpt_without_flash_attention_has_masks() -> None:
    Path("input.txt").write_text(TEXT)
    weights = save_nanogpt(Path("theirs"), len(set(TEXT)), compiled=True)
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(24, 24).tril().view(1, 1, 24, 24) for i in range(2)}
    held = {"_orig_mod." + name: tensor for name, tensor in (weights | masks).items()}
    save_nanogpt(Path("theirs"), len(set(TEXT)), model=held)
    ours = import_model("theirs", "ours", text="input.txt").load_model().state_dict()
    assert torch.equal(ours["embed.weight"], weights["transformer.wte.weight"])


def test_options_that_a_checkpoint_has_no_use_for() -> None:
    save_guppy(Path("theirs"), "hub")
    Path("input.txt").write_text(TEXT)
    with pytest.raises(ValueError, match="--text is for a nanoGPT"):
        import_model("theirs", "ours", text="input.txt")
    with pytest.raises(ValueError, match=r"--context-length 999: the model knows \d+ positions"):
        import_model("theirs", "ours", context_length=999)
    whole, short = import_model("theirs", "whole"), import_model("theirs", "short", context_length=8)
    tokens = torch.arange(8).view(1, 8)
    assert short.config.model.context_length == 8
    assert torch.equal(short.load_model()(tokens), whole.load_model()(tokens))


# GuppyLM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["hub", "training"])
@torch.no_grad()
def test_a_guppy(layout: str) -> None:
    weights = save_guppy(Path("theirs"), layout)
    if layout == "hub":
        run, words = import_model("theirs", "ours"), "theirs/tokenizer.json"
    else:
        with pytest.raises(ValueError, match=r"holds no tokenizer\.json; --tokenizer takes where GuppyLM's data lie"):
            import_model("theirs/checkpoints", "ours")
        words = "theirs/data/tokenizer.json"
        run = import_model("theirs/checkpoints", "ours", tokenizer="theirs/data")
    prompt = "<|im_start|>user\nwhat do you eat?<|im_end|>\n<|im_start|>assistant\n"
    theirs = tokenizers.Tokenizer.from_file(words).encode(prompt).ids
    ours, _ = encode_chat([Message("user", "what do you eat?")], run.tokenizer, add_generation_prompt=True)
    assert ours == theirs
    tokens = torch.tensor(ours)
    assert_same_logits(run.load_model()(tokens[None])[0], decoder(weights, GUPPY, 4, nn.functional.relu, tokens))
    with pytest.raises(ValueError, match="has not seen '🐟'"):
        run.tokenizer.encode("🐟")
