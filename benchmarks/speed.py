"""How much sooner than the plain recipe: the time to the plain recipe's lowest loss on what training never saw.

    python benchmarks/speed.py fish|fish-single [--seeds 3] [--steps N] [--precision float32] [--of replies]
    python benchmarks/speed.py FILE             # tiny Shakespeare (`shakespeare` fetches it) to 1.88, against nanoGPT

fish: conversations with unseen prompts, all of them looked at every 25 steps: every token of them, or the replies
alone. The plain curve was recorded by plain.py. fish-single: the same on conversations of one exchange, where rows need
little padding. FILE: the whole last tenth of it, in windows of 64 characters.

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
from torch.nn import functional as F

from barreleye import IGNORE, PRESETS, ModelConfig, Run, TrainConfig, Transformer, train
from barreleye.data.batches import TextBatches, encode_text
from barreleye.data.corpus import split_text
from barreleye.data.text import read_shakespeare, read_text
from barreleye.data.tokenizer import Tokenizer, learn_characters
from barreleye.model.parts import ACTIVATIONS, Activation
from barreleye.training import optimizer
from barreleye.training.device import resolve
from barreleye.training.held_out import byte_lengths, held_out_loss
from barreleye.training.loop import Batches, OnStep, Step

PLAIN_EVERY, PLAIN_STEPS, PADDING_OF = 50, 3, 100
ACTIVATIONS["exact gelu"] = Activation(F.gelu)
NANOGPT_LOSS, NANOGPT_BETAS = 1.88, (0.9, 0.99)
# The rest of RECIPE is nanoGPT's too: cosine to a tenth of the rate, weight decay 0.1 on matrices, clipping at 1.
NANOGPT = dataclasses.replace(RECIPE, steps=2000, batch_tokens=12 * 64, learning_rate=1e-3, warmup_steps=100)
NANOGPT_SHAPE = ModelConfig(n_heads=4, d_model=128, d_ff=512, context_length=64, bias=False, activation="exact gelu")
# The same size, but for 8,192 learned positions less and 4,608 biases more.
OUR_SHAPE = ModelConfig(n_heads=4, d_model=128, d_ff=512, context_length=64, positions="rope")
OURS = TrainConfig(steps=280, batch_tokens=1024, muon_rate=0.02, learning_rate=6e-3, warmup_steps=20)

Look = Callable[[Transformer, TrainConfig], float]


@dataclasses.dataclass
class Racer:
    """A recipe: how to build its model, what it reads, and how it learns."""

    build: Callable[[], Transformer]
    batches: Batches
    config: TrainConfig
    look_every: int = 25
    betas: tuple[float, float] = optimizer.ADAM_BETAS

    def train(self, batches: Batches, on_step: OnStep) -> None:
        with mock.patch.object(optimizer, "ADAM_BETAS", self.betas):
            train(self.build(), batches, self.config, on_step)

    def step_seconds(self, first: int) -> list[float]:
        """Of a few steps of a fresh model from batch `first` on, one before them not counted."""
        times = []

        def on_step(step: Step) -> bool:
            times.append(clock())
            return step.step > PLAIN_STEPS

        self.train(lambda n: self.batches(first + n), on_step)
        return [after - before for before, after in pairwise(times[1:])]

    def run(self, look: Look, target: float, meanwhile: Callable[[], None] = lambda: None) -> tuple[int, float, float]:
        """Step and seconds at which the target was reached (or the end), and the lowest loss; looking is not timed."""
        paused, best, reached = 0.0, float("inf"), (0, 0.0)

        def on_step(step: Step) -> bool:
            nonlocal paused, best, reached
            now = clock()
            if not step.step:
                paused = now
            elif step.step % self.look_every == 0 or step.step == self.config.steps:
                best = min(best, look(step.learner.model, self.config))
                reached = step.step, now - paused
            if step.step % PLAIN_EVERY == PLAIN_EVERY // 2:
                meanwhile()
            paused += clock() - now
            return best <= target

        self.train(self.batches, on_step)
        return *reached, best

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
    plain_steps: int,
    target: float,
    look: Look,
    arguments: list[str],
    promised: float,
) -> None:
    print(f"{name}; {machine.name()}")
    cold = cold_start(arguments)
    print(f"  padding: {plain.padding():.1%} of the plain recipe's tokens, {racers[0].padding():.1%} of ours")
    ratios, first = [], itertools.count(step=PLAIN_STEPS)
    for racer in racers:
        times: list[float] = []
        step, seconds, best = racer.run(look, target, lambda to=times: to.extend(plain.step_seconds(next(first))))
        plain_step = statistics.fmean(times)
        words = f"{best:.4f} at step {step}, {seconds:.0f} s" if best <= target else f"only {best:.4f}"
        print(f"  seed {racer.config.seed}: {words}; a plain step takes {plain_step:.3f} s meanwhile", flush=True)
        if best <= target:
            ratios.append((plain_steps * plain_step / seconds, (cold + plain_steps * plain_step) / (cold + seconds)))
    print(f"  the plain recipe: {target:.4f} after {plain_steps} steps; a new process: {cold:.1f} s besides its steps")
    reached = len(ratios) == len(racers)
    warm, whole = (statistics.median(kind) for kind in zip(*ratios, strict=True)) if reached else (None, None)
    machine.tell(f"{name}: times as fast, by the steps alone", warm, promised, "")
    machine.tell(f"{name}: times as fast, the start counted", whole, promised, "")


def fish(single: bool, part: str, seeds: int, options: dict[str, object]) -> None:
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
    lowest = min(looks, key=lambda look: look[part])
    vocab = material.tokenizer.vocab_size
    preset = PRESETS["fish"]

    def racer(seed: int) -> Racer:
        def build() -> Transformer:
            torch.manual_seed(seed)
            return Transformer(dataclasses.replace(preset.model, vocab_size=vocab))

        config = resolve(dataclasses.replace(preset.train, seed=seed, **options))
        return Racer(build, material.batches(config.batch_tokens, seed), config)

    on_gpu = torch.cuda.is_available()
    plain = Racer(
        lambda: plain_model(vocab),
        PaddedBatches(material),
        resolve(dataclasses.replace(RECIPE, precision="float16" if on_gpu else "float32")),
    )
    racers = [racer(seed) for seed in range(1, seeds + 1)]
    look = lambda model, config: material.look(model, config)[part]  # noqa: E731
    given = racers[0].config.precision
    promised = 20 if on_gpu else 15 if given == "bfloat16" else 6
    name = f"{material.name}, {'all tokens' if part == 'all' else part}, {given}"
    race(name, racers, plain, int(lowest["step"]), lowest[part], look, ["fish"], promised)


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


def our_options() -> list[str]:
    """What `barreleye train --text` must be given to train as ours does."""
    base = PRESETS["tiny"]
    return [
        word
        for usual, ours in ((base.model, OUR_SHAPE), (base.train, OURS))
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

    def look(model: Transformer, config: TrainConfig) -> float:
        return held_out_loss(model, rows.held_out(), byte_lengths(tokenizer), config).all.loss

    def racer(config: TrainConfig) -> Racer:
        def build() -> Transformer:
            torch.manual_seed(config.seed)
            return Transformer(dataclasses.replace(OUR_SHAPE, vocab_size=vocab))

        return Racer(build, TextBatches(tokens, context, config.batch_tokens, config.seed), resolve(config))

    windows = RandomWindows(tokens, context, NANOGPT.batch_tokens, NANOGPT.seed)
    plain = Racer(lambda: nanogpt(vocab), windows, resolve(NANOGPT), 100, NANOGPT_BETAS)
    torch.manual_seed(NANOGPT.seed)
    plain_steps, _, best = plain.run(look, NANOGPT_LOSS)
    print(f"  nanoGPT's recipe: {best:.4f} at step {plain_steps}", flush=True)
    if best > NANOGPT_LOSS:
        print("  it does not reach the target; it is counted as if it did with its last step")
    arguments = ["--text", file, *our_options()]
    print(f"  ours: {shlex.join(['barreleye', 'train', *arguments])}")
    racers = [racer(dataclasses.replace(OURS, seed=seed, **options)) for seed in range(1, seeds + 1)]
    race(f"{Path(file).name} to {NANOGPT_LOSS}", racers, plain, plain_steps, NANOGPT_LOSS, look, arguments, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="fish, fish-single, or a text file")
    parser.add_argument("--of", choices=("all", "replies"), default="all", help="the tokens of chats that are judged")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of our recipe (default: the preset's)")
    parser.add_argument("--precision", help="of our recipe (default: the device's best)")
    given = parser.parse_args()
    options = {name: getattr(given, name) for name in ("steps", "precision") if getattr(given, name)}
    if given.data in ("fish", "fish-single"):
        fish(given.data == "fish-single", given.of, given.seeds, options)
    else:
        text(given.data, given.seeds, options)


if __name__ == "__main__":
    main()
