"""Fused against spelled-out attention on this machine: forward and backward of the default fish, by length of row.

python benchmarks/attention.py
"""

import dataclasses
import statistics
import time

import torch

from barreleye import PRESETS, Transformer
from barreleye.config import TrainConfig
from barreleye.model import transformer
from barreleye.training.device import autocast, resolve

TOKENS, ROUNDS, WARM_UP = 2048, 6, 2


def seconds(model: Transformer, tokens_BT: torch.Tensor, config: TrainConfig, fused: bool) -> float:
    transformer.fused_pays = lambda q_BTHD, k_BTHD: fused
    began = time.perf_counter()
    with autocast(config):
        logits_BTV = model(tokens_BT)
    logits_BTV.float().logsumexp(-1).sum().backward()
    return time.perf_counter() - began


def main() -> None:
    config = resolve(TrainConfig(device="cpu"))
    shape = dataclasses.replace(PRESETS["fish"].model, vocab_size=4096, context_length=1024)
    model = Transformer(shape)
    print(f"{TOKENS} tokens through the default fish, {config.precision}, forward and backward")
    for length in (32, 64, 128, 256, 512, 1024):
        tokens_BT = torch.randint(shape.vocab_size, (TOKENS // length, length))
        ratios = [
            seconds(model, tokens_BT, config, fused=True) / seconds(model, tokens_BT, config, fused=False)
            for _ in range(ROUNDS + WARM_UP)
        ]
        print(f"rows of {length:4}: fused takes {statistics.median(ratios[WARM_UP:]):.2f} of the time of spelled-out")


if __name__ == "__main__":
    main()
