"""push and import, as commands, against a Hub on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

from barreleye.export.hub import hub_errors
from barreleye.run import Run
from barreleye.training.grow import grow

sys.path.insert(0, str(Path(__file__).parent))
from fake_hub import TOKEN, FakeHub, fake_hub
from foreign import save_guppy, save_model, save_nanogpt

TINY = dict(n_layers=1, n_heads=2, d_model=16, d_ff=32, context_length=48, steps=2, batch_tokens=128, quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return grow("fish", out=tmp_path_factory.mktemp("runs") / "fish", conversations=60, vocab=300, **TINY)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


def barreleye(folder: Path, address: str, *words: str, token: str = TOKEN) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= dict(HF_ENDPOINT=address, HF_HOME=str(folder / "home"), HF_HUB_DISABLE_XET="1")
    environment |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-m", "barreleye", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_a_run_is_pushed_with_its_cards_and_imported_again(tmp_path: Path, hub: FakeHub, run: Run) -> None:
    done = barreleye(tmp_path, hub.address, "push", str(run.path), "me/barry", "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{hub.address}/datasets/me/barry", f"{hub.address}/me/barry"]
    model, data = hub.repos["models", "me/barry"], hub.repos["datasets", "me/barry"]
    assert set(hub.private.values()) == {True}
    folder = run.path / "model"
    assert model.keys() == {file.name for file in folder.iterdir()}
    assert all(model[file.name] == file.read_bytes() for file in folder.iterdir() if file.name != "README.md")
    assert data.keys() == {"README.md"} | {file.name for file in (run.path / "data").glob("*.jsonl")}
    assert data["train.jsonl"] == (run.path / "data" / "train.jsonl").read_bytes()
    card = yaml.safe_load(model["README.md"].decode().split("---")[1])
    assert card["datasets"] == ["me/barry"] and card["library_name"] == "transformers"
    about = yaml.safe_load(data["README.md"].decode().split("---")[1])
    files = {each["path"] for each in about["configs"][0]["data_files"]}
    assert files == data.keys() - {"README.md"}
    assert f"| train | {len(run.corpus().train):,} |" in data["README.md"].decode()
    assert f"the training of [me/barry]({hub.address}/me/barry)." in data["README.md"].decode()
    assert hub.asked.count("POST /api/repos/create") == 2

    done = barreleye(tmp_path, hub.address, "import", "me/barry", "--name", "back")
    assert done.returncode == 0, done.stderr
    back = Run(tmp_path / "runs" / "back")
    assert back.tokenizer == run.tokenizer and back.tokenizer.chat == run.tokenizer.chat
    ours, theirs = run.load_weights(), back.load_weights()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)


@pytest.mark.parametrize(
    ("words", "token", "says"),
    [
        (["import", "me/nobody"], TOKEN, "answered 404; check the name, or log in"),
        (["push", "RUN", "me/barry"], "hf_wrong", "answered 401; check the name, or log in: hf auth login"),
        (["push", "RUN", "me/barry"], "", "log in: hf auth login"),
        (["push", "RUN", "a/b/c"], TOKEN, "is no name on the Hub"),
        (["import", "me/--x"], TOKEN, "is no name on the Hub"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_one_line(
    tmp_path: Path, hub: FakeHub, run: Run, words: list[str], token: str, says: str
) -> None:
    done = barreleye(tmp_path, hub.address, *[str(run.path) if word == "RUN" else word for word in words], token=token)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not any(hub.repos.values())


def test_a_hub_that_is_not_there(tmp_path: Path, run: Run) -> None:
    for words in (["import", "me/barry"], ["push", str(run.path), "me/barry"]):
        done = barreleye(tmp_path, "http://127.0.0.1:9", *words)
        assert done.returncode == 2 and "cannot be reached" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1


def test_chats_and_texts_stay_here_unless_told(tmp_path: Path, hub: FakeHub) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the fish swims by the crab\n" * 40)
    run = grow(text=text, out=tmp_path / "run", **TINY)
    assert barreleye(tmp_path, hub.address, "push", str(run.path), "me/text").returncode == 0
    assert {kind for kind, _ in hub.repos} == {"models"}
    assert barreleye(tmp_path, hub.address, "push", str(run.path), "me/text", "--data").returncode == 0
    assert hub.repos["datasets", "me/text"].keys() == {"README.md", "train.txt", "held_out.txt"}


# What is fetched ---------------------------------------------------------------------------------------------------

SMALL = {"config.json", "generation_config.json", "tokenizer.json"}


@pytest.mark.parametrize("size", ["1MB", "20KB"])
def test_of_a_model_only_its_own_weights_are_fetched(tmp_path: Path, hub: FakeHub, size: str) -> None:
    (tmp_path / "theirs").mkdir()
    save_model(tmp_path / "theirs", "gpt2", max_shard_size=size)
    own = {file.name for file in (tmp_path / "theirs").iterdir()}
    others = [
        "consolidated.safetensors",
        "onnx/model.safetensors",
        "model-a/b.safetensors",
        "optimizer.pt",
        "vocab.json",
    ]
    hub.add("me/theirs", tmp_path / "theirs", **{name: name.encode() for name in (*others, "pytorch_model.bin")})
    done = barreleye(tmp_path, hub.address, "import", "me/theirs")
    assert done.returncode == 0, done.stderr
    assert hub.fetched() == own and done.stderr == ""


@pytest.mark.parametrize(
    ("changes", "words", "says"),
    [
        (dict(model_type="mixtral"), [], "model_type 'mixtral' is not supported"),
        (dict(n_embd="32"), [], "n_embd must be a whole number"),
        (dict(n_embd=90_000, n_layer=900), [], "take a smaller one"),
        ({}, ["--context-length", "41"], "the model knows 40 positions"),
        ({}, ["--text", "x"], "--text is for a nanoGPT"),
        (None, [], "holds no tokenizer.json"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_weights_are_fetched(
    tmp_path: Path, hub: FakeHub, changes: dict[str, Any] | None, words: list[str], says: str
) -> None:
    (tmp_path / "theirs").mkdir()
    save_model(tmp_path / "theirs", "gpt2")
    if changes is None:
        (tmp_path / "theirs" / "tokenizer.json").unlink()
    else:
        file = tmp_path / "theirs" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    hub.add("me/theirs", tmp_path / "theirs", **{"pytorch_model.bin": b"large"})
    done = barreleye(tmp_path, hub.address, "import", "me/theirs", *words)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert hub.fetched() <= SMALL


def test_of_a_tokenizer_no_weights_are_fetched(tmp_path: Path, hub: FakeHub) -> None:
    (tmp_path / "theirs").mkdir()
    save_model(tmp_path / "theirs", "gpt2")
    hub.add("me/theirs", tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").unlink()
    done = barreleye(tmp_path, hub.address, "import", "theirs", "--tokenizer", "me/theirs")
    assert done.returncode == 0, done.stderr
    assert hub.fetched() == {"tokenizer.json"}


@pytest.mark.parametrize("house", ["guppy", "nanogpt"])
def test_the_ancestors_come_from_the_hub_too(tmp_path: Path, hub: FakeHub, house: str) -> None:
    (tmp_path / "theirs").mkdir()
    if house == "guppy":
        save_guppy(tmp_path / "theirs", "hub")
        words = []
    else:
        (tmp_path / "input.txt").write_text("the fish swims\n")
        save_nanogpt(tmp_path / "theirs", len(set("the fish swims\n")))
        words = ["--text", "input.txt"]
    hub.add("me/theirs", tmp_path / "theirs", **{"training_args.bin": b"large", "other.pt": b"large"})
    done = barreleye(tmp_path, hub.address, "import", "me/theirs", *words)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert hub.fetched() == {file.name for file in (tmp_path / "theirs").iterdir()}


def test_a_repository_without_a_model(tmp_path: Path, hub: FakeHub) -> None:
    hub.repos["models", "me/notes"], hub.private["models", "me/notes"] = {"README.md": b"x"}, False
    done = barreleye(tmp_path, hub.address, "import", "me/notes")
    assert done.returncode == 2 and "me/notes: holds neither a model nor a checkpoint (best_model.pt" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_a_download_shows_how_far_it_is_on_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    enable_progress_bars()
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal))
    with hub_errors("me/barry"):
        assert are_progress_bars_disabled() != terminal


# What is pushed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_what_is_public_is_not_taken_for_private(tmp_path: Path, hub: FakeHub, run: Run, kind: str) -> None:
    hub.repos[kind, "me/barry"], hub.private[kind, "me/barry"] = {}, False
    done = barreleye(tmp_path, hub.address, "push", str(run.path), "barry", "--private")
    assert done.returncode == 2 and "me/barry is there already, and public; make it private" in done.stderr
    assert hub.repos == {(kind, "me/barry"): {}}
    hub.private[kind, "me/barry"] = True
    done = barreleye(tmp_path, hub.address, "push", str(run.path), "barry", "--private")
    assert done.returncode == 0, done.stderr
    assert all(hub.repos.values()) and set(hub.private.values()) == {True}


def test_a_model_that_no_other_tool_computes_is_not_pushed(tmp_path: Path, hub: FakeHub, capsys) -> None:
    options = TINY | dict(positions="none", quiet=False)
    run = grow("fish", out=tmp_path / "odd", conversations=60, vocab=300, **options)
    assert "positions = 'none': no model of Hugging Face's computes this; it trains" in capsys.readouterr().out
    assert json.loads((run.path / "model" / "config.json").read_text())["model_type"] == "barreleye"
    done = barreleye(tmp_path, hub.address, "push", str(run.path), "me/odd")
    assert done.returncode == 2 and "positions = 'none', so this export is not available" in done.stderr
    assert not hub.repos
