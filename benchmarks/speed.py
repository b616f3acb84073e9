"""How much sooner than the plain recipe: the time to the plain recipe's lowest loss on what training never saw.

    python benchmarks/speed.py fish|fish-single [--seeds 3] [--of replies] [--steps N] [--weight-decay X]
                                                [--precision float32]
    python benchmarks/speed.py FILE             # tiny Shakespeare (`shakespeare` fetches it) to 1.88, against nanoGPT

fish: conversations with unseen prompts, all of them looked at: every token of them, or the replies alone, which take
longer. The plain curve was recorded by plain.py. fish-single: the same on conversations of one exchange, where rows
need little padding. FILE: the whole last tenth of it, in windows of 64 characters. Both are looked at every 25 steps;
ours in its last quarter alone, as it is not lowest before its learning rate has come down.

Against it there runs nanoGPT's config/train_shakespeare_char.py with its README's options for a CPU, as it is but for
these: norms have a bias, attention is spelled out and the loss makes its own gradient (both faster on a CPU, and the
same function), and what is looked at is the whole held-out part and not a sample. Ours is a recipe of its own, printed
as the command that trains it.

The clock of both stands still while they are looked at. The plain recipe's step is timed between ours, in the same run,
for each seed its own. One ratio is of the steps alone. The other counts on both sides what `barreleye train` needs
before the first step and after the last; what it does between steps (looks, samples, saves: recorder.py tells the
share) is in neither.
"""

import argparse
import dataclasses
import itertools
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from unittest import mock

import machine
import numpy as np
import torch
from plain import RECIPE, Material, PaddedBatches, plain_model
from torch import Tensor

from barreleye import IGNORE, PRESETS, ModelConfig, Run, TrainConfig, Transformer, train
from barreleye.config import Preset
from barreleye.data.batches import TextBatches, encode_text
from barreleye.data.corpus import split_text
from barreleye.data.text import read_shakespeare, read_text
from barreleye.data.tokenizer import Tokenizer, learn_characters
from barreleye.training import optimizer
from barreleye.training.device import resolve
from barreleye.training.held_out import byte_lengths, held_out_loss
from barreleye.training.loop import Batches, OnStep, Step

LOOK_EVERY, PADDING_OF = 25, 100
BREAKS, PLAIN_WARM, PLAIN_STEPS = 8, 2, 4  # of a training of ours, for so many steps of the plain recipe
NANOGPT_LOSS, NANOGPT_BETAS = 1.88, (0.9, 0.99)
# The rest of RECIPE is nanoGPT's too: cosine to a tenth of the rate, weight decay 0.1 on matrices, clipping at 1.
NANOGPT = dataclasses.replace(RECIPE, steps=2000, batch_tokens=12 * 64, learning_rate=1e-3, warmup_steps=100)
NANOGPT_SHAPE = ModelConfig(n_heads=4, d_model=128, d_ff=512, context_length=64, bias=False, activation="gelu_erf")
# The same size, but for 8,192 learned positions less and 4,608 biases more.
OUR_SHAPE = ModelConfig(n_heads=4, d_model=128, d_ff=512, context_length=64, positions="rope")
OURS = TrainConfig(steps=280, batch_tokens=1024, muon_rate=0.02, learning_rate=6e-3, warmup_steps=20)

PARTS = ["all", "replies"]  # of conversations
Losses = dict[str, float]  # of each part that is judged
Look = Callable[[Transformer, TrainConfig], Losses]


@dataclasses.dataclass(frozen=True)
class Reached:
    """The first step whose loss is low enough, or the last one with the lowest loss of all."""

    step: int
    seconds: float
    loss: float


