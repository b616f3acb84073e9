"""Does a device compute what the CPU does? Asked once, before a training goes on on another device."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from barreleye.config import TrainConfig
from barreleye.training.device import autocast
from barreleye.training.loss import summed_cross_entropy
from barreleye.training.probe import number


def compare_with_cpu(model: nn.Module, tokens_BT: Tensor, targets_BT: Tensor, config: TrainConfig) -> dict[str, Any]:
    """loss: nats per token on the CPU in float32, and on the device as it trains. apart: by weight, how far its
    gradient is from the CPU's, as a share of its length. Both compute with the same noise added to the weights."""
    model.eval()
    weights = noisy(model)
    loss_here, here = _loss_and_gradients(copy.deepcopy(model).cpu(), weights, tokens_BT, targets_BT)
    with autocast(config):
        place = config.device
        there = {name: weight.to(place) for name, weight in weights.items()}
        loss, found = _loss_and_gradients(model, there, tokens_BT.to(place), targets_BT.to(place))
    apart: dict[str, float | None] = {}
    for name, expected in here.items():
        if length := float(expected.norm()):
            apart[name] = number(float((found[name] - expected).norm()) / length)
    return {"loss": [number(loss_here), number(loss)], "apart": apart}


def noisy(model: nn.Module) -> dict[str, Tensor]:
    """The weights on the CPU, matrices with noise: output projections start at zero, and let no gradient through."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: parameter.detach().cpu().float() for name, parameter in model.named_parameters()}
    return {
        name: w + torch.randn(w.shape, generator=generator) / w.shape[-1] ** 0.5 if w.ndim > 1 else w
        for name, w in weights.items()
    }


def _loss_and_gradients(
    model: nn.Module, weights: dict[str, Tensor], tokens_BT: Tensor, targets_BT: Tensor
) -> tuple[float, dict[str, Tensor]]:
    weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    loss = summed_cross_entropy(functional_call(model, weights, (tokens_BT,)), targets_BT) / targets_BT.numel()
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return loss.item(), {
        name: torch.zeros(weight.shape) if gradient is None else gradient.float().cpu()
        for (name, weight), gradient in zip(weights.items(), found, strict=True)
    }
