"""Who moves which weights, and how fast: AdamW, Muon, and the schedule they share."""

import math

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from barreleye.config import TrainConfig
from barreleye.training.device import DTYPES
from barreleye.training.muon import Muon

ADAM_BETAS = (0.9, 0.95)
MUON_MOMENTUM = 0.95


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """AdamW (Loshchilov and Hutter 2019); with `muon`, the matrices inside the blocks go to Muon, which makes every
    direction of an update equally large. Matrices alone decay. `config` is a resolved one."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    block_matrices = [p for name, p in named if p.ndim == 2 and name.startswith("blocks.")]
    muon = block_matrices if config.optimizer == "muon" else []
    taken = {id(p) for p in muon}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [
        AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=ADAM_BETAS, fused=True)
    ]
    if muon:
        optimizers.append(Muon(muon, config.muon_rate, MUON_MOMENTUM, config.weight_decay, DTYPES[config.precision]))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of step `step` (from 0), as a share of the peak: warm-up, then decay to `final_rate`."""
    warmup = min(config.warmup_steps, config.steps // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, config.steps - warmup)
    match config.schedule:
        case "constant":
            fall = 0.0
        case "linear":
            fall = progress
        case "cosine":
            fall = 0.5 - 0.5 * math.cos(math.pi * progress)
        case _:  # warm-up, stay, decay (Hu et al. 2024, MiniCPM)
            fall = max(0.0, (progress - 0.8) / 0.2)
    return 1 - fall * (1 - config.final_rate)


def set_rate(optimizers: list[Optimizer], share: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share


def optimizer_tensors(optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """Every tensor of the optimizers' memory under a flat name: `<optimizer>.<parameter>.<moment>`."""
    return {
        f"{i}.{index}.{key}": tensor
        for i, optimizer in enumerate(optimizers)
        for index, memory in optimizer.state_dict()["state"].items()
        for key, tensor in memory.items()
    }


def restore_optimizers(optimizers: list[Optimizer], tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    for i, optimizer in enumerate(optimizers):
        memory: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, index, key = name.split(".", 2)
            if int(number) == i:
                memory.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})
