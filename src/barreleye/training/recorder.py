"""What is kept while a model learns: a line per step, the held-out loss, sample replies, what a probe sees inside,
snapshots of the weights to look back at, and states to resume from.

The recorder only looks: it draws from no random state but its own, so a recorded training computes what an unrecorded
one does.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from barreleye.config import Sampling, TrainConfig
from barreleye.data.batches import HeldOutBatch
from barreleye.data.chat_format import Conversation
from barreleye.data.tokenizer import Tokenizer
from barreleye.files import naming
from barreleye.inference.chat import Chat
from barreleye.inference.generate import generate
from barreleye.run import Run
from barreleye.training.agreement import compare_with_cpu
from barreleye.training.device import kind_of
from barreleye.training.doctor import examine
from barreleye.training.facts import Facts
from barreleye.training.held_out import byte_lengths, held_out_loss
from barreleye.training.loop import Step
from barreleye.training.probe import Probe, update_ratios

SAMPLES = 3
SAMPLE_LENGTH = 48
SAMPLE_CHARACTERS = 200

Line = dict[str, Any]
Prompt = tuple[str, str]
"""The character that is asked (empty where there is but one), and what it is asked."""


class Recorder:
    """The `on_step` of a run. `show` is called with each line that is recorded, for a display."""

    def __init__(
        self,
        run: Run,
        config: TrainConfig,
        quick: Callable[[], Iterable[HeldOutBatch]],
        held_out: Callable[[], Iterable[HeldOutBatch]],
        prompts: list[Prompt],
        show: Callable[[Line], None],
        should_stop: Callable[[], bool],
        probe: Probe,
        facts: Callable[[], Facts] = dict,
        kept: dict[str, Tensor] | None = None,
    ) -> None:
        self.run, self.config, self.show, self.should_stop = run, config, show, should_stop
        self.quick, self.held_out, self.prompts, self.probe, self.facts = quick, held_out, prompts, probe, facts
        self.snapshots = snapshot_steps(config.steps, config.snapshots)
        if self.snapshots:
            run.thin_snapshots(self.snapshots)
        # The weights of the step before: where a training is resumed, those it is resumed from.
        self.before = {name.removeprefix("model."): t for name, t in (kept or {}).items() if name.startswith("model.")}
        self.tokenizer: Tokenizer = run.tokenizer
        self.bytes_V = byte_lengths(self.tokenizer)
        self.lines = run.metrics()
        self.seconds_before = max((line.get("seconds", 0.0) for line in self.lines), default=0.0)
        self.knows_setup = False
        self.file = (run.path / "metrics.jsonl").open("a", encoding="utf-8")

    def __call__(self, step: Step) -> bool:
        stopping = self.should_stop()
        last = stopping or step.step == self.config.steps
        if step.step == 0:
            self.save(step)  # before anything else: from now on there is something to resume from
        else:
            self.record(
                step=step.step,
                loss=step.loss,
                rate=step.rate,
                grad_norm=step.grad_norm if math.isfinite(step.grad_norm) else None,
                tokens=step.tokens,
                seconds=self.seconds_before + step.seconds,
            )
        if not self.knows_setup:
            self.look_at_setup(step)
        self.look_inside(step)
        if step.step % self.config.eval_every == 0 or step.step == self.config.steps:
            self.evaluate(step, "held_out", self.quick)
        if step.step == self.config.steps:  # a figure of its own: the curve on the way is of other data
            self.evaluate(step, "held_out_whole", self.held_out)
        if step.step % self.config.sample_every == 0 or last:
            self.record(step=step.step, samples=self.samples(step))
        if step.step in self.snapshots:
            self.run.save_snapshot(step.step, step.learner.model.state_dict())
        if is_asked(step.step, self.config):
            self.consult(step.step)
        # After the record of the step, which would else be missing where the last save is all that was to come.
        if step.step and (step.step % self.config.save_every == 0 or last):
            self.save(step)
        return stopping

    def record(self, **line: Any) -> None:
        with naming(self.run.path / "metrics.jsonl"):
            self.file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self.file.flush()
        self.lines.append(line)
        self.show(line)

    def consult(self, step: int) -> None:
        """Ask the doctor, and record what it has not said before."""
        known = {line["finding"]["name"] for line in self.lines if "finding" in line}
        for finding in examine(self.run.config, self.lines):
            if finding.name not in known:
                self.record(step=step, finding=dataclasses.asdict(finding))

    def evaluate(self, step: Step, key: str, batches: Callable[[], Iterable[HeldOutBatch]]) -> None:
        result = held_out_loss(step.learner.model, batches(), self.bytes_V, self.config)
        self.record(step=step.step, **{key: dataclasses.asdict(result)})

    def look_at_setup(self, step: Step) -> None:
        """The data and the device, unless they are known: at the very first, or where a training is resumed that was
        not looked at, or was elsewhere."""
        self.knows_setup = True
        if self.config.record_every and not any("facts" in line for line in self.lines):
            self.record(step=step.step, facts=self.facts())
        place = {"device": self.config.device, "precision": self.config.precision}
        checks = [line["device_check"] for line in self.lines if "device_check" in line]
        known = bool(checks) and place.items() <= checks[-1].items()
        if kind_of(self.config.device) != "cpu" and not known:
            found = compare_with_cpu(step.learner.model, *self.probe.parts[0], self.config)
            self.record(step=step.step, device_check=place | found)
            self.consult(step.step)

    def look_inside(self, step: Step) -> None:
        """What the probe sees, and how far the last step moved the weights."""
        model = step.learner.model
        if is_due(step.step, self.config):
            values = self.probe(model)
            if self.before and step.step:  # resumed at step 0, where none had been made
                values["update_ratio"] = update_ratios(self.before, model)
            self.record(step=step.step, probe=values)
        next_one = is_due(step.step + 1, self.config)
        self.before = {name: p.detach().clone() for name, p in model.named_parameters()} if next_one else {}

    def samples(self, step: Step) -> list[dict[str, str]]:
        """What the model answers now: to fixed prompts greedily, or how it goes on with a text, with a fixed seed."""
        model = step.learner.model.eval()
        answers = []
        for system, prompt in self.prompts:
            if self.tokenizer.chat:
                reply = ""  # to a prompt that a small context has no room for
                with contextlib.suppress(ValueError):
                    reply = Chat(model, self.tokenizer, Sampling(temperature=0), system).ask(prompt)  # type: ignore[arg-type]
            else:
                pieces = generate(model, self.tokenizer, prompt, SAMPLE_LENGTH * 3, Sampling(seed=1))  # type: ignore[arg-type]
                reply = "".join(pieces)
            answers.append({"prompt": prompt, "reply": reply[:SAMPLE_CHARACTERS]})
        return answers

    def save(self, step: Step) -> None:
        # The model first: a run killed between the two resumes from the older state and writes this model again.
        self.run.save_model(step.learner.model.state_dict())
        self.run.save_state(step.step, step.learner.tensors())

    def close(self) -> None:
        with naming(self.run.path / "metrics.jsonl"):
            self.file.close()


def is_due(step: int, config: TrainConfig) -> bool:
    """Whether to look inside: often at first, when most happens, at powers of two; then evenly, and at the end."""
    every = config.record_every
    return every > 0 and (step % every == 0 or step & (step - 1) == 0 or step == config.steps)


def is_asked(step: int, config: TrainConfig) -> bool:
    """Whether the doctor is asked after that look inside: a longer record takes longer to read, so of a long one only
    when a twentieth or so has come to it."""
    stride = 2 ** max(0, (step // 20).bit_length() - 1)
    return is_due(step, config) and (step % stride < config.record_every or step == config.steps)


def snapshot_steps(steps: int, most: int) -> list[int]:
    """When weights are kept: at step 0, at powers of two until even strides to the end are no longer than doubling
    would be, then evenly, the last step included."""
    if most < 3:
        return sorted({0, steps})[:most]
    for doublings in range(most - 2):
        power, strides = 2**doublings, most - 2 - doublings
        if steps <= power * (1 + strides):
            break
    evenly = [power + round(i * (steps - power) / strides) for i in range(1, strides + 1)]
    return sorted({step for step in [0, *(2**k for k in range(doublings + 1)), *evenly] if step <= steps})


def sample_prompts(held_out: Iterable[Conversation] | str) -> list[Prompt]:
    """The first unseen prompts of different topics, or a line's beginning of the held-out text."""
    if isinstance(held_out, str):
        return [("", held_out.lstrip()[:SAMPLE_CHARACTERS].split("\n", 1)[0][:40] or held_out[:1])]
    prompts: dict[str, Prompt] = {}
    for conversation in held_out:
        system = next((m.content for m in conversation.messages if m.role == "system"), "")
        first = next(m for m in conversation.messages if m.role == "user")
        prompts.setdefault(conversation.topic, (system, first.content))
        if len(prompts) == SAMPLES:
            break
    return list(dict.fromkeys(prompts.values()))
