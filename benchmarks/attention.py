"""Fused against spelled-out attention on this machine: forward and backward of a block's attention, by row length.

python benchmarks/attention.py
"""

import statistics
import time

import torch
from torch import Tensor

from barreleye.model.transformer import fused_attention, masked_scores
from barreleye.training.device import best_precision

TOKENS, HEADS, D_HEAD, ROUNDS = 2048, 6, 64, 15


def spelled_out(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor) -> Tensor:
    pattern_BHQK = masked_scores(q_BTHD, k_BTHD).softmax(-1)
    return (pattern_BHQK @ v_BTHD.transpose(1, 2)).transpose(1, 2)


def fused(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor) -> Tensor:
    return fused_attention(q_BTHD, k_BTHD, v_BTHD, dropout=0.0)


def seconds(attention: object, length: int, dtype: torch.dtype) -> float:
    shape = (TOKENS // length, length, HEADS, D_HEAD)
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    began = time.perf_counter()
    attention(q, k, v).sum().backward()  # type: ignore[operator]
    return time.perf_counter() - began


def main() -> None:
    dtype = getattr(torch, best_precision("cpu"))
    print(f"{TOKENS} tokens, {HEADS} heads of {D_HEAD}, {dtype}, forward and backward")
    for length in (16, 32, 64, 128, 256, 512, 1024):
        ratios = []
        for round_number in range(ROUNDS + 3):
            ratio = seconds(fused, length, dtype) / seconds(spelled_out, length, dtype)
            if round_number >= 3:  # the first ones warm up
                ratios.append(ratio)
        print(f"rows of {length:4}: fused takes {statistics.median(ratios):.2f} of the time of spelled-out")


if __name__ == "__main__":
    main()
