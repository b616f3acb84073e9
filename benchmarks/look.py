"""How long a look at a prompt takes: every activation of the default fish on 64 tokens, with its logits.

python benchmarks/look.py
"""

import dataclasses
import statistics
import time

import torch
from machine import name, tell

from barreleye import PRESETS, Transformer
from barreleye.data.tokenizer import learn_characters
from barreleye.lens.view import look

TOKENS, ROUNDS, WARM_UP, PROMISED = 64, 30, 5, 50


def main() -> None:
    tokenizer = learn_characters("".join(map(chr, range(0x4E00, 0x4E00 + 4096))))
    model = Transformer(dataclasses.replace(PRESETS["fish"].model, vocab_size=tokenizer.vocab_size)).eval()
    ids = torch.randint(4096, (TOKENS,)).tolist()
    times = []
    for _ in range(ROUNDS + WARM_UP):
        began = time.perf_counter()
        view = look((model, tokenizer), ids)
        times.append(1000 * (time.perf_counter() - began))
    kept = sum(view[each].numel() for each in view.shapes) * 4 / 2**20
    middle = statistics.median(times[WARM_UP:])
    print(f"{name()}, {torch.get_num_threads()} threads")
    tell(f"look at {TOKENS} tokens", middle, PROMISED, "ms", at_most=True)
    print(f"{len(view.shapes)} activations, {kept:.0f} MiB")


if __name__ == "__main__":
    main()
