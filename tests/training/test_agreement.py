import copy
from typing import Any

import pytest
import torch

from barreleye.config import Config, ModelConfig, TrainConfig
from barreleye.model.transformer import Transformer
from barreleye.training.agreement import compare_with_cpu
from barreleye.training.doctor import examine

CONFIG = TrainConfig(device="cpu", precision="float32")
TOKENS = torch.randint(0, 30, (4, 16), generator=torch.Generator().manual_seed(0))


class Device(Transformer):
    """Computes as its copy on the CPU does, unless a fault is planted that copying does not carry along."""

    forward_factor = backward_factor = 1.0

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        logits_BTV = super().forward(*args, **kwargs) * self.forward_factor
        if logits_BTV.requires_grad:
            logits_BTV.register_hook(lambda gradient: gradient * self.backward_factor)
        return logits_BTV

    def __deepcopy__(self, memo: dict[int, Any]) -> Transformer:
        right = Transformer(self.config)
        right.load_state_dict(copy.deepcopy(self.state_dict(), memo))
        return right


def build(seed: int, **factors: float) -> Device:
    torch.manual_seed(seed)
    model = Device(ModelConfig(n_layers=2, n_heads=2, d_model=32, d_ff=64, context_length=16, vocab_size=30))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    for name, factor in factors.items():
        setattr(model, name, factor)
    return model


def findings(model: Device, config: TrainConfig) -> list[str]:
    compared = compare_with_cpu(model, TOKENS[:, :-1], TOKENS[:, 1:], config)
    return [f.name for f in examine(Config(model=model.config, train=config), [{"step": 0, "device_check": compared}])]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_device_that_computes_as_the_cpu_does_is_left_alone(seed: int, precision: str) -> None:
    assert findings(build(seed), TrainConfig(device="cpu", precision=precision)) == []


@pytest.mark.parametrize(
    "fault", [dict(forward_factor=1.5), dict(backward_factor=0.5), dict(backward_factor=torch.nan)]
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_wrong_forward_or_backward_pass_is_named(seed: int, fault: dict[str, float]) -> None:
    assert findings(build(seed, **fault), CONFIG) == ["the device does not compute what the CPU does"]


def test_comparing_leaves_no_trace() -> None:
    model = build(1)
    first = compare_with_cpu(model, TOKENS[:, :-1], TOKENS[:, 1:], CONFIG)
    assert first["apart"].keys() >= {"embed", "blocks.0.attn", "blocks.1.mlp"}
    assert first["loss"][0] == pytest.approx(first["loss"][1]) and max(first["apart"].values()) < 1e-5
    assert all(p.grad is None for p in model.parameters())
