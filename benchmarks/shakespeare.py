"""Tiny Shakespeare by characters: how low, how fast.

    python benchmarks/shakespeare.py FILE [--preset tiny] [--steps N]

Trains as `barreleye train --text FILE --preset P` does and scores the whole last tenth of the file, in windows of the
model's context that do not overlap. nanoGPT's recipe for a CPU is known for 1.88.
"""

import argparse
import tempfile
import time
from pathlib import Path

from machine import tell

from barreleye import grow
from barreleye.run import latest_score

TARGET = 1.88


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="tinyshakespeare.txt, or `shakespeare` to fetch it")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, help="fewer steps than the preset's (small and medium are slow on a CPU)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = grow(
            text=arguments.text, preset=arguments.preset, out=Path(folder) / "run", quiet=True, steps=arguments.steps
        )
        seconds = time.perf_counter() - began
        lines = run.metrics()
    score = latest_score(lines)["all"]
    last = [line for line in lines if "loss" in line][-1]
    print(
        f"{arguments.preset}: validation loss {score['loss']:.4f} over {score['tokens']:,} characters after"
        f" {last['step']} steps, {seconds:.0f} s in all, {1000 * last['seconds'] / last['step']:.0f} ms per step"
    )
    tell(
        f"--preset {arguments.preset}: validation loss, against nanoGPT's CPU headline",
        score["loss"],
        TARGET,
        "nats",
        at_most=True,
    )


if __name__ == "__main__":
    main()
