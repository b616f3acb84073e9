import math

import pytest
import torch
from torch import nn

from barreleye.config import ModelConfig, TrainConfig
from barreleye.model.transformer import Transformer
from barreleye.training.optimizer import make_optimizers, optimizer_tensors, rate_at, restore_optimizers, set_rate

CONFIG = ModelConfig(n_layers=2, n_heads=2, d_model=16, d_ff=32, context_length=8, vocab_size=11, tie_embeddings=False)


def build() -> Transformer:
    torch.manual_seed(0)
    return Transformer(CONFIG)


def give_gradients(model: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def names_in(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    return {name for name, p in model.named_parameters() if any(p is other for other in parameters)}


def test_decay_is_on_matrices_only() -> None:
    model = build()
    (adamw,) = make_optimizers(model, TrainConfig(optimizer="adamw", weight_decay=0.3))
    decayed, rest = adamw.param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim == 2 for p in decayed["params"]) and all(p.ndim == 1 for p in rest["params"])
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(("kind", "in_blocks"), [("adamw", 0.95), ("muon", 0.9)])
def test_a_step_without_gradients_shrinks_matrices_and_nothing_else(kind: str, in_blocks: float) -> None:
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    config = TrainConfig(optimizer=kind, weight_decay=0.5, learning_rate=0.1, muon_rate=0.2, precision="float32")
    for optimizer in make_optimizers(model, config):
        optimizer.step()
    for name, parameter in model.named_parameters():
        of_matrices = in_blocks if name.startswith("blocks.") else 0.95
        assert torch.allclose(parameter, torch.tensor(of_matrices if parameter.ndim == 2 else 1.0)), name


def test_muon_moves_the_matrices_inside_the_blocks() -> None:
    model = build()
    adamw, muon = make_optimizers(model, TrainConfig(muon_rate=0.02, learning_rate=0.001, precision="float32"))
    moved = names_in(model, [p for group in muon.param_groups for p in group["params"]])
    assert moved == {
        f"blocks.{i}.{part}.weight" for i in range(2) for part in ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
    }
    others = names_in(model, [p for group in adamw.param_groups for p in group["params"]])
    assert moved | others == set(dict(model.named_parameters())) and not moved & others
    assert muon.param_groups[0]["lr"] == 0.02 and adamw.param_groups[0]["lr"] == 0.001
    give_gradients(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for optimizer in (adamw, muon):
        optimizer.step()
    for name, p in model.named_parameters():
        assert not torch.equal(p, before[name]), name
    # What Muon is for: all directions of an update are about equally large, whatever the gradient's are.
    update = (model.blocks[0].attn.out.weight - before["blocks.0.attn.out.weight"]).detach()
    sizes = torch.linalg.svdvals(update)
    assert sizes.min() > 0.3 * sizes.max()
    gradient = torch.linalg.svdvals(model.blocks[0].attn.out.weight.grad)
    assert gradient.min() < 0.1 * gradient.max()


def test_what_is_frozen_stays() -> None:
    model = build()
    model.embed.weight.requires_grad_(False)
    optimizers = make_optimizers(model, TrainConfig(precision="float32"))
    held = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert names_in(model, held) == set(dict(model.named_parameters())) - {"embed.weight"}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_memory_of_an_optimizer_goes_through_flat_names(kind: str) -> None:
    def step(model: nn.Module, optimizers: list[torch.optim.Optimizer], seed: int) -> None:
        give_gradients(model, seed)
        for optimizer in optimizers:
            optimizer.step()

    config = TrainConfig(optimizer=kind, precision="float32")
    model = build()
    optimizers = make_optimizers(model, config)
    assert optimizer_tensors(optimizers) == {}
    step(model, optimizers, 1)
    kept = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizers).items()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step(model, optimizers, 2)

    other = build()
    other.load_state_dict(weights)
    restored = make_optimizers(other, config)
    restore_optimizers(restored, kept)
    assert optimizer_tensors(restored).keys() == kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in optimizer_tensors(restored).items())
    step(other, restored, 2)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


# Schedules ---------------------------------------------------------------------------------------------------------


def rates(**knobs: object) -> list[float]:
    config = TrainConfig(**({"steps": 100, "warmup_steps": 10} | knobs))  # type: ignore[arg-type]
    return [rate_at(step, config) for step in range(config.steps)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd", "constant"])
@pytest.mark.parametrize("final_rate", [0.0, 0.1])
def test_a_schedule_rises_to_one_and_never_rises_again(schedule: str, final_rate: float) -> None:
    course = rates(schedule=schedule, final_rate=final_rate)
    assert all(course[i] < course[i + 1] for i in range(10)) and 0 < course[0] < 0.1
    assert course[10] == max(course) == 1.0
    assert all(course[i] >= course[i + 1] for i in range(10, 99))
    assert all(final_rate <= rate <= 1 for rate in course[10:])
    end = {"linear": final_rate, "cosine": final_rate, "wsd": final_rate, "constant": 1.0}[schedule]
    assert course[-1] == pytest.approx(end, abs=0.06)


def test_the_shapes_of_the_schedules() -> None:
    middle = 10 + 45  # half of the way down
    assert rates(schedule="linear")[middle] == pytest.approx(0.5)
    assert rates(schedule="cosine")[middle] == pytest.approx(0.5)
    assert rates(schedule="cosine")[10 + 30] == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 3))
    assert rates(schedule="linear", final_rate=0.4)[middle] == pytest.approx(0.7)
    wsd = rates(schedule="wsd")
    assert wsd[10 + 71] == 1.0 and wsd[10 + 81] == pytest.approx(0.5)
    assert rates(schedule="constant")[10:] == [1.0] * 90


def test_a_short_training_warms_up_for_half_of_it_at_most() -> None:
    course = rates(steps=10, warmup_steps=1000)
    assert course[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
    assert rates(steps=1, warmup_steps=40) == [1.0]
    assert rates(warmup_steps=0)[0] == 1.0


def test_the_rate_is_a_share_of_each_optimizers_peak() -> None:
    optimizers = make_optimizers(build(), TrainConfig(learning_rate=0.001, muon_rate=0.02, precision="float32"))
    for share in (0.5, 0.25):
        set_rate(optimizers, share)
        assert [o.param_groups[0]["lr"] for o in optimizers] == pytest.approx([0.001 * share, 0.02 * share])
