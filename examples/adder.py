"""Teach a tiny transformer to add numbers of two digits: 27+58=085.

Shows the library with no chat and no run folder: `train` needs a model and a function from a number to a batch.
A tenth of all pairs is held out in both orders: who has learned 58+27 gets no credit for 27+58.
"""

import random

import torch
from torch import Tensor

from barreleye import IGNORE, ModelConfig, Sampling, Step, TrainConfig, Transformer, generate, learn_characters, train

QUESTION = len("27+58=")
tokenizer = learn_characters("0123456789+=")


def rows(pairs: list[tuple[int, int]]) -> Tensor:
    """One sum per row, as tokens; each pair in both orders."""
    sums = sorted({(x, y) for a, b in pairs for x, y in ((a, b), (b, a))})
    return torch.tensor([tokenizer.encode(f"{x:02}+{y:02}={x + y:03}") for x, y in sums])


@torch.inference_mode()
def exact(model: Transformer, rows_BT: Tensor) -> float:
    """The share of sums that the model, shown the question, completes right in every digit."""
    tokens_BT = rows_BT[:, :QUESTION]
    while tokens_BT.shape[1] < rows_BT.shape[1]:
        likeliest_B1 = model(tokens_BT)[:, -1:].argmax(-1)
        tokens_BT = torch.cat([tokens_BT, likeliest_B1], 1)
    return (tokens_BT == rows_BT).all(1).float().mean().item()


def main() -> float:
    """Learn, and return the share of held-out sums that come out right."""
    pairs = [(a, b) for a in range(100) for b in range(a, 100)]
    random.Random(1).shuffle(pairs)
    held_out_BT, known_BT = rows(pairs[: len(pairs) // 10]), rows(pairs[len(pairs) // 10 :])

    def batches(n: int) -> tuple[Tensor, Tensor]:
        rows_BT = known_BT[torch.randint(len(known_BT), (128,), generator=torch.Generator().manual_seed(n))]
        targets_BT = rows_BT[:, 1:].clone()
        targets_BT[:, : QUESTION - 1] = IGNORE  # a question cannot be foreseen, only its answer
        return rows_BT[:, :-1], targets_BT

    def show(step: Step) -> None:
        if step.step % 50 == 0:
            answer = "".join(generate(model, tokenizer, "27+58=", 3, Sampling(temperature=0)))
            print(f"step {step.step:3}: 27+58={answer}, {exact(model, held_out_BT):.1%} of unseen sums are right")

    torch.manual_seed(1)
    vocab = tokenizer.vocab_size
    model = Transformer(ModelConfig(n_layers=2, n_heads=4, d_model=64, d_ff=256, context_length=9, vocab_size=vocab))
    train(model, batches, TrainConfig(steps=500, device="cpu", threads=1), show)
    return exact(model, held_out_BT)


if __name__ == "__main__":
    main()