@dataclasses.dataclass
class Racer:
    """A recipe: how to build its model, what it reads, and how it learns."""

    build: Callable[[], Transformer]
    batches: Batches
    config: TrainConfig
    looks: range = range(0)  # the last step is looked at as well
    betas: tuple[float, float] = optimizer.ADAM_BETAS

    def train(self, batches: Batches, on_step: OnStep) -> None:
        with mock.patch.object(optimizer, "ADAM_BETAS", self.betas):
            train(self.build(), batches, self.config, on_step)

    def step_seconds(self, first: int) -> list[float]:
        """Of a few steps of a fresh model from batch `first` on, those before them not counted."""
        times = []

        def on_step(step: Step) -> bool:
            times.append(clock())
            return step.step == PLAIN_WARM + PLAIN_STEPS

        self.train(lambda n: self.batches(first + n), on_step)
        return [after - before for before, after in pairwise(times[PLAIN_WARM:])]

    def run(self, look: Look, targets: Losses, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Reached]:
        """How each target was reached, or the end; looking is not timed."""
        breaks = range(self.config.steps // BREAKS // 2, self.config.steps, max(1, self.config.steps // BREAKS))
        paused, reached = 0.0, dict.fromkeys(targets, Reached(0, 0.0, float("inf")))

        def on_step(step: Step) -> bool:
            nonlocal paused
            now = clock()
            if not step.step:
                paused = now
            elif step.step in self.looks or step.step == self.config.steps:
                losses = look(step.learner.model, self.config)
                for part, target in targets.items():
                    if reached[part].loss > target:
                        reached[part] = Reached(step.step, now - paused, min(losses[part], reached[part].loss))
            if step.step in breaks:
                print(f"    step {step.step} of {self.config.steps}, loss {step.loss:.3f}", file=sys.stderr, flush=True)
                meanwhile()
            paused += clock() - now
            return all(reached[part].loss <= target for part, target in targets.items())

        self.train(self.batches, on_step)
        return reached

    def padding(self) -> float:
        """The share of what it reads that is padding."""
        targets = [self.batches(n)[1] for n in range(PADDING_OF)]
        return sum(int((t == IGNORE).sum()) for t in targets) / sum(t.numel() for t in targets)


def clock() -> float:
    """Seconds, once a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def cold_start(arguments: list[str]) -> float:
    """Seconds that `barreleye train` takes before the first step and after the last, in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "barreleye", "train", *arguments, "--steps", "3", "--quiet", "--out", str(run)]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        return time.perf_counter() - began - max(line.get("seconds", 0.0) for line in Run(run).metrics())


def race(
    name: str,
    racers: list[Racer],
    plain: Racer,
    marks: dict[str, Reached],
    look: Look,
    arguments: list[str],
    promised: float,
) -> None:
    """`marks`: of each part, the loss that is raced to, and the step at which the plain recipe reached it."""
    print(f"{name}; {machine.name()}")
    print(f"  the start is that of: {shlex.join(['barreleye', 'train', *arguments])}")
    cold = cold_start(arguments)
    print(f"  padding: {plain.padding():.1%} of the plain recipe's tokens, {racers[0].padding():.1%} of ours")
    print(f"  a new process: {cold:.1f} s besides its steps")
    for part, mark in marks.items():
        print(f"  the plain recipe: {part} {mark.loss:.4f} after {mark.step} steps")
    targets = {part: mark.loss for part, mark in marks.items()}
    ratios: dict[str, list[tuple[float, float]]] = {part: [] for part in marks}
    first = itertools.count(step=PLAIN_STEPS)
    for racer in racers:
        times: list[float] = []
        reached = racer.run(look, targets, lambda to=times: to.extend(plain.step_seconds(next(first))))
        plain_step = statistics.fmean(times)  # no median, as its batches are not equally large
        print(f"  seed {racer.config.seed}: a plain step takes {plain_step:.3f} s meanwhile")
        for part, ours in reached.items():
            if ours.loss > targets[part]:
                print(f"    {part}: only {ours.loss:.4f}", flush=True)
                continue
            print(f"    {part}: {ours.loss:.4f} at step {ours.step}, {ours.seconds:.0f} s", flush=True)
            theirs = marks[part].step * plain_step
            ratios[part].append((theirs / ours.seconds, (cold + theirs) / (cold + ours.seconds)))
    for part, found in ratios.items():
        whole = len(found) == len(racers)
        for kind, words in enumerate(("by the steps alone", "the start counted")):
            ratio = statistics.median(each[kind] for each in found) if whole else None
            machine.tell(f"{name}, {part}: times as fast, {words}", ratio, promised, "")


def fish(single: bool, parts: list[str], seeds: int, options: dict[str, object]) -> None:
    material = Material.of_fish(single)
    curve, again = material.curve_file, f"python benchmarks/plain.py{' --single' * single}"
    if not curve.exists():
        print(f"{curve.name} is not recorded yet: {again}")
        return
    try:
        looks = material.looks_of(curve.read_text())
    except ValueError as error:
        print(f"{curve.name} {error}: {again}")
        return
    assert looks[-1]["step"] == RECIPE.steps, "a recording is written when it is finished"
    lowest = {part: min(looks, key=lambda look, part=part: look[part]) for part in parts}
    marks = {part: Reached(int(look["step"]), 0.0, look[part]) for part, look in lowest.items()}
    vocab = material.tokenizer.vocab_size
    preset = PRESETS["fish"]
    ours = dataclasses.replace(preset.train, **options)
    arguments = ["fish", *options_for(preset, preset.model, ours)]

    def racer(seed: int) -> Racer:
        def build() -> Transformer:
            torch.manual_seed(seed)
            return Transformer(dataclasses.replace(preset.model, vocab_size=vocab))

        config = resolve(dataclasses.replace(ours, seed=seed))
        return Racer(build, material.batches(config.batch_tokens, seed), config, last_quarter(config))

    on_gpu = torch.cuda.is_available()
    plain = Racer(
        lambda: plain_model(vocab),
        PaddedBatches(material),
        resolve(dataclasses.replace(RECIPE, precision="float16" if on_gpu else "float32")),
    )
    racers = [racer(seed) for seed in range(1, seeds + 1)]
    given = racers[0].config.precision
    promised = 20 if on_gpu else 15 if given == "bfloat16" else 6
    race(f"{material.name}, {given}", racers, plain, marks, material.look, arguments, promised)


