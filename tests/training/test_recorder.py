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
from barreleye.run import Run, create, latest_score
from barreleye.training.loop import Learner, Step, train
from barreleye.training.probe import Probe, update_ratios
from barreleye.training.recorder import SAMPLE_CHARACTERS, Line, Recorder, is_asked, sample_prompts, snapshot_steps

TEXT = "the fish swam up é🐟\nthe fish swam down\n" * 20
TOKENIZER = learn_characters(TEXT)
BATCHES = TextBatches(encode_text(TEXT, TOKENIZER), 16, 64)
BEGINNING = TextBatches(encode_text(TEXT[:100], TOKENIZER), 16, 64)


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
        recorder = Recorder(
            run,
            run.config.train,
            BEGINNING.held_out,
            BATCHES.held_out,
            [("", "the fish")],
            show,
            lambda: self.asked(stop_at),
            Probe(BATCHES, run.config.train),
            lambda: {"unigram": 3.0},
            kept,
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
    assert steps_with(lines, "facts") == [0]
    assert steps_with(lines, "held_out") == [0, 4, 8, 12] and steps_with(lines, "held_out_whole") == [12]
    sizes = {line["held_out"]["all"]["tokens"] for line in lines if "held_out" in line}
    assert sizes == {99} and latest_score(lines)["all"]["tokens"] == len(TEXT) - 1  # type: ignore[index]
    assert steps_with(lines, "samples") == [0, 6, 12]
    assert run.states() == [10, 12]
    assert steps_with(lines, "probe") == [0, 1, 2, 4, 8, 12]
    first = next(line for line in lines if line["step"] == 1)
    assert set(first) == {"step", "loss", "rate", "grad_norm", "tokens", "seconds"}
    assert (first["step"], first["tokens"]) == (1, 64) and 0 < first["rate"] <= 1 and first["grad_norm"] > 0
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    assert seconds == sorted(seconds)
    assert set(latest_score(lines)["all"]) == {"loss", "bits_per_byte", "tokens"}  # type: ignore[index]


def test_the_score_comes_before_the_state_of_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose last state is saved counts as done: nothing may be missing from its record by then."""
    run = open_run(tmp_path)
    seen: list[list[int]] = []
    real = Run.save_state
    monkeypatch.setattr(
        Run,
        "save_state",
        lambda self, *args: seen.append(steps_with(self.metrics(), "held_out_whole")) or real(self, *args),
    )
    Recording(run)
    assert seen[-1] == [12]


def test_a_run_killed_before_the_first_step_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, unbroken = open_run(tmp_path / "a"), open_run(tmp_path / "b")
    Recording(unbroken)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "samples", lambda self, step: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            Recording(run)
    assert run.states() == [0] and steps_with(run.metrics(), "held_out") == [0]
    run.go_back_to(-1)
    Recording(run, kept=run.load_state()[1])
    for key in ("loss", "held_out", "samples"):
        assert steps_with(run.metrics(), key) == steps_with(unbroken.metrics(), key)
    assert torch.equal(run.load_model().embed.weight, unbroken.load_model().embed.weight)


@pytest.mark.parametrize(("stop_at", "scored"), [(2, [0]), (3, [0, 4])])
def test_stopping_saves_at_once_and_scores_what_was_due(tmp_path: Path, stop_at: int, scored: list[int]) -> None:
    run = open_run(tmp_path)
    Recording(run, stop_at=stop_at)
    assert run.states() == [0, stop_at + 1] and steps_with(run.metrics(), "held_out") == scored
    assert steps_with(run.metrics(), "samples") == [0, stop_at + 1]
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
    assert len(kept) <= min(most, steps + 1)
    assert steps < 2 * most or len(kept) == most
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
        for name, tensor in seen[step].items():  # of the last step there are those that were saved
            assert torch.equal(model.state_dict()[name], tensor if step == run.step else tensor.half().float())
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


def test_a_longer_training_has_no_more_snapshots_and_those_that_stay_are_not_touched(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    Recording(run)
    times = {step: (run.path / "snapshots" / str(step)).stat().st_mtime_ns for step in run.snapshots()}
    assert list(times) == list(range(13))
    run.config = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, steps=40))
    Recording(run, kept=run.load_state()[1])
    assert run.snapshots() == snapshot_steps(40, 20) and len(run.snapshots()) == 20
    stayed = times.keys() & run.snapshots()
    assert all((run.path / "snapshots" / str(step)).stat().st_mtime_ns == times[step] for step in stayed)


# The setup ---------------------------------------------------------------------------------------------------------


def test_facts_are_recorded_where_the_first_session_had_none(tmp_path: Path) -> None:
    run = open_run(tmp_path, record_every=0)
    Recording(run, stop_at=3)
    assert steps_with(run.metrics(), "facts") == []
    run.config = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, record_every=50))
    Recording(run, stop_at=6, kept=run.load_state()[1])
    Recording(run, kept=run.load_state()[1])
    assert steps_with(run.metrics(), "facts") == [5]


@pytest.mark.parametrize("record_every", [0, 50])
def test_another_device_is_compared_once_and_again_where_a_training_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_every: int
) -> None:
    run = open_run(tmp_path, record_every=record_every)
    Recording(run, stop_at=3)
    assert steps_with(run.metrics(), "device_check") == []
    monkeypatch.setattr("barreleye.training.recorder.kind_of", lambda device: "cuda")
    Recording(run, stop_at=5, kept=run.load_state()[1])
    Recording(run, stop_at=7, kept=run.load_state()[1])
    moved = dataclasses.replace(run.config.train, precision="bfloat16")
    run.config = dataclasses.replace(run.config, train=moved)
    Recording(run, kept=run.load_state()[1])
    checks = {line["step"]: line["device_check"] for line in run.metrics() if "device_check" in line}
    assert [(step, check["precision"]) for step, check in checks.items()] == [(5, "float32"), (9, "bfloat16")]
    assert not any("finding" in line for line in run.metrics() if line["step"] in (5, 9))


def test_the_updates_are_those_between_two_snapshots(tmp_path: Path) -> None:
    run = open_run(tmp_path, learning_rate=0.03, muon_rate=0.1)  # beside which half precision's rounding is small
    Recording(run)
    probes = {line["step"]: line["probe"] for line in run.metrics() if "probe" in line}
    assert set(probes) == {0, 1, 2, 4, 8, 12} and "update_ratio" not in probes[0]
    for step in (1, 2, 4, 8):
        before = run.load_model(step=step - 1).state_dict()
        expected = update_ratios(before, run.load_model(step=step))
        assert probes[step]["update_ratio"] == pytest.approx(expected, rel=0.05)


def test_the_doctor_is_asked_soon_and_of_a_long_record_not_too_often() -> None:
    config = TrainConfig(steps=100_000, record_every=50)
    asked = [step for step in range(1, 100_001) if is_asked(step, config)]
    assert {1, 2, 4, 8, 16, 32, 50, 100, 150, 100_000} <= set(asked) and len(asked) < 500
    assert all(later - step <= max(50, step // 20 + 50) for step, later in pairwise(asked) if step >= 50)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    real = Recorder.record

    def fill(self: Recorder, **line: Any) -> None:
        if line["step"] == 3:
            self.file.close()
            self.file = open("/dev/full", "a")  # noqa: PTH123, SIM115
        real(self, **line)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "record", fill)
        with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.jsonl'$"):
            Recording(run)


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
