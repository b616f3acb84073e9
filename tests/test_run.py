import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from barreleye import run as runs
from barreleye.config import Config, DataConfig, ModelConfig, TrainConfig
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, Conversation, Message, chat_texts
from barreleye.data.chat_template import CHAT_TEMPLATE
from barreleye.data.corpus import Corpus
from barreleye.data.tokenizer import Tokenizer, learn_bpe, learn_characters
from barreleye.files import PARTIAL
from barreleye.model.transformer import Transformer
from barreleye.run import Run, create, find, list_runs

AWKWARD = 'é🐟 \u2028 \x85 \\n \x1c "quoted"\r\n<|im_end|>'
CHATS = [
    Conversation((Message("system", "be a fish"), Message("user", "hello"), Message("assistant", "blub")), "greeting"),
    Conversation((Message("user", "why?", True), Message("assistant", AWKWARD, True)), 'a "topic"'),
]
TEXT = "\ufeffthe fish\r\nswam\u2028up\x0c\n\n"
CHAT_CORPUS, TEXT_CORPUS = Corpus(CHATS, CHATS[:1], {"overlap": 0}), Corpus(TEXT, "up\r\n", {"overlap": 0})


def configure(tokenizer: Tokenizer, kind: str = "persona", **knobs: Any) -> Config:
    shape: dict[str, Any] = dict(n_layers=1, n_heads=2, d_model=16, d_ff=32, context_length=16)
    model = ModelConfig(**(shape | knobs), vocab_size=tokenizer.vocab_size)
    return Config(DataConfig(kind=kind), model, TrainConfig(steps=30))


BPE = learn_bpe(chat_texts(CHATS), 300, CHAT_SPECIAL_TOKENS)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create(tmp_path / "fish", configure(BPE), BPE, CHAT_CORPUS)


def tensors(value: float = 0.0) -> dict[str, torch.Tensor]:
    return {"model.a": torch.full((3,), value), "counters": torch.tensor([int(value), 0])}


# The folder --------------------------------------------------------------------------------------------------------


def test_a_new_run_holds_all_that_was_asked(run: Run, tmp_path: Path) -> None:
    files = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    assert files == {
        "config.toml", "data/train.jsonl", "data/held_out.jsonl", "data/report.json", "data/words.json",
        "model/config.json", "model/tokenizer.json", "model/tokenizer_config.json", "model/generation_config.json",
        "model/chat_template.jinja", "model/README.md",
    }  # fmt: skip
    opened = Run(run.path)
    assert opened.config == configure(BPE) and opened.tokenizer == BPE and opened.name == "fish"
    assert (run.path / "model" / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert (opened.step, opened.states(), opened.metrics(), opened.is_live) == (0, [], [], False)
    assert repr(opened) == f"Run({str(run.path)!r}, step 0 of 30)"


def test_nothing_in_it_is_a_pickle_and_all_of_it_is_data(run: Run) -> None:
    run.save_model(Transformer(run.config.model).state_dict())
    run.save_state(0, tensors())
    kinds = {p.suffix for p in run.path.rglob("*") if p.is_file()}
    assert kinds == {".toml", ".json", ".jsonl", ".jinja", ".md", ".safetensors"}


def test_the_corpus_is_read_back_as_it_was(run: Run, tmp_path: Path) -> None:
    """To the character: what a resumed training reads must be what the first one read."""
    assert Run(run.path).corpus() == CHAT_CORPUS
    (run.path / "config.toml").unlink()  # as if the making of it had been interrupted, and then another was asked for
    tokenizer = learn_characters(TEXT)
    text = create(run.path, configure(tokenizer, "text"), tokenizer, TEXT_CORPUS)
    assert Run(text.path).corpus() == TEXT_CORPUS


def test_what_a_killed_one_left_in_the_model_folder_is_not_of_the_next(run: Run) -> None:
    run.save_model(Transformer(run.config.model).state_dict())
    tokenizer = learn_characters(TEXT)
    text = create(run.path, configure(tokenizer, "text"), tokenizer, TEXT_CORPUS)
    assert not {"chat_template.jinja", "model.safetensors"} & {file.name for file in (text.path / "model").iterdir()}


def card(path: Path, **data: str) -> str:
    """What stands on the model card of a run just made."""
    config = dataclasses.replace(configure(BPE), data=DataConfig(**data))
    run = create(path, config, BPE, None if config.data.kind == "import" else CHAT_CORPUS)
    return (run.path / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("source", "name"), [("/home/me/gpt2", "gpt2"), ("owner/gpt2", "gpt2"), (".", "a folder"), ("..", "a folder")]
)
def test_the_card_of_an_imported_model_claims_nothing_of_its_training(tmp_path: Path, source: str, name: str) -> None:
    text = card(tmp_path / "theirs", kind="import", source=source)
    assert f"# theirs\n\nA language model imported into Barreleye from {name}; its training is not known here." in text
    assert "/home" not in text and "grown" not in text and "scratch" not in text


def test_the_first_card_names_its_sheets_and_not_where_they_lie(tmp_path: Path) -> None:
    text = card(tmp_path / "both", kind="mix", source="/home/me/sheets/myfish.yaml:0.5,cat:0.5")
    assert "grown with Barreleye on several character sheets (myfish.yaml 50%, cat 50%), from scratch" in text
    assert "/home" not in text and "library_name: transformers" in text


def test_a_text_model_has_no_chat_template(tmp_path: Path) -> None:
    tokenizer = learn_characters(TEXT)
    run = create(tmp_path / "a", configure(tokenizer, "text"), tokenizer, TEXT_CORPUS)
    assert not (run.path / "model" / "chat_template.jinja").exists()
    assert run.tokenizer == tokenizer


def test_a_folder_that_holds_a_run_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    with (
        run.lock(),
        pytest.raises(ValueError, match="already holds a run"),
    ):  # which is about to save for the first time
        create(run.path, configure(BPE), BPE, CHAT_CORPUS)
    run.save_state(0, tensors())
    with pytest.raises(ValueError, match=r"already holds a run; `--resume .*fish` goes on with it"):
        create(run.path, configure(BPE), BPE, CHAT_CORPUS)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file; choose another --out"):
        create(tmp_path / "file", configure(BPE), BPE, CHAT_CORPUS)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_cut_short_may_be_made_again(run: Run) -> None:
    assert create(run.path, configure(BPE), BPE, CHAT_CORPUS).states() == []  # killed before the first save
    (run.path / "config.toml").unlink()  # it is written last
    with pytest.raises(ValueError, match="there is no run"):
        Run(run.path)
    assert create(run.path, configure(BPE), BPE, CHAT_CORPUS).tokenizer == BPE


# Finding -----------------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = create(Path("runs") / "fish", configure(BPE), BPE, CHAT_CORPUS)
    for given in ("fish", "runs/fish", Path("runs/fish"), tmp_path / "runs" / "fish"):
        assert find(given).resolve() == made.path.resolve() and Run(given).name == "fish"
    monkeypatch.chdir(made.path)
    assert Run(".").name == "fish"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there is no run at 'cat' \(runs here: fish\)"):
        find("cat")
    with pytest.raises(ValueError, match="there is no run at"):
        find(tmp_path / "runs")


def test_runs_are_listed_newest_first_and_broken_ones_left_out(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "runs") == []
    for age, name in enumerate(("old", "new", "broken")):
        made = create(tmp_path / "runs" / name, configure(BPE), BPE, CHAT_CORPUS)
        os.utime(made.path / "config.toml", (1000 + age, 1000 + age))
    (made.path / "config.toml").write_text("[train]\nsteps = -1\n")
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "file").write_text("")
    assert [run.name for run in list_runs(tmp_path / "runs")] == ["new", "old"]


# Weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "knobs", [{}, dict(tie_embeddings=False, qk_norm=True), dict(positions="rope", norm="rmsnorm", activation="swiglu",
              bias=False, n_kv_heads=1)], ids=["gpt2", "ours", "llama"],
)  # fmt: skip
def test_weights_are_read_back_to_the_bit(tmp_path: Path, knobs: dict[str, Any]) -> None:
    run = create(tmp_path / "a", configure(BPE, **knobs), BPE, CHAT_CORPUS)
    model = Transformer(run.config.model)
    run.save_model(model.state_dict())
    loaded = Run(run.path).load_model()
    assert not loaded.training
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_half_precision_weights_are_saved_in_full(run: Run) -> None:
    run.save_model(Transformer(run.config.model).bfloat16().state_dict())
    assert {p.dtype for p in run.load_model().parameters()} == {torch.float32}


def test_missing_and_damaged_weights_are_refused(run: Run) -> None:
    file = run.path / "model" / "model.safetensors"
    with pytest.raises(ValueError, match=r"model\.safetensors: there is no such file"):
        run.load_model()
    run.save_model(Transformer(run.config.model).state_dict())
    whole = file.read_bytes()
    for damaged in (whole[:-4], whole[:100], b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors: is not a whole safetensors file"):
            run.load_model()
    other = create(run.path.with_name("b"), configure(BPE, d_model=32), BPE, CHAT_CORPUS)
    (other.path / "model" / "model.safetensors").write_bytes(whole)
    with pytest.raises(ValueError, match=r"b.model.model\.safetensors: 'transformer\..*has shape") as raised:
        other.load_model()
    assert "\n" not in str(raised.value)


# States ------------------------------------------------------------------------------------------------------------


def test_the_last_two_states_are_kept(run: Run) -> None:
    for step in (0, 10, 20, 30, 130):
        run.save_state(step, tensors(step))
        assert run.step == step
    assert run.states() == [30, 130]
    step, kept = run.load_state()
    assert step == 130 and torch.equal(kept["model.a"], torch.full((3,), 130.0))


def test_a_state_saved_again_replaces_itself(run: Run) -> None:
    for value in (1.0, 2.0):
        run.save_state(7, tensors(value))
    assert run.states() == [7] and run.load_state()[1]["model.a"][0] == 2.0


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "no manifest"])
def test_a_damaged_newest_state_gives_way_to_the_older(run: Run, damage: str) -> None:
    for step in (10, 20):
        run.save_state(step, tensors(step))
    file = run.path / "state" / "20" / "state.safetensors"
    data = file.read_bytes()
    match damage:
        case "flip":
            file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "cut":
            file.write_bytes(data[: len(data) // 2])
        case "delete":
            file.unlink()
        case _:
            (file.parent / "manifest.json").unlink()
    step, kept = run.load_state()
    assert step == 10 and kept["model.a"][0] == 10.0
    run.save_state(15, tensors(15))  # the training goes on from there; the damaged one must not push out the good
    assert run.states() == [10, 15] and run.load_state()[0] == 15


def test_no_state_to_resume_from_says_why(run: Run) -> None:
    with pytest.raises(ValueError, match=r"fish: no saved state to resume from: there is none"):
        run.load_state()
    run.save_state(5, tensors())
    (run.path / "state" / "5" / "state.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no saved state to resume from: .*state\.safetensors: is damaged"):
        run.load_state()


def test_what_a_killed_save_left_behind_is_not_a_state(run: Run) -> None:
    run.save_state(10, tensors(10))
    partial = run.path / "state" / ".20.partial"
    partial.mkdir()
    (partial / "state.safetensors").write_bytes(b"half")
    assert run.states() == [10] and run.load_state()[0] == 10
    run.save_state(20, tensors(20))
    assert run.load_state()[0] == 20 and not partial.exists()


# The record --------------------------------------------------------------------------------------------------------


def test_the_record_is_forgotten_after_a_step_and_a_torn_line_with_it(run: Run) -> None:
    lines = [{"step": n, "loss": 1.0 / (n + 1), "samples": [{"prompt": "é🐟", "reply": "\u2028"}]} for n in range(6)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (run.path / "metrics.jsonl").write_text(text + '{"step": 6, "lo', encoding="utf-8")
    assert run.metrics() == lines
    run.go_back_to(3)
    assert run.metrics() == lines[:4]
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"loss": 5.0}\n{"step": 4}\n')
    assert run.metrics() == [*lines[:4], {"step": 4}]


def test_a_record_that_is_not_there_is_empty(run: Run) -> None:
    run.go_back_to(3)
    assert run.metrics() == []


def test_snapshots_after_a_step_and_half_written_folders_are_forgotten_with_the_record(run: Run) -> None:
    for step in (0, 2, 3, 4, 8):
        (run.path / "snapshots" / str(step)).mkdir(parents=True)
    torn = [run.path / folder / f".5{PARTIAL}" for folder in ("snapshots", "state")]
    for folder in torn:
        folder.mkdir(parents=True)
    run.go_back_to(3)
    assert run.snapshots() == [0, 2, 3] and not any(folder.exists() for folder in torn)


@pytest.mark.parametrize(
    ("there", "planned", "kept"),
    [
        ([0, 1, 2, 4, 6, 8, 10], [0, 1, 2, 4, 8, 16, 24], [0, 1, 2, 4, 8]),
        ([0, 1, 2, 4, 6, 8, 10], [0, 1, 7, 20], [0, 1, 6]),
        ([0, 1, 2], [0, 1, 2, 4], [0, 1, 2]),
        ([], [0, 1], []),
    ],
)
def test_a_longer_plan_keeps_the_nearest_snapshots(run: Run, there: list, planned: list, kept: list) -> None:
    for step in there:
        (run.path / "snapshots" / str(step)).mkdir(parents=True)
    run.thin_snapshots(planned)
    assert run.snapshots() == kept


# The lock ----------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from barreleye.run import Run
with Run(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_training_at_a_time_writes_into_a_run(run: Run) -> None:
    assert not run.is_live and not (run.path / "lock").exists()  # looking leaves no trace
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdin is not None
    assert other.stdout.readline() == "held\n"
    assert run.is_live
    with pytest.raises(ValueError, match=r"fish: another training is writing here; wait for it"), run.lock():
        pass
    other.kill()
    other.communicate()
    assert not run.is_live
    with run.lock():
        assert Run(run.path).is_live
        with pytest.raises(ValueError, match="another training"), Run(run.path).lock():
            pass
    assert not run.is_live


def test_reading_a_runs_figures_does_not_wait_for_torch(run: Run) -> None:
    code = (
        "import sys; from barreleye.run import Run; run = Run(sys.argv[1]); run.metrics(), run.step, run.corpus();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(run.path)], check=True)


def test_where_runs_lie() -> None:
    assert Path("runs") == runs.RUNS


@pytest.mark.parametrize("content", ["[]", "null", '{"hello": "x"}', '{"hello": 1', "[" * 100_000])
def test_a_damaged_list_of_words_is_named(run: Run, content: str) -> None:
    file = run.path / "data" / "words.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"words\.json: is no list of words"):
        run.spelling()
    file.unlink()
    assert run.spelling()("waht?") == "waht?"
