"""The machine that the figures are of, by name and by what it multiplies.

python benchmarks/machine.py
"""

import dataclasses
import os
import platform
from pathlib import Path

import torch

from barreleye import TrainConfig
from barreleye.training.device import peak_flops, resolve


def name() -> str:
    """The processor, its cores, and the GPU if there is one."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    processor = models[0].partition(": ")[2] if models else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor}, {os.cpu_count()} cores{gpu}"


def main() -> None:
    config = resolve(TrainConfig())
    peaks = {
        precision: peak_flops(dataclasses.replace(config, precision=precision))
        for precision in dict.fromkeys(("float32", config.precision))
    }
    words = ", ".join(f"{precision} {flops / 1e9:,.0f} GFLOP/s" for precision, flops in peaks.items())
    print(f"{name()}; torch {torch.__version__}, large products on {config.device}: {words}")


if __name__ == "__main__":
    main()
