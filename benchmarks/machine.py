"""The machine that the figures are of: by name, and by what it multiplies.

    python benchmarks/machine.py

Other benchmarks `tell` here what they measured beside what was promised; `make bench` collects those lines.
"""

import dataclasses
import os
import platform
import resource
import sys
from pathlib import Path

import torch

from barreleye import TrainConfig
from barreleye.training.device import peak_flops, resolve

FLAGS = ("avx512_bf16", "amx_bf16")  # what multiplies bfloat16: machines that share a name differ in it


def name() -> str:
    """The processor, its cores, and the GPU if there is one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    processor = said.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in said:
        flags = [flag for flag in FLAGS if flag in said.get("flags", "").split()]
        kinds = [f"family {said['cpu family']}", f"model {said['model']}", *flags]
        processor += f" ({', '.join(kinds)})"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor}, {os.cpu_count()} cores{gpu}"


def tell(what: str, measured: float | None, promised: float, unit: str = "times", at_most: bool = False) -> None:
    """A line of the table; `measured` is None where what was promised did not happen at all."""
    met = measured is not None and (measured <= promised if at_most else measured >= promised)
    figure = "-" if measured is None else f"{measured:,.{3 if measured < 100 else 0}f}"
    bound = f"{'at most' if at_most else 'at least'} {promised:,g}"
    line = f"{what:72}{figure:>10} {unit:9} promised: {bound:16}{'met' if met else 'MISSED'}"
    print(line, flush=True)
    if table := os.environ.get("BENCH_TABLE"):
        with Path(table).open("a", encoding="utf-8") as file:
            print(line, file=file)


def peak_memory() -> int:
    """Bytes, the most that this process has held. macOS counts bytes, Linux KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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
