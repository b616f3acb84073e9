import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from barreleye.config import ModelConfig
from barreleye.model.parts import (
    ACTIVATIONS,
    NORM_EPS,
    NORMS,
    POSITIONS,
    Activation,
    LayerNorm,
    Learned,
    RMSNorm,
    Rotary,
    Sinusoidal,
    check_parts,
    no_tap,
)
from barreleye.model.transformer import Transformer

CONFIG = ModelConfig(n_layers=1, n_heads=2, d_model=16, d_ff=32, context_length=20, vocab_size=7)
X = torch.linspace(-4, 4, 101)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def passing(name: str, tensor: Tensor) -> Tensor:
    return tensor


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gelu", 0.5 * X * (1 + torch.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))),
        ("relu", torch.where(X > 0, X, 0.0)),
        ("relu2", torch.where(X > 0, X * X, 0.0)),
        ("swiglu", X / (1 + torch.exp(-X))),
    ],
)
def test_activations(name: str, expected: Tensor) -> None:
    assert torch.allclose(ACTIVATIONS[name].function(X), expected, atol=1e-6)
    assert ACTIVATIONS[name].gated == (name == "swiglu")


@pytest.mark.parametrize("tap", [no_tap, passing], ids=["fused", "spelled out"])
def test_norms(tap: object) -> None:
    x = noise(2, 3, 16) * 5 + 1
    layer, rms = LayerNorm(16), RMSNorm(16)
    with torch.no_grad():
        layer.weight.copy_(noise(16)), layer.bias.copy_(noise(16) + 1), rms.weight.copy_(noise(16))
    centered = x - x.mean(-1, keepdim=True)
    expected = centered / (centered.square().mean(-1, keepdim=True) + NORM_EPS).sqrt() * layer.weight + layer.bias
    assert torch.allclose(layer(x, tap), expected, atol=1e-5)
    expected = x / (x.square().mean(-1, keepdim=True) + NORM_EPS).sqrt() * rms.weight
    assert torch.allclose(rms(x, tap), expected, atol=1e-5)


def test_a_norm_of_zeros_is_no_division_by_zero() -> None:
    for make in NORMS.values():
        norm = make(8, "")
        for tap in (no_tap, passing):
            assert torch.equal(norm(torch.zeros(1, 1, 8), tap), torch.zeros(1, 1, 8))


def test_learned_positions_are_trained_and_the_fixed_ones_are_not_saved() -> None:
    learned = Learned(CONFIG)
    assert torch.equal(learned.embed(3, 7), learned.weight[3:7])
    assert learned.weight.requires_grad and learned.weight.shape == (20, 16)
    for name in ("sinusoidal", "rope", "none"):
        assert not POSITIONS[name](CONFIG).state_dict()
    assert POSITIONS["none"](CONFIG).embed(0, 5) is None


@pytest.mark.parametrize("d_model", [16, 15])
def test_sinusoids(d_model: int) -> None:
    """Sine at even channels, cosine at odd ones, wavelengths from 2 pi up to 10,000 times that."""
    config = ModelConfig(n_heads=1, d_model=d_model, d_ff=8, context_length=50, embed_std=0.1)
    table = Sinusoidal(config).embed(0, 50) / (0.1 * math.sqrt(2))
    assert table.shape == (50, d_model)
    width = d_model + d_model % 2
    for position, channel in ((0, 0), (0, 1), (49, 0), (31, 5), (7, d_model - 1)):
        angle = position / 10_000 ** (channel // 2 * 2 / width)
        expected = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
        assert float(table[position, channel]) == pytest.approx(expected, abs=1e-5)


def test_sinusoids_are_as_large_as_a_fresh_embedding() -> None:
    table = Sinusoidal(ModelConfig()).embed(0, 256)
    assert float(table.square().mean().sqrt()) == pytest.approx(ModelConfig().embedding_std, rel=1e-3)


def test_rotary_turns_pairs_of_channels() -> None:
    """Channels i and i + D/2 are the parts of a complex number, turned by position / 10,000^(2i / D)."""
    rotary, x = Rotary(CONFIG), noise(2, 5, 2, 8)
    turned = rotary.rotate(x, 3)
    angle = torch.outer(torch.arange(3, 8).float(), 10_000 ** -(torch.arange(0, 8, 2) / 8))
    number = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones(()), angle)[None, :, None]
    assert torch.allclose(turned, torch.cat([number.real, number.imag], -1), atol=1e-6)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)


def test_rotated_queries_and_keys_only_know_their_distance() -> None:
    rotary = Rotary(CONFIG)
    q, k = noise(1, 1, 1, 8), noise(2, 1, 1, 8)[1:]

    def score(query_at: int, key_at: int) -> float:
        return float((rotary.rotate(q, query_at) * rotary.rotate(k, key_at)).sum())

    assert score(7, 4) == pytest.approx(score(19, 16), abs=1e-5)
    assert score(7, 4) != pytest.approx(score(7, 5), abs=1e-3)


@pytest.mark.parametrize(
    ("knob", "word", "hint"),
    [("activation", "gelo", "did you mean 'gelu'"), ("norm", "none", "layernorm"), ("positions", "ropes", "'rope'")],
)
def test_an_unknown_part_is_refused_with_a_hint(knob: str, word: str, hint: str) -> None:
    config = ModelConfig(**{knob: word, "vocab_size": 7})  # type: ignore[arg-type]
    for use in (check_parts, Transformer):
        with pytest.raises(ValueError, match=f"{knob} cannot be '{word}'.*{hint}"):
            use(config)


def test_a_part_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that the module's docstring promises: put it into the dictionary, name it in the configuration."""
    monkeypatch.setitem(ACTIVATIONS, "sine", Activation(torch.sin))
    config = ModelConfig(n_layers=1, n_heads=2, d_model=16, d_ff=32, vocab_size=7, activation="sine")
    model = Transformer(config)
    seen: dict[str, Tensor] = {}
    model(torch.tensor([[1, 2, 3]]), tap=lambda name, tensor: seen.setdefault(name, tensor))
    assert torch.equal(seen["blocks.0.mlp.hook_post"], seen["blocks.0.mlp.hook_pre"].sin())


def test_half_precision_queries_are_normalized_without_a_warning() -> None:
    norm = RMSNorm(8)
    x = noise(1, 2, 2, 8)
    assert torch.allclose(norm(x.bfloat16()).float(), F.rms_norm(x, (8,), None, NORM_EPS), atol=0.02)
