"""Where and how precisely to compute: every `auto` is resolved once and written down with the run."""

import contextlib
import dataclasses

import torch

from barreleye.config import TrainConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve(config: TrainConfig) -> TrainConfig:
    """The same configuration with device, precision and threads decided. Raises ValueError for a device that is not
    there, or a precision that it lacks."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    check_device(device)
    precision = config.precision
    if precision == "auto":
        precision = best_precision(device)
    if precision == "float16" and device == "cpu":
        raise ValueError(
            "precision float16 needs a GPU (its gradients underflow without a scaler); use bfloat16 or float32"
        )
    return dataclasses.replace(
        config, device=device, precision=precision, threads=config.threads or torch.get_num_threads()
    )


def check_device(device: str) -> None:
    kind = device.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there:
        raise ValueError(f"device cannot be {device!r}; choose auto, cpu, cuda or mps")
    if not there[kind]:
        raise ValueError(f"this machine has no {kind} device that torch can use; --device auto takes the best there is")


def best_precision(device: str) -> str:
    """bfloat16 where the hardware multiplies it, float16 on older GPUs, else float32."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    if device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "bfloat16"
    return "float32"


def autocast(config: TrainConfig) -> contextlib.AbstractContextManager[object]:
    if config.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(config.device.partition(":")[0], DTYPES[config.precision])
