import itertools
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from barreleye.config import ModelConfig, TrainConfig
from barreleye.model.cache import KVCache
from barreleye.model.parts import no_tap
from barreleye.model.transformer import Transformer
from barreleye.training.loop import Step, train

CONTEXT, VOCAB, LENGTH = 24, 17, 12
CHOICES: dict[str, tuple[Any, ...]] = {
    "positions": ("learned", "sinusoidal", "rope", "none"),
    "activation": ("gelu", "relu", "relu2", "swiglu"),
    "n_kv_heads": (0, 1, 2),
    "norm": ("layernorm", "rmsnorm"),
    "tie_embeddings": (True, False),
    "bias": (True, False),
    "qk_norm": (False, True),
    "d_ff": (64, 0),
}


def pairwise_variants() -> Iterator[dict[str, Any]]:
    """Few configurations in which every two values of two different knobs meet at least once."""
    rng = random.Random(0)
    everything = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]

    def pairs(variant: dict[str, Any]) -> set[Any]:
        return set(itertools.combinations(variant.items(), 2))

    missing = set().union(*map(pairs, everything))
    while missing:
        best = max(rng.sample(everything, 200), key=lambda variant: len(pairs(variant) & missing))
        missing -= pairs(best)
        yield best


VARIANTS = [{}, *pairwise_variants()]
EVERY_VARIANT = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())) or "vanilla")


def configure(**knobs: Any) -> ModelConfig:
    shape: dict[str, Any] = dict(n_layers=2, n_heads=4, d_model=32, d_ff=64, context_length=CONTEXT, vocab_size=VOCAB)
    return ModelConfig(**(shape | knobs))


