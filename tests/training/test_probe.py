import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from barreleye.config import ModelConfig, TrainConfig
from barreleye.data.batches import IGNORE, TextBatches
from barreleye.model.transformer import Transformer
from barreleye.training.probe import Probe, Seen, entropy, group_of, number, update_ratios

VOCAB = 40
BATCHES = TextBatches(np.random.default_rng(0).integers(0, VOCAB, 4000).astype(np.int32), 16, 256, seed=1)
CONFIG = TrainConfig(steps=10, batch_tokens=256, device="cpu", precision="float32", threads=1)


def build(**knobs: Any) -> Transformer:
    shape: dict[str, Any] = dict(n_layers=2, n_heads=2, d_model=32, d_ff=64, context_length=16, vocab_size=VOCAB)
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**(shape | knobs)))
    with torch.no_grad():  # as if it had learned: the output projections start at zero
        for block in model.blocks:
            block.attn.out.weight.normal_(std=0.1)
            if block.has_mlp:
                block.mlp.down.weight.normal_(std=0.1)
    return model


def gradients_of(model: Transformer, parts: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Spelled out with torch's own loss and `backward`, all parts in one batch."""
    tokens, targets = (torch.cat([part[i] for part in parts]) for i in range(2))
    F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORE).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("knobs", [{}, dict(tie_embeddings=False, d_ff=0), dict(activation="swiglu", norm="rmsnorm")])
def test_loss_and_gradients_are_those_of_all_parts_together(knobs: dict[str, Any]) -> None:
    model, probe = build(**knobs), Probe(BATCHES, CONFIG)
    values = probe(model)
    assert [tokens.shape for tokens, _ in probe.parts] == [(2, 16)] * 4
    expected: dict[str, float] = {}
    for name, gradient in gradients_of(model, probe.parts).items():
        expected[group_of(name)] = math.hypot(expected.get(group_of(name), 0.0), float(gradient.norm()))
    assert values["gradient_norm"] == pytest.approx(expected, rel=1e-4)
    tokens, targets = (torch.cat([part[i] for part in probe.parts]) for i in range(2))
    loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    assert values["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)


def test_the_noise_scale_tells_noise_from_signal() -> None:
    """On random tokens gradients are noise alone; on one row again and again there is no noise."""
    model, probe = build(), Probe(BATCHES, CONFIG)
    noise = probe(model)["noise"]
    assert noise["trace"] > 0
    # The unbiased estimates must add up to what was measured: |G_big|^2 = |G|^2 + trace / n.
    whole = sum(float(g.square().sum()) for g in gradients_of(model, probe.parts).values())
    assert noise["squared_norm"] + noise["trace"] / 128 == pytest.approx(whole, rel=1e-4)
    probe.parts = [probe.parts[0]] * 4
    noise = probe(model)["noise"]
    assert abs(noise["trace"]) < 1e-3 * noise["squared_norm"]


def test_activations_are_those_of_the_pass() -> None:
    model, probe = build(), Probe(BATCHES, CONFIG)
    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        model(torch.cat([tokens for tokens, _ in probe.parts]), tap=lambda name, x: seen.setdefault(name, x))
    values = probe(model)
    assert set(values["activations"]) == {
        f"blocks.{i}.{hook}" for i in range(2) for hook in ("hook_resid_pre", "hook_resid_post", "mlp.hook_pre")
    }
    for name, found in values["activations"].items():
        assert found["std"] == pytest.approx(float(seen[name].std(correction=0)), rel=1e-4)
        assert found["mean"] == pytest.approx(float(seen[name].mean()), abs=1e-5)
        assert found["max"] == pytest.approx(float(seen[name].abs().max()), rel=1e-5)
    assert {at: len(heads) for at, heads in values["attention_entropy"].items()} == {
        "blocks.0.attn": 2, "blocks.1.attn": 2
    }  # fmt: skip
    for at, heads in values["attention_entropy"].items():
        assert heads == pytest.approx(entropy(seen[at + ".hook_pattern"]).tolist(), rel=1e-4)


def test_dead_units_are_counted() -> None:
    model = build(activation="relu")
    with torch.no_grad():
        model.blocks[1].mlp.up.bias[:48] = -100.0
    dead = Probe(BATCHES, CONFIG)(model)["dead"]
    assert dead["blocks.1.mlp"] >= 0.75 and dead["blocks.0.mlp"] < 0.2


def test_entropy_is_one_for_uniform_and_zero_for_one_key() -> None:
    uniform = torch.ones(5, 5).tril()
    one_key = torch.eye(5)
    pattern_BHQK = torch.stack([uniform / uniform.sum(-1, keepdim=True), one_key])[None]
    assert entropy(pattern_BHQK).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert entropy(torch.ones(3, 2, 1, 1)).tolist() == [1.0, 1.0]  # one key is all that there is to look at


def test_reach_sees_a_mask_that_leaks_and_one_that_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    model, probe = build(), Probe(BATCHES, CONFIG)
    reach = probe(model)["reach"]
    assert reach["future"] == 0.0 and reach["past"] > 0.01
    everything = lambda q, k: q.transpose(1, 2) @ k.permute(0, 2, 3, 1) / math.sqrt(q.shape[-1])  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr("barreleye.model.transformer.masked_scores", everything)
        assert probe(model)["reach"]["future"] > 0.01
    itself = lambda q, k: everything(q, k).masked_fill(~torch.eye(q.shape[1], dtype=torch.bool), -math.inf)  # noqa: E731
    monkeypatch.setattr("barreleye.model.transformer.masked_scores", itself)
    reach = probe(model)["reach"]
    assert reach["future"] == reach["past"] == 0.0 and reach["own"] > 0.01


def test_a_probe_leaves_no_trace() -> None:
    model, probe = build(dropout=0.5), Probe(BATCHES, CONFIG)
    state = torch.get_rng_state()
    first, second = probe(model), probe(model)
    assert first == second
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in model.parameters())


