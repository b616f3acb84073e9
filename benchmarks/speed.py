"""How much sooner than the plain recipe: the time to the plain recipe's lowest loss on what training never saw.

    python benchmarks/speed.py fish|fish-single [--seeds 3] [--steps N] [--precision float32]
    python benchmarks/speed.py FILE             # tiny Shakespeare (`shakespeare` fetches it) to 1.88, against nanoGPT

fish: conversations with unseen prompts, all of them looked at every 25 steps: every token of them, or the replies alone
(--of replies). The plain curve was recorded by plain.py. fish-single: the same on conversations of one exchange, where
rows need little padding. FILE: the whole last tenth of it, in windows of 64 characters, against nanoGPT's recipe for a
CPU. The clock of both stands still while they are looked at. The plain recipe's step is timed between ours, in the same
run; one ratio is of the training alone, the other counts what `barreleye train` needs besides its steps, on both sides.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from plain import RECIPE, Material, PaddedBatches, plain_model

from barreleye import PRESETS, ModelConfig, Run, TrainConfig, Transformer, train
from barreleye.data.batches import TextBatches, encode_text
from barreleye.data.corpus import split_text
from barreleye.data.text import read_shakespeare, read_text
from barreleye.data.tokenizer import Tokenizer, learn_characters
from barreleye.training.device import resolve
from barreleye.training.held_out import byte_lengths, held_out_loss
from barreleye.training.loop import Batches, Step

PLAIN_EVERY, PLAIN_STEPS = 50, 3
NANOGPT_LOSS = 1.88
NANOGPT = dataclasses.replace(RECIPE, steps=2000, batch_tokens=12 * 64, learning_rate=1e-3, warmup_steps=100)
SHAPE = ModelConfig(n_heads=4, d_model=128, d_ff=512, context_length=64)
OUR_SHAPE = dataclasses.replace(SHAPE, positions="rope")  # the same size, but for 8,192 learned positions
OURS = TrainConfig(steps=280, batch_tokens=1024, muon_rate=0.02, learning_rate=6e-3, warmup_steps=20)

Look = Callable[[Transformer, TrainConfig], float]


@dataclasses.dataclass
class Racer:
    """A recipe: how to build its model, what it reads, and how it learns."""

    build: Callable[[], Transformer]
    batches: Batches
    config: TrainConfig
    look_every: int = 25

    def step_seconds(self, first: int) -> list[float]:
        """Of a few steps of a fresh model from batch `first` on, one before them not counted."""
        clock = []

        def on_step(step: Step) -> bool:
            clock.append(time.perf_counter())
            return step.step > PLAIN_STEPS

        train(self.build(), lambda n: self.batches(first + n), self.config, on_step)
        return [after - before for before, after in pairwise(clock[1:])]

    def run(self, look: Look, target: float, meanwhile: Callable[[], None] = lambda: None) -> tuple[int, float, float]:
        """Step and seconds at which the target was reached (or the end), and the lowest loss; looking is not timed."""
        paused, best, reached = 0.0, float("inf"), (0, 0.0)

        def on_step(step: Step) -> bool:
            nonlocal paused, best, reached
            began = time.perf_counter()
            if step.step and (step.step % self.look_every == 0 or step.step == self.config.steps):
                best = min(best, look(step.learner.model, self.config))
                reached = step.step, step.seconds - paused
            if step.step % PLAIN_EVERY == PLAIN_EVERY // 2:
                meanwhile()
            paused += time.perf_counter() - began
            return best <= target

        train(self.build(), self.batches, self.config, on_step)
        return *reached, best


def cold_start(*source: str) -> tuple[float, int]:
    """What `barreleye train` takes besides its steps, in a new process: seconds, and bytes of memory at its peak."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "barreleye", "train", *source, "--steps", "3", "--quiet", "--out", str(run)]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began - max(line.get("seconds", 0.0) for line in Run(run).metrics())
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def race(
    name: str, racers: list[Racer], plain: Racer, plain_steps: int, target: float, look: Look, source: list[str]
) -> None:
    cold, memory = cold_start(*source)
    plain_times: list[float] = []
    ratios = []
    for racer in racers:
        step, seconds, best = racer.run(look, target, lambda: plain_times.extend(plain.step_seconds(len(plain_times))))
        plain_seconds = plain_steps * statistics.fmean(plain_times)
        if best <= target:
            ratios.append((plain_seconds / seconds, (cold + plain_seconds) / (cold + seconds)))
        words = f"{best:.4f} at step {step}, {seconds:.0f} s" if best <= target else f"only {best:.4f}"
        print(f"  seed {racer.config.seed}: {words}", flush=True)
    print(f"  a plain step takes {statistics.fmean(plain_times):.3f} s")
    print(f"  a new process needs {cold:.1f} s besides its steps, and {memory / 2**20:,.0f} MiB at its peak")
    print(f"{name}: plain recipe {target:.4f} after {plain_steps} steps, {plain_seconds:,.0f} s")
    if len(ratios) == len(racers):
        warm, whole = (statistics.median(kind) for kind in zip(*ratios, strict=True))
        print(f"{name}: {warm:.1f} times as fast, {whole:.1f} with the start counted (median of {len(racers)} seeds)")


