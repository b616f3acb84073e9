"""Where and how precisely to compute: every `auto` is resolved once and written down with the run."""

import contextlib
import dataclasses
import os
import time

import torch
from torch import Tensor

from barreleye.config import TrainConfig

LONG_ENOUGH = 0.01  # seconds, for a measured product
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve(config: TrainConfig) -> TrainConfig:
    """The same configuration with device, precision and threads decided. Raises ValueError for a device that is not
    there, or a precision that it lacks."""
    device = pick_device(config.device)
    precision = config.precision
    if precision == "auto":
        precision = best_precision(device)
    if precision == "float16" and kind_of(device) == "cpu":
        raise ValueError(
            "precision float16 needs a GPU (its gradients underflow without a scaler); use bfloat16 or float32"
        )
    return dataclasses.replace(
        config, device=device, precision=precision, threads=config.threads or torch.get_num_threads()
    )


def pick_device(device: str) -> str:
    """The device itself, or the best there is for `auto`. Raises ValueError for one that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    check_device(device)
    return device


def check_device(device: str) -> None:
    kind, _, number = device.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in there or not (number or "0").isdecimal():
        raise ValueError(f"device cannot be {device!r}; choose auto, cpu, cuda or mps")
    if int(number or 0) >= there[kind]:
        raise ValueError(f"this machine has no {device} device that torch can use; --device auto takes the best")


def memory_of(device: str) -> int | None:
    """All the bytes of memory that a device has; None where nobody says."""
    if kind_of(device) == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def kind_of(device: str) -> str:
    return device.partition(":")[0]  # "cuda:1" is a "cuda"


def best_precision(device: str) -> str:
    """bfloat16 where the hardware multiplies it, float16 on older GPUs, else float32."""
    if kind_of(device) == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    if kind_of(device) == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "bfloat16"
    return "float32"


def peak_flops(config: TrainConfig) -> float:
    """FLOP/s of a large matrix product on the device, at the training's precision: what utilization is a share of."""
    torch.set_num_threads(config.threads)
    n, seconds = 512, 0.0
    while seconds < LONG_ENOUGH and n < 16_384:
        n *= 2
        square = torch.full((n, n), 0.5, device=config.device, dtype=DTYPES[config.precision])  # draws no random number
        seconds = min(_seconds_to_square(square) for _ in range(3))
    return 2 * n**3 / seconds


def _seconds_to_square(square: Tensor) -> float:
    began = time.perf_counter()
    float((square @ square)[0, 0])  # waits for the device
    return time.perf_counter() - began


def autocast(config: TrainConfig) -> contextlib.AbstractContextManager[object]:
    if config.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(kind_of(config.device), DTYPES[config.precision])


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The state of every random generator that a training on `device` draws from: dropout draws from the device's."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:  # not there, where the run moved to another device
        torch.cuda.set_rng_state(states["cuda"], device)
    if device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
