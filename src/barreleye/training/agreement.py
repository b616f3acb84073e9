"""Does a device compute what the CPU does? Asked once, before a training on another device begins."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from barreleye.config import TrainConfig
from barreleye.training.device import autocast
from barreleye.training.loss import summed_cross_entropy
from barreleye.training.probe import group_of, number


def compare_with_cpu(model: nn.Module, tokens_BT: Tensor, targets_BT: Tensor, config: TrainConfig) -> dict[str, Any]:
    """loss: nats per token on the CPU in float32, and on the device as it trains. apart: by group of weights, how far
    its gradient is from the CPU's, as a share of the CPU's length."""
    model.eval()
    here = copy.deepcopy(model).cpu()
    loss_here, gradients_here = _loss_and_gradients(here, tokens_BT, targets_BT)
    with autocast(config):
        loss, gradients = _loss_and_gradients(model, tokens_BT.to(config.device), targets_BT.to(config.device))
    apart: dict[str, float | None] = {}
    for group in gradients_here:
        expected, found = torch.cat(gradients_here[group]), torch.cat(gradients[group])
        if length := float(expected.norm()):
            apart[group] = number(float((found - expected).norm()) / length)
    return {"loss": [number(loss_here), number(loss)], "apart": apart}


def _loss_and_gradients(
    model: nn.Module, tokens_BT: Tensor, targets_BT: Tensor
) -> tuple[float, dict[str, list[Tensor]]]:
    named = dict(model.named_parameters())
    loss = summed_cross_entropy(model(tokens_BT), targets_BT) / targets_BT.numel()
    groups: dict[str, list[Tensor]] = {}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    for (name, parameter), gradient in zip(named.items(), found, strict=True):
        there = torch.zeros_like(parameter) if gradient is None else gradient
        groups.setdefault(group_of(name), []).append(there.float().cpu().flatten())
    return loss.item(), groups
