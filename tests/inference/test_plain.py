"""The NumPy page against the torch one: the same logits, the same draws, the same replies."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from barreleye.config import ModelConfig, Sampling
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS
from barreleye.data.tokenizer import learn_bpe
from barreleye.inference import plain
from barreleye.inference.chat import Chat
from barreleye.inference.engine import make_decoder
from barreleye.inference.generate import TorchStream, generate_tokens, sample
from barreleye.inference.plain import KVCache, Plain, forward
from barreleye.model import parts
from barreleye.model.transformer import Transformer

CONTEXT, VOCAB = 24, 61
VARIANTS = {
    "vanilla": {},
    "modern": dict(positions="rope", norm="rmsnorm", activation="swiglu", n_kv_heads=2, bias=False),
    "sinusoidal-relu-odd": dict(positions="sinusoidal", activation="relu", d_model=33, n_heads=3, init_std=0.1),
    "sinusoidal-as-the-others": dict(positions="sinusoidal", embed_std=0.0),
    "nowhere-relu2-untied": dict(positions="none", activation="relu2", tie_embeddings=False),
    "qk-norm-grouped": dict(qk_norm=True, n_kv_heads=1, positions="rope"),
    "attention-only": dict(d_ff=0),
    "no-bias": dict(bias=False),
    "llama-biased-wide-heads": dict(
        positions="rope", norm="rmsnorm", activation="swiglu", head_dim=12, rope_theta=5e5, norm_eps=1e-2
    ),
    "erf": dict(activation="gelu_erf", norm_eps=1e-3, head_dim=6),
    "layernorm-swiglu": dict(activation="swiglu", dropout=0.5),
}


def build(**options):
    generator = torch.Generator().manual_seed(0)
    shape = dict(n_layers=2, n_heads=4, d_model=32, d_ff=80, context_length=CONTEXT, vocab_size=VOCAB)
    model = Transformer(ModelConfig(**(shape | options))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model


def plainly(model) -> Plain:
    decoder, reason = make_decoder(model, "plain")
    assert isinstance(decoder, Plain) and not reason
    return decoder


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_logits_are_those_of_the_transformer(options):
    model = build(**options)
    decoder, tokens = plainly(model), np.random.default_rng(0).integers(VOCAB, size=CONTEXT).tolist()
    theirs = model(torch.tensor([tokens]))[0].numpy()
    cache = KVCache(model.config)
    parts_ = [forward(decoder.weights, model.config, part, cache) for part in (tokens[:7], tokens[7:8], tokens[8:])]
    assert np.concatenate(parts_).dtype == np.float32
    np.testing.assert_allclose(np.concatenate(parts_), theirs, atol=1e-4)
    with pytest.raises(ValueError, match="25 tokens do not fit a context of 24"):
        forward(decoder.weights, model.config, [0], cache)


SAMPLING = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-9, 0.3, 1.0, 5.0]),
    top_k=st.integers(0, 25),
    top_p=st.sampled_from([0.0, 0.2, 0.9, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
)


@settings(deadline=None, max_examples=200)
@given(SAMPLING, st.integers(0, 2**31), st.floats(0, 1, exclude_max=True))
def test_the_same_token_is_drawn(sampling, seed, uniform):
    logits_V = np.random.default_rng(seed).normal(0, 3, 20).astype(np.float32)
    theirs = sample(torch.tensor(logits_V)[None], sampling, torch.tensor([[3, 7, 3]]), torch.tensor([uniform]))
    assert plain.sample(logits_V, sampling, [3, 7, 3], uniform) == int(theirs)


def test_a_large_logit_overflows_nothing():
    logits_V = np.array([1e30, -1e30, 0], np.float32)
    assert plain.sample(logits_V, Sampling(temperature=1e-9), [], 0.99) == 0
    assert np.isfinite(plain.silu(np.array([-1e30, 1e4], np.float32))).all()


@pytest.mark.parametrize("options", [{}, VARIANTS["modern"]], ids=["vanilla", "modern"])
def test_a_text_goes_on_alike_past_the_context(options):
    model = build(**options)
    texts = [list(generate_tokens(m, [1, 2, 3], 60, Sampling(seed=3))) for m in (model, plainly(model))]
    assert texts[0] == texts[1] and len(texts[0]) == 60
    ours, theirs = plainly(model).stream(), TorchStream(model)
    ours.start([1, 2, 3])
    theirs.start([1, 2, 3])
    assert ours.room == theirs.room == CONTEXT - 3


def test_a_chat_replies_alike():
    tokenizer = learn_bpe(["blub what is water? i am a fish."] * 3, 280, CHAT_SPECIAL_TOKENS)
    model = build(vocab_size=tokenizer.vocab_size, context_length=64)
    replies = [Chat(m, tokenizer, Sampling(seed=1)).ask("What is water?") for m in (model, plainly(model))]
    assert replies[0] == replies[1] != ""


def test_a_part_of_its_own_is_refused(monkeypatch):
    monkeypatch.setitem(parts.ACTIVATIONS, "tanh", parts.Activation(torch.tanh))
    with pytest.raises(ValueError, match=r"the part 'tanh' is not in plain\.py"):
        make_decoder(build(activation="tanh"), "plain")


def test_the_pages_do_without_torch():
    code = (
        "import sys, barreleye.inference.plain_chat; assert not {'torch', 'tokenizers', 'safetensors'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