def last_quarter(config: TrainConfig) -> range:
    return range(config.steps * 3 // 4 // LOOK_EVERY * LOOK_EVERY, config.steps, LOOK_EVERY)


class RandomWindows(TextBatches):
    """nanoGPT's: rows from anywhere, some of them twice."""

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        starts = np.random.default_rng((self.seed, n)).integers(len(self.tokens) - self.context, size=(self.rows, 1))
        return self._at(starts + np.arange(self.context))


def nanogpt(vocab_size: int) -> Transformer:
    """Output projections start smaller the more of them there are to add up."""
    model = plain_model(vocab_size, NANOGPT_SHAPE)
    for name, parameter in model.named_parameters():
        if name.endswith(("attn.out.weight", "mlp.down.weight")):
            parameter.data /= (2 * NANOGPT_SHAPE.n_layers) ** 0.5
    return model


def options_for(base: Preset, model: ModelConfig, config: TrainConfig) -> list[str]:
    """What `barreleye train` must be given to train not as `base` says, but so."""
    return [
        word
        for usual, ours in ((base.model, model), (base.train, config))
        for name, value in vars(ours).items()
        if value != getattr(usual, name)
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def text_sides(file: str) -> tuple[Tokenizer, np.ndarray, np.ndarray]:
    """The tokenizer of a text, and the ids of what is learned and what is held out."""
    corpus = split_text(read_shakespeare() if file == "shakespeare" else read_text(Path(file)))
    tokenizer = learn_characters(corpus.train + corpus.held_out)
    return tokenizer, encode_text(corpus.train, tokenizer), encode_text(corpus.held_out, tokenizer)


def text(file: str, seeds: int, options: dict[str, object]) -> None:
    tokenizer, tokens, held_out = text_sides(file)
    context, vocab = OUR_SHAPE.context_length, tokenizer.vocab_size
    rows = TextBatches(held_out, context, 8192)

    def look(model: Transformer, config: TrainConfig) -> Losses:
        return {"all": held_out_loss(model, rows.held_out(), byte_lengths(tokenizer), config).all.loss}

    def racer(config: TrainConfig) -> Racer:
        def build() -> Transformer:
            torch.manual_seed(config.seed)
            return Transformer(dataclasses.replace(OUR_SHAPE, vocab_size=vocab))

        batches = TextBatches(tokens, context, config.batch_tokens, config.seed)
        return Racer(build, batches, resolve(config), last_quarter(config))

    ours = dataclasses.replace(OURS, **options)
    arguments = ["--text", file, *options_for(PRESETS["tiny"], OUR_SHAPE, ours)]
    racers = [racer(dataclasses.replace(ours, seed=seed)) for seed in range(1, seeds + 1)]
    windows = RandomWindows(tokens, context, NANOGPT.batch_tokens, NANOGPT.seed)
    looks = range(LOOK_EVERY, NANOGPT.steps, LOOK_EVERY)
    plain = Racer(lambda: nanogpt(vocab), windows, resolve(NANOGPT), looks, NANOGPT_BETAS)
    torch.manual_seed(NANOGPT.seed)
    mark = plain.run(look, {"all": NANOGPT_LOSS})["all"]
    print(f"  nanoGPT's recipe: {mark.loss:.4f} at step {mark.step}, {mark.seconds:.0f} s", flush=True)
    if mark.loss > NANOGPT_LOSS:
        print("  it does not reach the target; it is counted as if it did with its last step")
    marks = {"all": dataclasses.replace(mark, loss=NANOGPT_LOSS)}
    race(f"{Path(file).name} to {NANOGPT_LOSS}", racers, plain, marks, look, arguments, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="fish, fish-single, or a text file")
    parser.add_argument("--of", choices=PARTS, nargs="+", default=PARTS, help="the tokens of chats that are judged")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of our recipe (default: the preset's)")
    parser.add_argument("--weight-decay", type=float, help="of our recipe (default: the preset's)")
    parser.add_argument("--precision", help="of our recipe (default: the device's best)")
    given = parser.parse_args()
    if given.seeds < 1 or (given.steps is not None and given.steps < 1):
        parser.error("a race needs a seed and a step")
    knobs = ("steps", "weight_decay", "precision")
    options = {name: getattr(given, name) for name in knobs if getattr(given, name) is not None}
    if given.data in ("fish", "fish-single"):
        fish(given.data == "fish-single", given.of, given.seeds, options)
    else:
        text(given.data, given.seeds, options)


if __name__ == "__main__":
    main()
