"""When does an attention-only model learn to go on with what was said before, and is its induction head found then?

Rows of random tokens, each repeated with a period of its own (Olsson et al. 2022): two layers can learn it, one cannot.

python benchmarks/induction.py [--layers 2] [--steps 400] [--seed 0]
"""

import argparse
import time
from dataclasses import dataclass

import torch

from barreleye import ModelConfig, TrainConfig, Transformer, train
from barreleye.data.tokenizer import learn_characters
from barreleye.lens.attention import classify_heads, in_context_loss, repeated_tokens
from barreleye.training.loop import Step

TOKENS, LENGTH, ROWS = 32, 64, 32
LETTERS = learn_characters("".join(map(chr, range(ord("A"), ord("A") + TOKENS))))


@dataclass(frozen=True)
class Moment:
    """Mean loss in nats on tokens that are new and on those that repeat, and the largest induction score of a head in
    each layer."""

    step: int
    new: float
    repeated: float
    induction: list[float]


def watch(layers: int, steps: int, seed: int = 0, every: int = 25) -> list[Moment]:
    """Train a model of so many layers, and look at its heads now and then.

    Positions are rotary: from learned ones, which begin as sines, such a model finds its way by distances and needs no
    induction head.
    """
    torch.manual_seed(seed)
    shape = dict(n_layers=layers, n_heads=2, d_model=64, d_ff=0, context_length=LENGTH, vocab_size=TOKENS)
    model = Transformer(ModelConfig(**shape, positions="rope"))
    config = TrainConfig(steps=steps, muon_rate=0.02, schedule="constant", warmup_steps=10, device="cpu",
                         precision="float32", threads=1)  # fmt: skip
    unseen_BT = repeated_tokens(model, ROWS, LENGTH, seed=2**40)
    moments = []

    def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows_BT = repeated_tokens(model, ROWS, LENGTH, seed=2**20 * seed + n)
        return rows_BT[:, :-1], rows_BT[:, 1:]

    def on_step(step: Step) -> None:
        if step.step % every == 0:
            scores_LH = classify_heads((model, LETTERS)).scores["induction"]
            moments.append(Moment(step.step, *in_context_loss(model, unseen_BT), scores_LH.max(1).values.tolist()))

    train(model, batch, config, on_step)
    return moments


def main() -> None:
    options = argparse.ArgumentParser()
    for name, default in (("layers", 2), ("steps", 400), ("seed", 0)):
        options.add_argument(f"--{name}", type=int, default=default)
    given = options.parse_args()
    began = time.perf_counter()
    print("step   loss, new   loss, repeated   induction by layer")
    for moment in watch(given.layers, given.steps, given.seed):
        scores = "  ".join(f"{score:.2f}" for score in moment.induction)
        print(f"{moment.step:4} {moment.new:11.3f} {moment.repeated:16.3f}   {scores}")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
