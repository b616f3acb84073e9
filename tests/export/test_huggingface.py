"""The model folder of a run in transformers, whichever is installed (`make test-peers`: the latest 4 and 5)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from barreleye.data.chat_format import Message, encode_chat
from barreleye.export.check import ask, figures
from barreleye.export.huggingface import export_huggingface
from barreleye.export.peers import Transformers, answers
from barreleye.export.plain import export_plain
from barreleye.model.huggingface import architecture
from barreleye.run import Run
from barreleye.training import grow as growing
from barreleye.training.card import model_card
from barreleye.training.grow import grow

TINY: dict[str, Any] = dict(n_layers=2, n_heads=4, d_model=32, d_ff=64, steps=3, batch_tokens=256, quiet=True)
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": dict(preset="fish"),
    "llama": dict(preset="modern", n_kv_heads=2, rope_theta=5e5),
    "llama-biased": dict(preset="modern", n_kv_heads=2, bias=True, head_dim=12),
    "qwen3": dict(preset="modern", n_kv_heads=2, qk_norm=True),
    "gpt2-text": dict(activation="relu2"),
}
EVERY = pytest.mark.parametrize("name", PRESETS)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder, made = tmp_path_factory.mktemp("runs"), {}
    (folder / "text.txt").write_text("the fish swims by the crab, and 12 snails look on.\n" * 40)
    for name, options in PRESETS.items():
        source: dict[str, Any] = dict(conversations=60, vocab=300, context_length=64)
        if name == "gpt2-text":
            source = dict(text=folder / "text.txt", context_length=32)
        made[name] = grow(**(TINY | source | options), out=folder / name)
        fill_at_random(made[name])
    return made


def fill_at_random(run: Run) -> None:
    """After three steps the blocks are nearly the identity: nothing may be left out unseen."""
    weights, generator = run.load_model().state_dict(), torch.Generator().manual_seed(0)
    for name in weights:
        weights[name] = 0.3 * torch.randn(weights[name].shape, generator=generator)
    weights["unembed.weight"] = weights["embed.weight"]
    run.save_model(weights)


@EVERY
def test_transformers_says_what_the_run_says(grown: dict[str, Run], name: str) -> None:
    # In this process, as transformers takes seconds to import; test_check.py asks it in one of its own.
    asked = ask(grown[name])
    said = answers(Transformers(grown[name].path / "model"), asked.tokens_BT, [text.encode() for text in asked.strings])
    assert str(said["version"]) == transformers.__version__
    found = figures(asked, said | {"load_seconds": 0})
    assert found["difference"] < 1e-4 and found["agreement"] == 1.0 and found["compared"] == 1000, found
    assert found["same_ids"] == 1.0


@EVERY
def test_nothing_is_missing_and_nothing_made_up(grown: dict[str, Run], name: str) -> None:
    folder = grown[name].path / "model"
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert theirs.config.model_type == name.partition("-")[0] == architecture(grown[name].config.model)
    ours = grown[name].load_model()
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "gpt2-text"])
def test_a_chat_in_transformers(grown: dict[str, Run], name: str) -> None:
    run = grown[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.path / "model")
    assert isinstance(tokenizer, transformers.PreTrainedTokenizerFast)
    assert tokenizer.model_max_length == run.config.model.context_length
    chat = [{"role": "user", "content": "HELLO fish"}, {"role": "assistant", "content": "blub."}]
    chat.append({"role": "user", "content": " why are you blue?\n"})
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    messages = [Message(turn["role"], turn["content"]) for turn in chat]
    assert list(ids) == encode_chat(messages, run.tokenizer, add_generation_prompt=True)[0]
    assert tokenizer.decode(ids) == run.tokenizer.decode(ids)
    talk = transformers.pipeline("text-generation", model=str(run.path / "model"), device="cpu")
    assert talk.model.generation_config.do_sample and talk.model.generation_config.temperature == 0.7
    assert talk.model.generation_config.eos_token_id == tokenizer.eos_token_id == run.tokenizer.id_of("<|im_end|>")
    reply = talk(chat[:1], max_new_tokens=5)[0]["generated_text"]
    assert reply[0] == chat[0] and reply[1]["role"] == "assistant"


def test_a_text_in_transformers(grown: dict[str, Run]) -> None:
    run = grown["gpt2-text"]
    go_on = transformers.pipeline("text-generation", model=str(run.path / "model"), device="cpu")
    text = go_on("the fish", max_new_tokens=5, do_sample=False)[0]["generated_text"]
    assert text.startswith("the fish") and len(text) == len("the fish") + 5
    assert go_on.tokenizer("the fish")["input_ids"] == run.tokenizer.encode("the fish")


def test_the_folder_loads_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as there is a run at all, before the first step and its save."""

    class Enough(Exception):
        pass

    def look(run: Run, *rest: object) -> Run:
        transformers.AutoModelForCausalLM.from_pretrained(run.path / "model")
        transformers.AutoTokenizer.from_pretrained(run.path / "model")
        raise Enough

    monkeypatch.setattr(growing, "_learn", look)
    with pytest.raises(Enough):
        grow("fish", out=tmp_path / "run", conversations=60, vocab=300, context_length=64, **TINY)