def fish(single: bool, part: str, seeds: int, options: dict[str, object]) -> None:
    material = Material.of_fish(single)
    curve = json.loads(material.curve_file.read_text())
    assert curve["fingerprint"] == material.fingerprint, "the data has changed: record the curve again (plain.py)"
    assert curve["looks"][-1]["step"] == RECIPE.steps, "the recording is not finished (plain.py)"
    lowest = min(curve["looks"], key=lambda look: look[part])
    vocab = material.tokenizer.vocab_size
    preset = PRESETS["fish"]

    def racer(seed: int) -> Racer:
        def build() -> Transformer:
            torch.manual_seed(seed)
            return Transformer(dataclasses.replace(preset.model, vocab_size=vocab))

        config = resolve(dataclasses.replace(preset.train, seed=seed, **options))
        return Racer(build, material.batches(config.batch_tokens, seed), config)

    precision = "float16" if torch.cuda.is_available() else "float32"
    plain = Racer(
        lambda: plain_model(vocab),
        PaddedBatches(material),
        resolve(dataclasses.replace(RECIPE, precision=precision)),
    )
    racers = [racer(seed) for seed in range(1, seeds + 1)]
    look = lambda model, config: material.look(model, config)[part]  # noqa: E731
    race(f"{material.name}, {part}", racers, plain, lowest["step"], lowest[part], look, ["fish"])


def text_sides(file: str) -> tuple[Tokenizer, np.ndarray, np.ndarray]:
    """The tokenizer of a text, and the ids of what is learned and what is held out."""
    corpus = split_text(read_shakespeare() if file == "shakespeare" else read_text(Path(file)))
    tokenizer = learn_characters(corpus.train + corpus.held_out)
    return tokenizer, encode_text(corpus.train, tokenizer), encode_text(corpus.held_out, tokenizer)


def text(file: str, seeds: int, options: dict[str, object]) -> None:
    tokenizer, tokens, held_out = text_sides(file)
    rows = TextBatches(held_out, SHAPE.context_length, 8192)

    def look(model: Transformer, config: TrainConfig) -> float:
        return held_out_loss(model, rows.held_out(), byte_lengths(tokenizer), config).all.loss

    def racer(config: TrainConfig, plain: bool) -> Racer:
        def build() -> Transformer:
            torch.manual_seed(config.seed)
            if plain:
                return plain_model(tokenizer.vocab_size, SHAPE)
            return Transformer(dataclasses.replace(OUR_SHAPE, vocab_size=tokenizer.vocab_size))

        batches = TextBatches(tokens, SHAPE.context_length, config.batch_tokens, config.seed)
        return Racer(build, batches, resolve(config), look_every=100 if plain else 25)

    plain = racer(NANOGPT, plain=True)
    plain_steps, _, best = plain.run(look, NANOGPT_LOSS)
    print(f"  nanoGPT's recipe: {best:.4f} at step {plain_steps}", flush=True)
    if best > NANOGPT_LOSS:
        print("  it does not reach the target; it is counted as if it did with its last step")
    racers = [racer(dataclasses.replace(OURS, seed=seed, **options), plain=False) for seed in range(1, seeds + 1)]
    race(Path(file).name, racers, plain, plain_steps, NANOGPT_LOSS, look, ["--text", file])


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
