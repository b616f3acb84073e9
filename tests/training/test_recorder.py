import dataclasses
import json
import signal
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from barreleye.config import Config, DataConfig, ModelConfig, TrainConfig
from barreleye.data.batches import TextBatches, encode_text
from barreleye.data.chat_format import Conversation, Message
from barreleye.data.corpus import Corpus
from barreleye.data.tokenizer import learn_characters
from barreleye.model.transformer import Transformer
from barreleye.run import Run, create
from barreleye.training.loop import Learner, Step, train
from barreleye.training.probe import Probe
from barreleye.training.recorder import SAMPLE_CHARACTERS, Line, Recorder, sample_prompts, snapshot_steps

TEXT = "the fish swam up é🐟\nthe fish swam down\n" * 20
TOKENIZER = learn_characters(TEXT)
BATCHES = TextBatches(encode_text(TEXT, TOKENIZER), 16, 64)


def open_run(folder: Path, **knobs: Any) -> Run:
    model = ModelConfig(
        n_layers=1, n_heads=2, d_model=16, d_ff=32, context_length=16, vocab_size=TOKENIZER.vocab_size, dropout=0.2
    )
    defaults = dict(steps=12, eval_every=4, sample_every=6, save_every=5, device="cpu", precision="float32", threads=1)
    config = Config(DataConfig(kind="text"), model, TrainConfig(**(defaults | knobs)))
    return create(folder / "r", config, TOKENIZER, Corpus(TEXT, TEXT[:99], {}))


class Recording:
    """A training with its recorder."""

    def __init__(self, run: Run, stop_at: int | None = None, kept: dict[str, torch.Tensor] | None = None) -> None:
        self.shown: list[Line] = []
        self.done = 0

        def show(line: Line) -> None:
            self.shown.append(line)
            self.done = line["step"]

        torch.manual_seed(0)
        model = Transformer(run.config.model)
        probe = Probe(BATCHES, run.config.train) if run.config.train.record_every else None
        recorder = Recorder(
            run,
            run.config.train,
            BATCHES.held_out,
            [("", "the fish")],
            show,
            lambda: self.asked(stop_at),
            probe,
            kept=kept,
        )
        with closing(recorder):
            self.learner: Learner = train(model, BATCHES, run.config.train, recorder, kept)

    def asked(self, stop_at: int | None) -> bool:
        return stop_at is not None and self.done >= stop_at


def steps_with(lines: list[Line], key: str) -> list[int]:
    return [line["step"] for line in lines if key in line]


