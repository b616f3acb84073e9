import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from barreleye.config import PRESETS, ModelConfig, TrainConfig
from barreleye.model.cache import KVCache
from barreleye.model.count import count
from barreleye.model.transformer import Transformer
from barreleye.training.loop import train

SHAPE = dict(n_layers=3, n_heads=4, d_model=32, d_ff=64, context_length=40, vocab_size=50)
VARIANTS = [
    {},
    dict(positions="rope", norm="rmsnorm", activation="swiglu", n_kv_heads=2, bias=False),
    dict(tie_embeddings=False, qk_norm=True, positions="none"),
    dict(d_ff=0, positions="sinusoidal"),
]
EVERY_VARIANT = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def configure(**knobs: object) -> ModelConfig:
    return ModelConfig(**(SHAPE | knobs))  # type: ignore[arg-type]


@EVERY_VARIANT
def test_the_components_add_up_to_the_model(variant: dict[str, object]) -> None:
    model, counted = Transformer(configure(**variant)), count(configure(**variant))
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    assert counted.parameters == sum(c.parameters for c in counted.components)
    assert counted.weight_bytes == counted.gradient_bytes == sum(p.nbytes for p in model.parameters())
    copies = {c.name: c.copies for c in counted.components}
    assert copies["blocks.*.attn.qkv.weight"] == 3 and copies["embed.weight"] == 1


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("fish", 8.0, 9.5),
        ("tiny", 0.4, 0.6),
        ("small", 3.8, 4.5),
        ("medium", 9.5, 11.0),
        ("gpt2", 124.3, 124.6),
        ("stories15m", 14.5, 15.8),
    ],
)
def test_presets_are_as_large_as_they_say(name: str, least: float, most: float) -> None:
    assert least <= preset_size(name) / 1e6 <= most


def preset_size(name: str) -> int:
    preset = PRESETS[name]
    return count(ModelConfig(**(vars(preset.model) | {"vocab_size": preset.usual_vocab}))).parameters


def test_the_fish_and_the_modern_fish_are_of_one_size() -> None:
    assert preset_size("modern") == pytest.approx(preset_size("fish"), rel=0.05)
    assert preset_size("gpt2") == 124_439_808  # as published


@EVERY_VARIANT
def test_flops_are_those_that_torch_counts(variant: dict[str, object]) -> None:
    config = configure(**variant)
    model = Transformer(config)
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.zeros(1, config.context_length, dtype=torch.long))
    counted = count(config)
    assert counted.flops_forward * config.context_length == counter.get_total_flops()
    attention = 4 * config.n_layers * config.context_length * config.d_model
    assert counted.flops_matrices == counted.flops_forward - attention
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    # The backward pass costs twice the forward one, but for what needs no gradient.
    assert counter.get_total_flops() / config.context_length == pytest.approx(2 * counted.flops_forward, rel=0.05)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@EVERY_VARIANT
def test_optimizer_bytes_are_those_of_its_tensors(variant: dict[str, object], optimizer: str) -> None:
    config = configure(**variant)
    tokens = torch.arange(20).view(1, 20)
    learner = train(Transformer(config), lambda n: (tokens, tokens), TrainConfig(steps=1, optimizer=optimizer))
    kept = learner.tensors()
    moments = sum(t.nbytes for name, t in kept.items() if name.startswith("optimizer.") and t.ndim > 0)
    assert count(config, optimizer=optimizer).optimizer_bytes == moments


@EVERY_VARIANT
def test_cache_bytes_are_those_of_the_cache(variant: dict[str, object]) -> None:
    config = configure(**variant)
    cache = KVCache(config)
    assert count(config).cache_bytes == cache.keys_LBTHD.nbytes + cache.values_LBTHD.nbytes


@EVERY_VARIANT
def test_activation_bytes_are_about_what_the_backward_pass_keeps(variant: dict[str, object]) -> None:
    config = configure(**variant)
    model = Transformer(config)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    held: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # so that no other tensor takes its place
        return tensor

    tokens = torch.zeros(4, config.context_length, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(tokens)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    keep(logits)
    assert count(config, batch_tokens=tokens.numel()).activation_bytes == pytest.approx(sum(kept.values()), rel=0.15)


def test_counting_builds_nothing_huge() -> None:
    huge = ModelConfig(n_layers=400, n_heads=100, d_model=20_000, d_ff=80_000, vocab_size=100_000)
    assert count(huge).parameters > 1.9e12


def test_counting_takes_no_random_number_and_no_compiler() -> None:
    """Which torch would import for two seconds."""
    script = """
import sys, torch
from barreleye import ModelConfig
from barreleye.model.count import count
before = torch.get_rng_state()
count(ModelConfig(vocab_size=4096))
assert torch.equal(torch.get_rng_state(), before)
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