def test_a_model_that_is_none_of_theirs_is_refused_by_name(tmp_path: Path) -> None:
    options = TINY | dict(norm="rmsnorm", activation="swiglu")
    run = grow("fish", out=tmp_path / "run", conversations=60, vocab=300, context_length=64, **options)
    with pytest.raises(ValueError, match="computes norm = 'rmsnorm', activation = 'swiglu', so this export is not"):
        export_huggingface(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_is_copied_whole(grown: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path) -> bytes:
        raise AssertionError(f"{file} is read into memory")

    run = grown["llama"]
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        files = export_huggingface(run, tmp_path / "out")
        export_plain(run, tmp_path / "plain")
    assert {file.name for file in files} == {file.name for file in (run.path / "model").iterdir()}
    assert all(file.read_bytes() == (run.path / "model" / file.name).read_bytes() for file in files)


# The model card ----------------------------------------------------------------------------------------------------


@EVERY
def test_the_card_has_the_figures_of_the_run(grown: dict[str, Run], name: str) -> None:
    run = grown[name]
    card = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    about = yaml.safe_load(card.split("---")[1])
    assert about["pipeline_tag"] == "text-generation" and about["library_name"] == "transformers"
    assert ("conversational" in about["tags"]) == (name != "gpt2-text")
    score = next(line for line in reversed(run.metrics()) if "held_out" in line)["held_out"]["all"]
    assert f"loss {score['loss']:.3f}, {score['bits_per_byte']:.3f} bits per byte ({score['tokens']:,} tokens" in card
    parameters = sum(p.numel() for p in run.load_model().parameters())
    assert f"| parameters | {parameters:,} |" in card and f"| kind | `{about_kind(name)}`" in card
    assert str(run.path.parent) not in card


def about_kind(name: str) -> str:
    return name.partition("-")[0]


def test_the_card_shows_an_evaluation_only_while_it_is_of_these_weights(tmp_path: Path) -> None:
    run = grow("fish", out=tmp_path / "run", conversations=60, vocab=300, context_length=64, **TINY)
    figure = dict(value=0.25, low=0.2, high=0.3)
    scores = {"scores": {"sets": {"replies": {"model": figure}}}}
    (run.path / "reports").mkdir(exist_ok=True)
    for step, shown in ((3, True), (2, False)):
        (run.path / "reports" / "evaluation.json").write_text(json.dumps({"step": step, "parts": scores}))
        assert ("| bits per byte, replies | 0.250 [0.200, 0.300] |" in model_card(run)) == shown
    for damaged in ("", "[]", '{"step": 3}', '{"step": 3, "parts": {"scores": 1}}'):
        (run.path / "reports" / "evaluation.json").write_text(damaged)
        assert "## Evaluation" not in model_card(run)


def test_what_a_model_says_is_no_markup(tmp_path: Path) -> None:
    run = grow("fish", out=tmp_path / "run", conversations=60, vocab=300, context_length=64, **TINY)
    with (run.path / "metrics.jsonl").open("a") as file:
        sample = {"prompt": "a``b ` c", "reply": "<script>|x|</script>\n# no"}
        file.write(json.dumps({"step": 4, "samples": [sample]}) + "\n")
    card = model_card(Run(run.path))
    assert "> ``` a``b ` c ```" in card and "` <script>|x|</script> # no `" in card