def test_updates_are_a_share_of_the_weights() -> None:
    model = build()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert set(update_ratios(before, model).values()) == {0.0}
    with torch.no_grad():
        model.positions.weight *= 2.0
        model.blocks[1].attn.qkv.weight *= 1.25
    ratios = update_ratios(before, model)
    assert ratios["positions"] == pytest.approx(0.5, rel=1e-5) and 0 < ratios["blocks.1.attn"] < 0.2
    assert ratios["blocks.0.attn"] == ratios["embed"] == 0.0


def test_an_update_of_weights_that_are_not_finite_is_none() -> None:
    model = build()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model.positions.weight[0, 0] = math.inf
        model.blocks[0].mlp.up.weight[0, 0] = math.nan
    ratios = update_ratios(before, model)
    assert ratios["positions"] is None and ratios["blocks.0.mlp"] is None and ratios["embed"] == 0.0


class OffCpu(Tensor):
    """As on MPS, which has no float64."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.cpu:
            return args[0].as_subclass(Tensor)
        if function is Tensor.double:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return super().__torch_function__(function, types, args, kwargs or {})


def test_a_device_without_float64_is_looked_at() -> None:
    seen, x = Seen(), torch.randn(2, 3, 4)
    seen.tap("blocks.0.hook_resid_pre", x.as_subclass(OffCpu))  # type: ignore[no-untyped-call]
    std = seen.values()["activations"]["blocks.0.hook_resid_pre"]["std"]
    assert std == pytest.approx(float(x.std(correction=0)), rel=1e-4)


def test_frozen_weights_have_no_gradient_to_look_at() -> None:
    model = build()
    model.blocks[0].requires_grad_(False)
    gradients = Probe(BATCHES, CONFIG)(model)["gradient_norm"]
    assert "blocks.0.attn" not in gradients and gradients["blocks.1.attn"] > 0


def test_what_is_not_a_number_is_none() -> None:
    assert number(math.nan) is None and number(-math.inf) is None and number(1 / 3) == 0.333333
    model = build()
    with torch.no_grad():
        model.blocks[0].mlp.up.weight[0, 0] = math.nan
    values = Probe(BATCHES, CONFIG)(model)
    assert values["loss"] is None and values["gradient_norm"]["embed"] is None
    assert values["activations"]["blocks.0.hook_resid_pre"]["std"] is not None
    assert values["activations"]["blocks.0.mlp.hook_pre"]["std"] is None


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("embed.weight", "embed"),
        ("positions.weight", "positions"),
        ("unembed.weight", "unembed"),
        ("ln_final.bias", "ln_final"),
        ("blocks.3.ln1.weight", "blocks.3.attn"),
        ("blocks.3.attn.qkv.bias", "blocks.3.attn"),
        ("blocks.11.attn.q_norm.weight", "blocks.11.attn"),
        ("blocks.3.ln2.weight", "blocks.3.mlp"),
        ("blocks.3.mlp.down.weight", "blocks.3.mlp"),
    ],
)
def test_groups(name: str, group: str) -> None:
    assert group_of(name) == group
