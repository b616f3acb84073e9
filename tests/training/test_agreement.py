import copy
from typing import Any, ClassVar

import pytest
import torch

from barreleye.config import Config, ModelConfig, TrainConfig
from barreleye.model.transformer import Transformer
from barreleye.training.agreement import compare_with_cpu
from barreleye.training.doctor import examine

CONFIG = TrainConfig(device="cpu", precision="float32")
WRONG = "the device does not compute what the CPU does"
TOKENS = torch.randint(0, 30, (4, 16), generator=torch.Generator().manual_seed(0))


class Device(Transformer):
    """Computes as its copy on the CPU does, unless a fault is planted that copying does not carry along: by the name of
    a tensor, the factor of it (`forward`) or of its gradient (`backward`)."""

    forward_faults: ClassVar[dict[str, float]] = {}
    backward_faults: ClassVar[dict[str, float]] = {}

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        logits_BTV = super().forward(*args, **kwargs, tap=self.fault)
        return self.fault("logits", logits_BTV)

    def fault(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor * self.forward_faults.get(name, 1.0)
        if tensor.requires_grad and name in self.backward_faults:
            tensor.register_hook(lambda gradient: gradient * self.backward_faults[name])
        return tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> Transformer:
        right = Transformer(self.config)
        right.load_state_dict(copy.deepcopy(self.state_dict(), memo))
        return right


def build(seed: int, **faults: dict[str, float]) -> Device:
    """As it is before the first step: its output projections are zero."""
    torch.manual_seed(seed)
    model = Device(ModelConfig(n_layers=2, n_heads=2, d_model=32, d_ff=64, context_length=16, vocab_size=30))
    for name, factors in faults.items():
        setattr(model, name, factors)
    return model


def findings(model: Device, config: TrainConfig) -> list[str]:
    compared = compare_with_cpu(model, TOKENS[:, :-1], TOKENS[:, 1:], config)
    return named(compared, model.config, config)


def named(compared: dict[str, Any], model: ModelConfig, config: TrainConfig = CONFIG) -> list[str]:
    return [f.name for f in examine(Config(model=model, train=config), [{"step": 0, "device_check": compared}])]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_device_that_computes_as_the_cpu_does_is_left_alone(seed: int, precision: str) -> None:
    assert findings(build(seed), TrainConfig(device="cpu", precision=precision)) == []


@pytest.mark.parametrize(
    "fault",
    [
        dict(forward_faults={"logits": 1.5}),
        dict(forward_faults={"blocks.1.attn.hook_attn_scores": 2.0}),
        dict(backward_faults={"logits": 0.5}),
        dict(backward_faults={"logits": torch.nan}),
        dict(backward_faults={"blocks.0.attn.hook_q": 0.0}),
        dict(backward_faults={"blocks.1.attn.hook_v": -1.0}),
        dict(backward_faults={"blocks.1.attn.hook_pattern": 2.0}),
        dict(backward_faults={"blocks.0.mlp.hook_pre": 0.5}),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_wrong_forward_or_backward_pass_is_named(seed: int, fault: dict[str, dict[str, float]]) -> None:
    assert findings(build(seed, **fault), CONFIG) == [WRONG]


def test_a_loss_that_is_not_finite_is_the_devices_fault_where_the_cpu_has_one() -> None:
    apart: dict[str, float | None] = {"embed.weight": None}
    assert named({"loss": [3.0, None], "apart": apart}, ModelConfig()) == [WRONG]
    assert named({"loss": [None, None], "apart": apart}, ModelConfig()) == []
    assert named({"loss": [None, 3.0], "apart": apart}, ModelConfig()) == []


def test_comparing_leaves_no_trace() -> None:
    model = Transformer(build(1).config)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = compare_with_cpu(model, TOKENS[:, :-1], TOKENS[:, 1:], CONFIG)
    assert first["apart"].keys() == dict(model.named_parameters()).keys()
    assert first["loss"][0] == pytest.approx(first["loss"][1]) and max(first["apart"].values()) < 1e-5
    assert all(p.grad is None for p in model.parameters()) and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
