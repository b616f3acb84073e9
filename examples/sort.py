"""Teach a transformer of one layer to sort eight digits: 3 1 4 1 5 9 2 6 > 1 1 2 3 4 5 6 9.

Shows that a token need not be text: here it is the digit itself, and 10 is the sign that asks for the answer.
Sorted lists are held out, so no list of the test, nor any rearrangement of it, was seen in training.
"""

import random
from itertools import combinations_with_replacement

import torch
from torch import Generator, Tensor

from barreleye import IGNORE, ModelConfig, Step, TrainConfig, Transformer, train

LENGTH, ASK = 8, 10


def rows(sorted_BT: Tensor, generator: Generator) -> Tensor:
    """The digits in random order, the sign, the digits sorted; shape (B, 2 * LENGTH + 1)."""
    order_BT = torch.rand(sorted_BT.shape, generator=generator).argsort(1)
    ask_B1 = torch.full((len(sorted_BT), 1), ASK)
    return torch.cat([sorted_BT.gather(1, order_BT), ask_B1, sorted_BT], 1)


@torch.inference_mode()
def exact(model: Transformer, rows_BT: Tensor) -> float:
    """The share of lists that the model, shown digits and sign, sorts with every digit in its place."""
    tokens_BT = rows_BT[:, : LENGTH + 1]
    for _ in range(LENGTH):
        tokens_BT = torch.cat([tokens_BT, model(tokens_BT)[:, -1:].argmax(-1)], 1)
    return (tokens_BT == rows_BT).all(1).float().mean().item()


def main() -> float:
    """Learn, and return the share of held-out lists that come out sorted."""
    lists = list(combinations_with_replacement(range(10), LENGTH))  # all 24,310 sorted ones
    random.Random(1).shuffle(lists)
    test_BT, known_BT = rows(torch.tensor(lists[:1000]), Generator()), torch.tensor(lists[1000:])

    def batches(n: int) -> tuple[Tensor, Tensor]:
        generator = Generator().manual_seed(n)
        rows_BT = rows(known_BT[torch.randint(len(known_BT), (128,), generator=generator)], generator)
        targets_BT = rows_BT[:, 1:].clone()
        targets_BT[:, :LENGTH] = IGNORE  # random digits cannot be foreseen, only their order
        return rows_BT[:, :-1], targets_BT

    def show(step: Step) -> None:
        if step.step % 60 == 0:
            print(f"step {step.step:3}: {exact(model, test_BT):.1%} of unseen lists are sorted")

    torch.manual_seed(1)
    model = Transformer(ModelConfig(n_layers=1, n_heads=4, d_model=64, d_ff=256, context_length=17, vocab_size=11))
    train(model, batches, TrainConfig(steps=600, device="cpu", threads=1), show)
    return exact(model, test_BT)


if __name__ == "__main__":
    main()