def build(seed: int = 0, **knobs: Any) -> Transformer:
    """A model in evaluation mode, with every parameter filled at random: a fresh block is the identity."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(configure(**knobs)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model


def draw(batch: int = 2, length: int = LENGTH, seed: int = 1) -> Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def record(model: Transformer, tokens_BT: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    seen: dict[str, Tensor] = {}

    def tap(name: str, tensor: Tensor) -> Tensor:
        assert name not in seen
        # Fixed sines have no gradient of their own; whoever wants it takes one.
        seen[name] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        return seen[name]

    return seen, model(tokens_BT, tap=tap)


def names_of(config: ModelConfig) -> set[str]:
    """Those of the design, spelled out."""
    names = {"hook_embed", "ln_final.hook_scale", "ln_final.hook_normalized"}
    names |= {"hook_pos_embed"} if config.positions in ("learned", "sinusoidal") else set()
    for layer in range(config.n_layers):
        parts = ["hook_resid_pre", "hook_resid_post", "hook_attn_out", "ln1.hook_scale", "ln1.hook_normalized"]
        parts += [f"attn.hook_{part}" for part in ("q", "k", "v", "z", "attn_scores", "pattern")]
        parts += ["attn.hook_rot_q", "attn.hook_rot_k"] if config.positions == "rope" else []
        if config.d_ff:
            parts += ["hook_resid_mid", "hook_mlp_out", "ln2.hook_scale", "ln2.hook_normalized"]
            parts += ["mlp.hook_pre", "mlp.hook_post"]
            parts += ["mlp.hook_pre_linear"] if config.activation == "swiglu" else []
        names |= {f"blocks.{layer}.{part}" for part in parts}
    return names


# What comes later is never seen ------------------------------------------------------------------------------------


@EVERY_VARIANT
@torch.no_grad()
def test_a_later_token_changes_no_earlier_logit(variant: dict[str, Any]) -> None:
    model, tokens = build(**variant), draw()
    before = model(tokens)
    for changed in (0, 5, LENGTH - 1):
        other = tokens.clone()
        other[:, changed] = (other[:, changed] + 1) % VOCAB
        after = model(other)
        assert close(after[:, :changed], before[:, :changed], 1e-6) if changed else True
        assert not close(after[:, changed], before[:, changed], 1e-2)


@pytest.mark.parametrize("positions", CHOICES["positions"])
@torch.no_grad()
def test_a_later_token_changes_no_earlier_logit_in_the_fused_kernel(positions: str) -> None:
    model, tokens = build(positions=positions, context_length=300), draw(1, 300)
    before = model(tokens)
    other = tokens.clone()
    other[:, 280] = (other[:, 280] + 1) % VOCAB
    assert close(model(other)[:, :280], before[:, :280], 1e-6)
    assert close(record(model, tokens)[1], before)


# A cache changes nothing -------------------------------------------------------------------------------------------


@EVERY_VARIANT
@pytest.mark.parametrize("chunks", [[7] + [1] * 5, [1] * LENGTH, [3, 1, 6, 2], [LENGTH]], ids=str)
@torch.no_grad()
def test_cached_logits_are_the_uncached_ones(variant: dict[str, Any], chunks: list[int]) -> None:
    model, tokens = build(**variant), draw(3)
    cache = KVCache(model.config, batch=3)
    pieces = [model(chunk, cache) for chunk in tokens.split(chunks, dim=1)]
    assert cache.length == LENGTH and cache.room == CONTEXT - LENGTH
    assert close(torch.cat(pieces, 1), model(tokens))


@torch.no_grad()
def test_a_cached_prompt_as_long_as_the_fused_kernel_likes() -> None:
    model, tokens = build(context_length=320), draw(1, 310)
    cache = KVCache(model.config)
    pieces = [model(chunk, cache) for chunk in tokens.split([300, 10], dim=1)]
    assert close(torch.cat(pieces, 1), model(tokens))


@torch.no_grad()
def test_what_does_not_fit_is_refused() -> None:
    model = build()
    with pytest.raises(ValueError, match="25 tokens do not fit a context of 24"):
        model(draw(1, 25))
    cache = KVCache(model.config)
    model(draw(1, 20), cache)
    with pytest.raises(ValueError, match="25 tokens do not fit a context of 24"):
        model(draw(1, 5), cache)
    assert cache.length == 20
    with pytest.raises(ValueError, match="9 tokens do not fit a cache of 8"):
        model(draw(1, 9), KVCache(model.config, length=8))
    with pytest.raises(ValueError, match="vocabulary is known"):
        Transformer(configure(vocab_size=0))


# The tap -----------------------------------------------------------------------------------------------------------


@EVERY_VARIANT
@torch.no_grad()
def test_the_tap_sees_every_name_once_and_recording_changes_nothing(variant: dict[str, Any]) -> None:
    model, tokens = build(**variant), draw()
    seen, logits = record(model, tokens)
    assert set(seen) == names_of(model.config)
    assert torch.equal(logits, model(tokens, tap=lambda name, tensor: tensor))
    assert close(logits, model(tokens, tap=no_tap))


@EVERY_VARIANT
@torch.no_grad()
def test_what_the_tap_returns_is_what_the_model_goes_on_with(variant: dict[str, Any]) -> None:
    model, tokens = build(**variant), draw()
    seen, logits = record(model, tokens)
    for replaced, was in seen.items():
        noise = 0.5 * torch.randn(was.shape, generator=torch.Generator().manual_seed(2))
        swapped = model(tokens, tap=lambda name, t, at=replaced, add=noise: t + add if name == at else t)
        assert not close(swapped, logits, 1e-5), replaced


@EVERY_VARIANT
def test_gradients_reach_every_name_and_every_parameter(variant: dict[str, Any]) -> None:
    model, tokens = build(**variant), draw()
    seen, logits = record(model, tokens)
    loss = logits.log_softmax(-1)[..., 3].mean()
    parameters = dict(model.named_parameters())
    wanted = seen | parameters
    gradients = dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients.values())


@torch.no_grad()
def test_the_recorded_tensors_are_those_they_are_named_after() -> None:
    model, tokens = build(), draw()
    seen, logits = record(model, tokens)
    at = "blocks.0."
    assert torch.equal(seen["hook_embed"], model.embed.weight[tokens])
    assert close(seen[at + "hook_resid_pre"], seen["hook_embed"] + seen["hook_pos_embed"])
    assert torch.equal(seen["hook_pos_embed"][1], model.positions.embed(0, LENGTH))
    assert close(seen[at + "hook_resid_mid"], seen[at + "hook_resid_pre"] + seen[at + "hook_attn_out"])
    assert close(seen[at + "hook_resid_post"], seen[at + "hook_resid_mid"] + seen[at + "hook_mlp_out"])
    assert torch.equal(seen["blocks.1.hook_resid_pre"], seen[at + "hook_resid_post"])
    x = seen["blocks.1.hook_resid_post"]
    assert close(seen["ln_final.hook_scale"], x.std(-1, correction=0, keepdim=True))
    normalized = seen["ln_final.hook_normalized"]
    assert close(normalized, (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True), 1e-4)
    gained = normalized * model.ln_final.weight + model.ln_final.bias
    assert close(logits, gained @ model.embed.weight.T)


@torch.no_grad()
def test_scores_are_scaled_and_masked_and_the_pattern_is_their_softmax() -> None:
    seen, _ = record(build(n_kv_heads=2), draw())
    q, k, v = (seen[f"blocks.1.attn.hook_{part}"] for part in "qkv")
    assert q.shape == (2, LENGTH, 4, 8) and k.shape == v.shape == (2, LENGTH, 2, 8)
    scores, pattern = seen["blocks.1.attn.hook_attn_scores"], seen["blocks.1.attn.hook_pattern"]
    for head, query, key in ((0, 5, 3), (3, 11, 11), (2, 4, 0)):
        expected = q[1, query, head] @ k[1, key, head // 2] / math.sqrt(8)
        assert scores[1, head, query, key] == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    assert (scores[..., future] == -math.inf).all() and scores[..., ~future].isfinite().all()
    assert (pattern[..., future] == 0).all()
    assert torch.allclose(pattern.sum(-1), torch.ones(()))
    assert torch.equal(pattern, scores.softmax(-1))
    weighed = torch.einsum("bhqk,bkhd->bqhd", pattern, v.repeat_interleave(2, dim=2))
    assert close(seen["blocks.1.attn.hook_z"], weighed)


@torch.no_grad()
def test_a_model_made_to_look_only_at_itself_forgets_the_others() -> None:
    model, tokens = build(positions="none"), draw(1)

    def look_at_self(name: str, tensor: Tensor) -> Tensor:
        return torch.eye(LENGTH).expand_as(tensor) if name.endswith("hook_pattern") else tensor

    alone = [model(tokens[:, t : t + 1]) for t in range(LENGTH)]
    assert close(model(tokens, tap=look_at_self), torch.cat(alone, 1))


@torch.no_grad()
def test_a_tap_sees_the_cached_pass_too() -> None:
    model, tokens = build(), draw(1)
    cache = KVCache(model.config)
    model(tokens[:, :8], cache)
    shapes = {}
    model(tokens[:, 8:], cache, tap=lambda name, t: shapes.setdefault(name, t.shape) and t)
    assert shapes["blocks.0.attn.hook_pattern"] == (1, 4, 4, LENGTH)
    assert shapes["hook_pos_embed"] == (1, 4, 32)


# Variants ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_grouped_heads_are_full_heads_that_repeat() -> None:
    grouped, full = build(n_kv_heads=2, bias=False), build(bias=False)
    weights = grouped.state_dict()
    for name in [name for name in weights if name.endswith("qkv.weight")]:
        q, k, v = weights[name].split([32, 16, 16])
        k, v = (w.unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1) for w in (k, v))
        weights[name] = torch.cat([q, k, v])
    full.load_state_dict(weights)
    assert close(full(draw()), grouped(draw()))


@torch.no_grad()
def test_normalized_queries_and_keys_have_no_size() -> None:
    model = build(qk_norm=True, bias=False)
    before = model(draw())
    for block in model.blocks:
        block.attn.qkv.weight[:32] *= 50
        block.attn.qkv.weight[32:64] *= 9
    assert close(model(draw()), before, 1e-3)
    unnormalized = build(bias=False)
    before = unnormalized(draw())
    unnormalized.blocks[0].attn.qkv.weight[:32] *= 50
    assert not close(unnormalized(draw()), before, 1e-2)


@torch.no_grad()
def test_attention_only() -> None:
    model = build(d_ff=0)
    assert not any("mlp" in name or "ln2" in name for name in model.state_dict())
    seen, _ = record(model, draw())
    at = "blocks.0."
    assert close(seen[at + "hook_resid_post"], seen[at + "hook_resid_pre"] + seen[at + "hook_attn_out"])


@torch.no_grad()
def test_a_tied_head_is_the_embedding_and_an_untied_one_is_not() -> None:
    tied, untied = build(), build(tie_embeddings=False)
    assert tied.unembed.weight is tied.embed.weight
    assert untied.unembed.weight is not untied.embed.weight
    before = untied(draw())
    untied.unembed.weight.mul_(2)
    assert close(untied(draw()), 2 * before)


@torch.no_grad()
def test_only_without_positions_does_order_not_matter() -> None:
    """Attention is a sum: what stands before the last token may be shuffled unless positions are told."""
    tokens = draw(1)
    shuffled = torch.cat([tokens[:, :-1].flip(1), tokens[:, -1:]], 1)
    one_layer = dict(n_layers=1)
    for positions in CHOICES["positions"]:
        model = build(positions=positions, init_std=0.5, **one_layer)
        same = close(model(shuffled)[:, -1], model(tokens)[:, -1])
        assert same == (positions == "none"), positions


@pytest.mark.parametrize(("given", "matrices"), [(0.05, 0.05), (0.0, configure().d_model ** -0.5)])
def test_a_fresh_block_is_the_identity_and_biases_are_zero(given: float, matrices: float) -> None:
    torch.manual_seed(0)
    model = Transformer(configure(init_std=given, embed_std=0.02)).eval()
    seen, _ = record(model, draw())
    assert torch.equal(seen["blocks.1.hook_resid_post"], seen["blocks.0.hook_resid_pre"])
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    spread = {name: float(p.detach().std()) for name, p in model.named_parameters() if p.ndim == 2}
    for name, std in spread.items():
        zero = name.endswith(("attn.out.weight", "mlp.down.weight"))
        expected = matrices if name.startswith("blocks.") else 0.02
        assert std == 0 if zero else std == pytest.approx(expected, rel=0.3), name


def test_dropout_is_off_outside_training_and_on_within() -> None:
    model, tokens = build(dropout=0.5), draw()
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))
    torch.manual_seed(3)
    first = model(tokens)
    torch.manual_seed(3)
    assert torch.equal(model(tokens), first)


@EVERY_VARIANT
def test_every_variant_learns_a_batch_by_heart(variant: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Transformer(configure(**variant))
    rows = draw(2, LENGTH + 1, seed=4)
    rows[:, 0] = torch.arange(2)  # two that begin alike could not both be known
    losses: list[float] = []
    config = TrainConfig(steps=250, learning_rate=0.01, warmup_steps=10, schedule="constant", precision="float32")

    def on_step(step: Step) -> bool:
        losses.append(step.loss)
        return step.loss < 0.1

    train(model, lambda n: (rows[:, :-1], rows[:, 1:]), config, on_step)
    assert losses[1] == pytest.approx(math.log(VOCAB), rel=0.1)
    assert losses[-1] < 0.1, f"{losses[-1]} after {len(losses)} steps"


def test_bfloat16_autocast_computes_about_the_same() -> None:
    for knobs in ({}, dict(qk_norm=True, positions="rope", norm="rmsnorm", n_kv_heads=2, context_length=300)):
        model, tokens = build(**knobs), draw(1, min(300, knobs.get("context_length", LENGTH)))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens).float()
        assert close(logits, model(tokens).detach(), 0.1)
