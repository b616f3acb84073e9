import dataclasses
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from barreleye.config import PRESETS
from barreleye.run import Run
from barreleye.training import grow as grow_module
from barreleye.training import loop
from barreleye.training.grow import configure, free_name, grow, resume, stop_on_signal

TINY: dict[str, Any] = dict(
    n_layers=2, n_heads=2, d_model=32, d_ff=64, context_length=32, batch_tokens=128, device="cpu", threads=1, quiet=True
)
LINES = "".join(f"{n} fish swim in the {'deep' if n % 2 else 'dark'} sea, {n * 7 % 10} come back.\n" for n in range(60))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "sea.txt"
    file.write_text(LINES, encoding="utf-8")
    return file


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    file = tmp_path / "talks.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"what is {n}?"}, {"role": "assistant", "content": f"{n}, blub."}]}
        for n in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def weights(run: Run) -> bytes:
    return (run.path / "model" / "model.safetensors").read_bytes()


def state(run: Run) -> bytes:
    return (run.path / "state" / str(run.step) / "state.safetensors").read_bytes()


def metrics(run: Run) -> list[dict[str, Any]]:
    """The record, without what a clock says."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in run.metrics()]


# What can be learned from ------------------------------------------------------------------------------------------


def test_a_character(tmp_path: Path) -> None:
    run = grow("fish", out=tmp_path / "r", conversations=60, vocab=300, steps=4, **TINY)
    assert run.config.data.kind == "persona" and run.config.model.vocab_size == run.tokenizer.vocab_size == 300
    lines = run.metrics()
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "held_out" in line] == [0, 4]
    whole, samples = (next(line[key] for line in lines[-3:] if key in line) for key in ("held_out_whole", "samples"))
    assert whole["replies"]["tokens"] > 0 and len(samples) == 3
    assert run.states() == [0, 4] and not run.is_live
    assert run.config.train.device == "cpu" and "auto" not in (run.path / "config.toml").read_text().split("[train]")[1]


def test_a_text(tmp_path: Path, text: Path) -> None:
    run = grow(text=text, out=tmp_path / "r", steps=3, **TINY)
    assert run.tokenizer.kind == "characters" and run.tokenizer.vocab_size == len(set(LINES))
    assert "".join([run.corpus().train, run.corpus().held_out]) == LINES  # type: ignore[list-item]
    assert next(line for line in run.metrics() if "held_out" in line)["held_out"]["replies"] is None


@pytest.mark.parametrize("tokenizer", ["bpe", "characters"])
def test_chats(tmp_path: Path, chats: Path, tokenizer: str) -> None:
    run = grow(chats=chats, out=tmp_path / "r", steps=3, tokenizer=tokenizer, vocab=280, loss_on="replies", **TINY)
    assert run.tokenizer.kind == tokenizer
    assert len(run.corpus().train) + len(run.corpus().held_out) == 40


def test_it_learns(tmp_path: Path, text: Path) -> None:
    run = grow(text=text, out=tmp_path / "r", steps=120, warmup_steps=10, eval_every=1000, **TINY)
    scores = [line["held_out"]["all"]["loss"] for line in run.metrics() if "held_out" in line]
    assert scores[0] > 3 and scores[-1] < 1


def test_a_context_too_small_for_the_sample_prompts(tmp_path: Path, chats: Path) -> None:
    run = grow(chats=chats, out=tmp_path / "r", vocab=280, steps=2, **(TINY | {"context_length": 8}))
    assert all(sample["reply"] == "" for line in run.metrics() for sample in line.get("samples", ()))


# What was asked ----------------------------------------------------------------------------------------------------


def test_options_stand_on_a_preset() -> None:
    config = configure(dict(persona="fish", text=None), "modern", None, dict(d_ff=64, steps=7, vocab=300, clip=None))
    assert config.model == dataclasses.replace(PRESETS["modern"].model, d_ff=64)
    assert config.train == dataclasses.replace(PRESETS["modern"].train, steps=7)
    assert (config.data.kind, config.data.source, config.data.vocab) == ("persona", "fish", 300)
    assert configure(dict(text="a.txt"), None, None, {}).model == PRESETS["tiny"].model
    assert configure(dict(text=None), None, None, {}).model == PRESETS["fish"].model


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(persona="fish", text="a.txt"), "learn from one thing at a time, not persona and text"),
        (dict(persona="fish", stepz=3), "there is no knob 'stepz'; did you mean 'steps'"),
        (dict(persona="fish", steps="3"), "steps must be int, not '3'"),
        (dict(persona="fish", activation="gelo"), "activation cannot be 'gelo'"),
        (dict(persona="fish", precision="float16"), "precision float16 needs a GPU"),
        (dict(text="nowhere.txt"), r"nowhere\.txt: there is no such file"),
        (dict(persona="fish", preset="fsh"), "there is no preset 'fsh'"),
        (dict(persona="fish", from_run="nowhere"), "there is no run at 'nowhere'"),
    ],
)
def test_what_is_wrong_leaves_no_folder(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        grow(**(dict(out=tmp_path / "r", quiet=True, device="cpu") | given))
    assert "\n" not in str(raised.value) and not (tmp_path / "r").exists()


def test_a_text_too_short_leaves_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    for words in ("a", "abc"):
        file.write_text(words)
        with pytest.raises(ValueError, match="short"):
            grow(text=file, out=tmp_path / "r", tokenizer="bpe", **TINY)
        assert not (tmp_path / "r").exists()


def test_names_count_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = configure(dict(persona="fish", text=None), None, None, {}).data
    assert free_name(data) == Path("runs/fish")
    Path("runs/fish").mkdir(parents=True)
    Path("runs/fish-2").mkdir()
    assert free_name(data) == Path("runs/fish-3")
    assert free_name(dataclasses.replace(data, kind="text", source="a/b/sea.txt")) == Path("runs/sea")


def test_a_run_is_not_grown_over(tmp_path: Path, text: Path) -> None:
    run = grow(text=text, out=tmp_path / "r", steps=1, **TINY)
    before = weights(run)
    with pytest.raises(ValueError, match="already holds a run"):
        grow(text=text, out=tmp_path / "r", steps=2, **TINY)
    assert weights(run) == before


# The same again ----------------------------------------------------------------------------------------------------


def test_a_seed_gives_one_model_and_another_seed_another(tmp_path: Path, text: Path) -> None:
    one, two, other = (
        grow(text=text, out=tmp_path / f"r{n}", steps=6, dropout=0.1, seed=seed, **TINY)
        for n, seed in enumerate((4, 4, 5))
    )
    assert weights(one) == weights(two) != weights(other)
    assert metrics(one) == metrics(two)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", ["text", "chats"])
def test_ten_and_ten_steps_are_twenty(
    tmp_path: Path, text: Path, chats: Path, kind: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"text": text} if kind == "text" else {"chats": chats, "vocab": 280, "loss_on": "replies"}
    knobs = dict(
        steps=20, dropout=0.2, optimizer=optimizer, accumulate=2, save_every=10, sample_every=4, eval_every=5,
        record_every=11, **TINY,
    )  # fmt: skip
    unbroken = grow(**source, out=tmp_path / "unbroken", **knobs)  # type: ignore[arg-type]

    def power_cut(self: object, step: loop.Step) -> None:
        if step.step == 13:
            raise KeyboardInterrupt

    real = grow_module.Recorder.__call__
    with monkeypatch.context() as patch:
        patch.setattr(grow_module.Recorder, "__call__", lambda self, step: power_cut(self, step) or real(self, step))
        with pytest.raises(KeyboardInterrupt):
            grow(**source, out=tmp_path / "broken", **knobs)  # type: ignore[arg-type]
    broken = Run(tmp_path / "broken")
    assert broken.step == 10 and max(line["step"] for line in broken.metrics()) == 12
    damaged = broken.path / "snapshots" / "12" / "model.safetensors"  # of what is trained again
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with (broken.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')  # torn
    torch.manual_seed(99)
    resumed = resume(tmp_path / "broken", quiet=True)
    assert weights(resumed) == weights(unbroken) and state(resumed) == state(unbroken)
    assert metrics(resumed) == metrics(unbroken)
    probed = {line["step"]: line["probe"] for line in resumed.metrics() if "probe" in line}
    assert all(("update_ratio" in probe) == (step > 0) for step, probe in probed.items()) and 11 in probed
    assert resumed.snapshots() == unbroken.snapshots() and len(resumed.snapshots()) == 20
    assert all(
        torch.equal(resumed.load_weights(step)[name], tensor)
        for step in unbroken.snapshots()
        for name, tensor in unbroken.load_weights(step).items()
    )


def test_a_damaged_newest_state_is_passed_over(tmp_path: Path, text: Path) -> None:
    knobs = dict(steps=12, save_every=4, dropout=0.1, **TINY)
    unbroken = grow(text=text, out=tmp_path / "unbroken", **knobs)
    run = grow(text=text, out=tmp_path / "r", **knobs)
    newest = run.path / "state" / "12" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    resumed = resume(run.path, quiet=True)
    assert weights(resumed) == weights(unbroken) and state(resumed) == state(unbroken)
    assert metrics(resumed) == metrics(unbroken)


def test_a_recorded_training_computes_what_an_unrecorded_one_does(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = dict(steps=10, dropout=0.3, eval_every=3, sample_every=2, save_every=4, **TINY)
    recorded = grow(text=text, out=tmp_path / "recorded", record_every=1, **knobs)
    off = grow(text=text, out=tmp_path / "off", record_every=0, snapshots=0, **knobs)
    assert weights(recorded) == weights(off) and state(recorded) == state(off)
    assert recorded.snapshots() and not off.snapshots()
    assert any("probe" in line for line in recorded.metrics()) and not any("probe" in line for line in off.metrics())
    real = grow_module.Recorder.__call__

    def only_save(self: Any, step: loop.Step) -> bool:
        return real(self, step) if step.step == 10 else False

    monkeypatch.setattr(grow_module.Recorder, "__call__", only_save)
    bare = grow(text=text, out=tmp_path / "bare", **knobs)
    assert weights(recorded) == weights(bare) and state(recorded) == state(bare)


# Going on ----------------------------------------------------------------------------------------------------------


def test_more_steps_go_on_and_fewer_are_refused_without_a_trace(tmp_path: Path, text: Path) -> None:
    run = grow(text=text, out=tmp_path / "r", steps=5, **TINY)
    before = (run.path / "config.toml").read_bytes()
    for steps in ({}, {"steps": 5}, {"steps": 2}):
        with pytest.raises(ValueError, match="has learned 5 steps already; `--steps 10` goes on"):
            resume(run.path, quiet=True, **steps)
    with pytest.raises(ValueError, match="--resume cannot change learning_rate"):
        resume(run.path, quiet=True, learning_rate=0.1)
    assert (run.path / "config.toml").read_bytes() == before
    longer = resume(run.path, quiet=True, steps=8, save_every=3)
    assert longer.step == 8 and Run(run.path).config.train.steps == 8
    assert [line["step"] for line in longer.metrics() if "loss" in line] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_from_another_run(tmp_path: Path, text: Path) -> None:
    first = grow(text=text, out=tmp_path / "first", steps=3, **TINY)
    train_only = {key: value for key, value in TINY.items() if key in ("batch_tokens", "device", "threads", "quiet")}
    second = grow(text=text, from_run=first.path, out=tmp_path / "second", steps=0, **train_only)
    assert weights(second) == weights(first) and second.tokenizer == first.tokenizer
    assert second.config.model == first.config.model
    third = grow(text=text, from_run=first, out=tmp_path / "third", steps=2, **train_only)
    assert weights(third) != weights(first) and weights(Run(first.path)) == weights(first)
    with pytest.raises(ValueError, match="--from keeps the earlier run's shape and tokenizer; leave out d_model"):
        grow(text=text, from_run=first, out=tmp_path / "x", d_model=64, **train_only)
    with pytest.raises(ValueError, match="data of the run's own kind"):
        grow("fish", from_run=first, out=tmp_path / "x", **train_only)
    other = tmp_path / "other.txt"
    other.write_text("seen, ß not\n" * 20, encoding="utf-8")
    with pytest.raises(ValueError, match="has not seen 'ß'"):
        grow(text=other, from_run=first, out=tmp_path / "x", **train_only)
    assert not (tmp_path / "x").exists()


def test_a_second_training_into_the_same_run_is_refused(tmp_path: Path, text: Path) -> None:
    run = grow(text=text, out=tmp_path / "r", steps=3, **TINY)
    before = (run.path / "metrics.jsonl").read_bytes()
    with run.lock(), pytest.raises(ValueError, match="another training is writing here") as raised:
        resume(run.path, quiet=True, steps=9)
    assert "\n" not in str(raised.value)
    assert (run.path / "metrics.jsonl").read_bytes() == before and Run(run.path).config.train.steps == 3


# When it goes wrong ------------------------------------------------------------------------------------------------


def poison(monkeypatch: pytest.MonkeyPatch, at: int) -> dict[int, dict[str, Tensor]]:
    """Make one gradient of step `at` nan; the weights of each step before are returned."""
    good: dict[int, dict[str, Tensor]] = {}
    real = loop.accumulate_gradients

    def accumulate(learner: loop.Learner, *args: Any) -> tuple[float, int, int]:
        result = real(learner, *args)
        good[learner.step] = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
        if learner.step == at - 1:
            learner.model.get_parameter("blocks.0.ln1.weight").grad[3] = float("nan")  # type: ignore[index]
        return result

    monkeypatch.setattr(loop, "accumulate_gradients", accumulate)
    return good


def test_a_gradient_that_is_not_a_number_keeps_the_last_good_state(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = dict(steps=10, save_every=4, dropout=0.1, **TINY)
    unbroken = grow(text=text, out=tmp_path / "unbroken", **knobs)
    with monkeypatch.context() as patch:
        good = poison(patch, at=7)
        message = (
            r"step 7: the gradient of blocks\.0\.ln1\.weight has 1 of 32 values not finite; "
            r"the weights of step 6 are kept; try a lower learning rate, or a longer warm-up"
        )
        with pytest.raises(ValueError, match=message) as raised:
            grow(text=text, out=tmp_path / "r", **knobs)
    assert "\n" not in str(raised.value)
    run = Run(tmp_path / "r")
    assert run.step == 6 and not run.is_live
    loaded = run.load_model().state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in good[6].items())
    assert [line["step"] for line in run.metrics() if "loss" in line] == [1, 2, 3, 4, 5, 6]
    resumed = resume(run.path, quiet=True)  # as if the cause had been mended
    assert resumed.step == 10 and len(weights(resumed)) == len(weights(unbroken))


def test_a_resumed_training_that_fails_at_once_keeps_what_there_was(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = grow(text=text, out=tmp_path / "r", steps=4, **TINY)
    before = weights(run), state(run)
    poison(monkeypatch, at=5)
    with pytest.raises(ValueError, match=r"step 5: .* the weights of step 4 are kept"):
        resume(run.path, quiet=True, steps=8)
    assert (weights(run), state(run)) == before


def test_a_full_disk_loses_nothing_that_was_saved(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = dict(steps=12, save_every=4, **TINY)
    unbroken = grow(text=text, out=tmp_path / "unbroken", **knobs)
    real = os.fsync

    def full(handle: int) -> None:
        if (tmp_path / "r" / "state" / "4").exists():
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            grow(text=text, out=tmp_path / "r", **knobs)
    run = Run(tmp_path / "r")
    assert run.step == 4 and not run.is_live
    assert not [path for path in run.path.rglob("*") if path.name.endswith(".partial")]
    assert run.load_state()[0] == 4 and run.load_model()
    assert weights(resume(run.path, quiet=True)) == weights(unbroken)


# Signals -----------------------------------------------------------------------------------------------------------


def test_a_first_signal_asks_and_a_second_insists() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signal() as stopped:
        assert not stopped.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stopped.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_training_in_a_thread_leaves_signals_alone(tmp_path: Path, text: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    grown: list[Run] = []
    thread = threading.Thread(target=lambda: grown.append(grow(text=text, out=tmp_path / "r", steps=2, **TINY)))
    thread.start()
    thread.join()
    assert grown[0].step == 2 and signal.getsignal(signal.SIGINT) is before


def test_a_signal_stops_after_the_step_at_hand_and_saves(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    knobs = dict(steps=20, dropout=0.2, sample_every=3, eval_every=6, save_every=7, **TINY)
    unbroken = grow(text=text, out=tmp_path / "unbroken", **knobs)
    real = loop.accumulate_gradients

    def accumulate(learner: loop.Learner, *args: Any) -> tuple[float, int, int]:
        if learner.step == 8:
            signal.raise_signal(signal.SIGINT)
        return real(learner, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "accumulate_gradients", accumulate)
        stopped = grow(text=text, out=tmp_path / "r", **(knobs | {"quiet": False}))
    assert stopped.step == 9 and not stopped.is_live
    assert f"stopped at step 9; `barreleye train --resume {stopped.path}` goes on" in capsys.readouterr().out
    resumed = resume(stopped.path, quiet=True)
    assert weights(resumed) == weights(unbroken) and state(resumed) == state(unbroken)