def test_what_is_recorded_and_when(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    recording = Recording(run)
    lines = run.metrics()
    assert lines == recording.shown
    assert steps_with(lines, "loss") == list(range(1, 13))
    assert steps_with(lines, "held_out") == [0, 4, 8, 12]
    assert steps_with(lines, "samples") == [0, 6, 12]
    assert run.states() == [10, 12]
    assert steps_with(lines, "probe") == [0, 1, 2, 4, 8, 12]
    first = next(line for line in lines if line["step"] == 1)
    assert set(first) == {"step", "loss", "rate", "grad_norm", "tokens", "seconds"}
    assert (first["step"], first["tokens"]) == (1, 64) and 0 < first["rate"] <= 1 and first["grad_norm"] > 0
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    assert seconds == sorted(seconds)
    scored = next(line for line in lines if "held_out" in line)
    assert set(scored["held_out"]["all"]) == {"loss", "bits_per_byte", "tokens"}


def test_the_score_comes_before_the_state_of_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose last state is saved counts as done: nothing may be missing from its record by then."""
    run = open_run(tmp_path)
    seen: list[list[int]] = []
    real = Run.save_state
    monkeypatch.setattr(
        Run, "save_state", lambda self, *args: seen.append(steps_with(self.metrics(), "held_out")) or real(self, *args)
    )
    Recording(run)
    assert seen[-1][-1] == 12


def test_a_run_killed_before_the_first_step_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, unbroken = open_run(tmp_path / "a"), open_run(tmp_path / "b")
    Recording(unbroken)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "samples", lambda self, step: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            Recording(run)
    assert run.states() == [0] and steps_with(run.metrics(), "held_out") == [0]
    run.drop_metrics_after(-1)
    Recording(run, kept=run.load_state()[1])
    for key in ("loss", "held_out", "samples"):
        assert steps_with(run.metrics(), key) == steps_with(unbroken.metrics(), key)
    assert torch.equal(run.load_model().embed.weight, unbroken.load_model().embed.weight)


def test_stopping_saves_at_once_and_scores_nothing(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    Recording(run, stop_at=3)
    assert run.states() == [0, 4] and steps_with(run.metrics(), "held_out") == [0]
    assert steps_with(run.metrics(), "samples") == [0, 4]
    loaded = run.load_model().state_dict()
    kept = run.load_state()[1]
    assert torch.equal(loaded["embed.weight"], kept["model.embed.weight"])


def test_seconds_go_on_after_a_resume(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    Recording(run, stop_at=3)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "seconds": 1000.0}) + "\n")
    Recording(run, kept=run.load_state()[1])
    assert all(line["seconds"] > 1000 for line in run.metrics() if "loss" in line and line["step"] > 4)
    assert steps_with(run.metrics(), "loss") == list(range(1, 13))


def test_an_overflowing_norm_is_written_as_null(tmp_path: Path) -> None:
    run = open_run(tmp_path, steps=1)
    real = torch.nn.utils.get_total_norm
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "get_total_norm", lambda grads: real(grads) * float("inf"))
        patch.setattr("barreleye.training.loop.scale_may_be_at_fault", lambda scaler: True)
        Recording(run)
    raw = (run.path / "metrics.jsonl").read_text()
    assert '"grad_norm": null' in raw and "Infinity" not in raw and "NaN" not in raw


def test_samples_are_the_same_for_the_same_weights_and_not_too_long(tmp_path: Path) -> None:
    run = open_run(tmp_path, learning_rate=0.0, muon_rate=0.0)
    lines = [line["samples"] for line in Recording(run).shown if "samples" in line]
    assert lines[0] == lines[1] == lines[2]
    assert lines[0][0]["prompt"] == "the fish" and 0 < len(lines[0][0]["reply"]) <= SAMPLE_CHARACTERS


# Snapshots ---------------------------------------------------------------------------------------------------------


def test_snapshots_are_dense_at_first_and_then_even() -> None:
    steps = snapshot_steps(850, 20)
    assert steps == [0, 1, 2, 4, 8, 16, 32, 64, 128, 194, 259, 325, 391, 456, 522, 587, 653, 719, 784, 850]
    assert snapshot_steps(5, 20) == [0, 1, 2, 3, 4, 5]
    assert snapshot_steps(850, 0) == [] and snapshot_steps(0, 20) == [0]


@pytest.mark.parametrize("steps", [1, 2, 19, 20, 100, 1000, 20_000, 10**8])
@pytest.mark.parametrize("most", [2, 3, 7, 20, 100])
def test_there_are_never_more_snapshots_than_asked_for(steps: int, most: int) -> None:
    kept = snapshot_steps(steps, most)
    assert len(kept) == min(most, steps + 1) or (steps < 2 * most and len(kept) <= most)
    assert kept == sorted(set(kept)) and kept[0] == 0 and kept[-1] == steps
    strides = [b - a for a, b in pairwise(kept)]
    powers = [step for step in kept if step and step & (step - 1) == 0 and step < steps]
    assert most < 4 or steps < 4 or 1 in powers
    if steps <= 2 ** (most - 3):
        assert all(stride <= max(before, 1) + 1 for stride, before in zip(strides, kept, strict=False))


def test_snapshots_hold_the_weights_in_half_precision(tmp_path: Path) -> None:
    run = open_run(tmp_path, snapshots=6)
    seen: dict[int, dict[str, torch.Tensor]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "look_inside", lambda self, step: seen.update(copy_of(step)))
        recording = Recording(run)
    assert run.snapshots() == snapshot_steps(12, 6) == [0, 1, 2, 4, 8, 12]
    for step in run.snapshots():
        model = run.load_model(step=step)
        assert not model.training
        for name, tensor in seen[step].items():
            assert torch.equal(model.state_dict()[name], tensor.half().float())
    file = run.path / "snapshots" / "4" / "model.safetensors"
    whole = sum(p.numel() * 2 for p in recording.learner.model.parameters())
    assert whole < file.stat().st_size < whole + 4096
    with pytest.raises(ValueError, match=r"r: no snapshot of step 3; choose one of those kept: 0, 1, 2, 4, 8, 12$"):
        run.load_model(step=3)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"model\.safetensors: is damaged"):
        run.load_model(step=4)


def copy_of(step: Step) -> dict[int, dict[str, torch.Tensor]]:
    return {step.step: {name: tensor.clone() for name, tensor in step.learner.model.state_dict().items()}}


def test_a_longer_training_adds_snapshots_and_touches_none(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    Recording(run)
    times = {step: (run.path / "snapshots" / str(step)).stat().st_mtime_ns for step in run.snapshots()}
    assert list(times) == list(range(13))
    run.config = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, steps=40))
    Recording(run, kept=run.load_state()[1])
    added = [step for step in run.snapshots() if step > 12]
    assert added == [step for step in snapshot_steps(40, 20) if step > 12] and added[-1] == 40
    assert all((run.path / "snapshots" / str(step)).stat().st_mtime_ns == time for step, time in times.items())


# Sample prompts ----------------------------------------------------------------------------------------------------


def chat(prompt: str, topic: str = "") -> Conversation:
    return Conversation((Message("system", "s"), Message("user", prompt), Message("assistant", "blub")), topic)


def test_prompts_are_the_first_of_different_topics() -> None:
    held_out = [chat("a", "x"), chat("b", "x"), chat("c", "y"), chat("d", "z"), chat("e", "w")]
    assert sample_prompts(held_out) == [("s", "a"), ("s", "c"), ("s", "d")]
    assert sample_prompts([chat("a", "x"), chat("a", "y")]) == [("s", "a")]
    assert sample_prompts([chat("a"), chat("b")]) == [("s", "a")]


@pytest.mark.parametrize(
    ("text", "prompt"),
    [("  \n first line\nsecond", "first line"), ("x" * 100, "x" * 40), ("\n\n", "\n"), ("a", "a")],
)
def test_the_prompt_of_a_text_is_a_lines_beginning(text: str, prompt: str) -> None:
    assert sample_prompts(text) == [("", prompt)]
