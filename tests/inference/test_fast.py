"""The compiled decode against the readable one: the same logits, the same draws, the same texts."""

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import barreleye
from barreleye.config import ModelConfig, Sampling
from barreleye.inference import fast
from barreleye.inference.fast import FastDecoder
from barreleye.inference.generate import TorchStream, generate_tokens, sample
from barreleye.model import parts
from barreleye.model.transformer import Transformer

CONTEXT, VOCAB = 24, 61
GREEDY = Sampling(temperature=0)
VARIANTS: dict[str, dict[str, Any]] = {
    "vanilla": {},
    "modern": dict(positions="rope", norm="rmsnorm", activation="swiglu", n_kv_heads=2, bias=False),
    "sinusoidal-relu": dict(positions="sinusoidal", activation="relu"),
    "nowhere-relu2-untied": dict(positions="none", activation="relu2", tie_embeddings=False),
    "qk-norm-grouped": dict(qk_norm=True, n_kv_heads=1, positions="rope"),
    "attention-only": dict(d_ff=0),
    "wide-heads-exact-gelu": dict(head_dim=12, activation="gelu_erf", norm_eps=1e-2),
    "narrow-heads-slow-turns": dict(head_dim=4, n_kv_heads=2, positions="rope", rope_theta=100.0, norm="rmsnorm"),
    "no-bias": dict(bias=False),
}


def build(**options: Any) -> Transformer:
    generator = torch.Generator().manual_seed(0)
    shape: dict[str, Any] = dict(n_layers=2, n_heads=4, d_model=32, d_ff=80, context_length=CONTEXT, vocab_size=VOCAB)
    model = Transformer(ModelConfig(**(shape | options)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


MODEL = build()
DECODER = FastDecoder(MODEL)


# The same numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_logits_are_those_of_the_readable_path(options: dict[str, Any]) -> None:
    model = build(**options)
    decoder = FastDecoder(model)
    decoder.threads = min(2, numba.config.NUMBA_NUM_THREADS)
    readable, quick = TorchStream(model), decoder.stream()
    for stream in (readable, quick):
        stream.start([3, 1, 4])
    for token in (1, 5, 9, 2, 6, 60, 0):
        readable.read(token)
        quick.read(token)
        assert np.allclose(quick.logits_V, readable.logits_BV[0].numpy(), atol=1e-4)
    assert quick.room == readable.room == CONTEXT - 10
    for ours, theirs in (
        (quick.cache.keys_LBTHD, readable.cache.keys_LBTHD),
        (quick.cache.values_LBTHD, readable.cache.values_LBTHD),
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


@torch.no_grad()
def agreement(model: Transformer, decoder: FastDecoder, margin: float, n: int = 1000) -> float:
    """Share of `n` tokens of random texts after which both say the same greedily, where that is not a near tie."""
    rng, said, stream = np.random.default_rng(0), list[bool](), decoder.stream()
    while len(said) < n:
        tokens = rng.integers(model.config.vocab_size, size=model.config.context_length).tolist()
        logits_TV = model(torch.tensor([tokens]))[0]
        stream.start(tokens[:1])
        for token, logits_V in zip(tokens[1:], logits_TV[1:], strict=True):
            stream.read(token)
            best, second = logits_V.topk(2).values.tolist()
            if best - second > margin:
                said.append(stream.draw(GREEDY, [], 0.0) == int(logits_V.argmax()))
    return float(np.mean(said[:n]))


def test_greedy_tokens_over_a_thousand_tokens() -> None:
    model = build(d_model=64, d_ff=256, vocab_size=500)
    assert agreement(model, FastDecoder(model), margin=1e-2) == 1.0
    # Random weights have near ties everywhere; benchmarks/decode.py asks a trained run, at the margin above.
    assert agreement(model, FastDecoder(model, bits=8), margin=0.3) >= 0.99


def test_eight_bits_are_a_quarter_of_the_memory_and_nearly_the_same() -> None:
    eight = FastDecoder(MODEL, bits=8)
    for ours, theirs in zip(eight.weights, DECODER.weights, strict=True):
        if isinstance(ours, tuple):
            assert ours.weight_LMN.nbytes * 4 == theirs.weight_LMN.nbytes
            rebuilt = ours.weight_LMN * ours.scale_LM[..., None]
            assert np.allclose(rebuilt, theirs.weight_LMN, atol=float(ours.scale_LM.max(initial=0)) * 0.501)


def test_a_matrix_of_zeros_has_eight_bits_too() -> None:
    model = build()
    torch.nn.init.zeros_(model.blocks[0].attn.out.weight)  # type: ignore[union-attr, arg-type]
    stream = FastDecoder(model, bits=8).stream()
    stream.start([1])
    stream.read(2)
    assert np.isfinite(stream.logits_V).all()


# The same draws ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(
    logits=st.lists(st.integers(-40, 40), min_size=VOCAB, max_size=VOCAB, unique=True),
    temperature=st.sampled_from([0.0, 1e-20, 0.3, 0.7, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 3, VOCAB, 99]),
    top_p=st.sampled_from([0.0, 0.35, 0.9, 1.0]),
    penalty=st.sampled_from([0.5003, 1.0, 1.7003]),  # others could make two logits equal
    uniform=st.floats(0, 0.999),  # beyond it the sums, rounded in another order, stand for other tokens
)
def test_draws_are_those_of_sample(
    logits: list[int], temperature: float, top_k: int, top_p: float, penalty: float, uniform: float
) -> None:
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
    stream, seen = DECODER.stream(), [2, 7, 7, 60]
    stream.logits_V[:] = np.array(logits, np.float32) / 8
    row = torch.from_numpy(stream.logits_V)[None]
    ours = stream.draw(sampling, seen, uniform)
    drawn = [
        int(sample(row, sampling, torch.tensor([seen]), torch.tensor([u], dtype=torch.float64)))
        for u in (uniform, max(0, uniform - 1e-6), min(1, uniform + 1e-6))  # sums differ in their last digits
    ]
    assert ours in drawn
    assert stream.logits_V.tolist() == row[0].tolist()  # a draw changes nothing


def test_no_number_falls_off_the_end() -> None:
    stream = DECODER.stream()
    stream.logits_V[:] = np.random.default_rng(0).standard_normal(VOCAB)
    likeliest = set(np.argsort(-stream.logits_V)[:3].tolist())
    for uniform, top_p in itertools.product((0.0, 1 - 2**-53, 1.0), (0.5, 1.0)):
        assert stream.draw(Sampling(top_k=3, top_p=top_p), [], uniform) in likeliest


def test_equal_logits_are_all_kept_or_drawn_in_order() -> None:
    stream = DECODER.stream()
    stream.logits_V[:] = 0
    assert stream.draw(Sampling(temperature=1.0, top_p=1.0), [], 0.5) == VOCAB // 2
    assert stream.draw(GREEDY, [], 0.5) == 0


# The same texts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [[3], [1, 2, 3, 4] * 20])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.5, seed=3, repetition_penalty=1.3)], ids=str)
def test_texts_go_on_past_a_full_context(prompt: list[int], sampling: Sampling) -> None:
    fast = list(generate_tokens(DECODER, prompt, 60, sampling))
    assert fast == list(generate_tokens(MODEL, prompt, 60, sampling)) and len(fast) == 60


def test_two_streams_do_not_mix_and_threads_take_turns() -> None:
    alone = [list(generate_tokens(DECODER, [start], 20, GREEDY)) for start in (3, 4)]
    pairs = zip(*(generate_tokens(DECODER, [start], 20, GREEDY) for start in (3, 4)), strict=True)
    assert [list(tokens) for tokens in zip(*pairs, strict=True)] == alone
    said: dict[int, list[int]] = {}

    def speak(start: int) -> None:
        said[start] = list(generate_tokens(DECODER, [start], 20, GREEDY))

    threads = [threading.Thread(target=speak, args=(start,)) for start in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [said[3], said[4]] == alone


def test_torch_keeps_its_threads() -> None:
    """Numba starts its own, and says how many to an OpenMP that both may share."""
    build = "FastDecoder(Transformer(ModelConfig(n_layers=1, n_heads=1, d_model=8, d_ff=8, vocab_size=9)))"
    code = [
        "import torch; torch.set_num_threads(1)",
        "from barreleye import ModelConfig, Transformer",
        "from barreleye.inference.fast import FastDecoder",
        build,
        "assert torch.get_num_threads() == 1",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(code)], check=True)


def test_another_program_on_a_core_leaves_one_thread_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = FastDecoder(MODEL)
    assert decoder.threads == torch.get_num_threads() == 1  # as conftest.py has it
    decoder.threads, threads, took = 2, list[int](), decoder.seconds_alone * fast.PATIENCE
    monkeypatch.setattr(fast.FastStream, "timed_read", lambda self, token, n: threads.append(n) or next(seconds))
    stream = decoder.stream()
    seconds = iter([2 * took, 2 * took, 0, *[2 * took] * fast.SLOW, *[0] * fast.ALONE, 0])
    for token in range(fast.SLOW + fast.ALONE + 4):
        stream.read(token)
    assert threads == [2] * (fast.SLOW + 3) + [1] * fast.ALONE + [2]


def test_compiled_code_writes_nowhere_else() -> None:
    stream = DECODER.stream()
    stream.start([1] * CONTEXT)
    with pytest.raises(ValueError, match="cannot read token 1 with room for 0"):
        stream.read(1)
    for decoder, token in itertools.product((DECODER, MODEL), (-1, VOCAB)):
        with pytest.raises(ValueError, match="a prompt's ids must be 0 to 60"):
            next(generate_tokens(decoder, [token, *[1] * CONTEXT], 5, Sampling(repetition_penalty=1.3)))
    with pytest.raises(ValueError, match=f"cannot read token {VOCAB}"):
        DECODER.stream().read(VOCAB)


# Where it cannot run -----------------------------------------------------------------------------------------------


def test_it_says_what_it_cannot_decode() -> None:
    with pytest.raises(ValueError, match=r"the weights are torch\.bfloat16, not float32"):
        FastDecoder(build().bfloat16())
    with pytest.raises(ValueError, match="the model is on meta, not on the CPU"):
        FastDecoder(build().to("meta"))


@pytest.mark.parametrize("bits", [32, 8])
def test_a_part_of_ones_own_under_a_known_name_is_found_out(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parts.ACTIVATIONS, "gelu", parts.Activation(torch.sin))
    with pytest.raises(ValueError, match="it gives other logits: a part of its own may go by a known name"):
        FastDecoder(build(), bits)


def test_other_positions_and_other_models_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interleaved(parts.Rotary):
        """Pairs neighbours, as GPT-J does."""

    monkeypatch.setitem(parts.POSITIONS, "rope", Interleaved)
    with pytest.raises(ValueError, match="the part 'rope' is not compiled"):
        FastDecoder(build(positions="rope"))
    model = build(positions="none")
    for block in model.blocks:  # queries and keys that grow, under the name of no positions
        block.attn.rotate = lambda x_BTHD, start, *tap: x_BTHD * torch.arange(1, 1 + x_BTHD.shape[1])[:, None, None]
    with pytest.raises(ValueError, match="it gives other logits"):
        FastDecoder(model)

    class Capped(Transformer):
        pass

    with pytest.raises(ValueError, match="it is a Capped of its own"):
        FastDecoder(Capped(MODEL.config))


def test_logits_that_are_not_numbers() -> None:
    model = build()
    torch.nn.init.constant_(model.ln_final.weight, torch.nan)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the model's logits are not numbers"):
        FastDecoder(model)


def test_dropout_is_off_whatever_was_done_before() -> None:
    model = build(dropout=0.5)
    decoder = FastDecoder(model)
    model.train()
    said = [list(generate_tokens(decoder, [1, 2, 3], 10, GREEDY)) for _ in range(2)]
    assert said[0] == said[1]


def test_a_context_of_one_token_and_a_model_of_zeros() -> None:
    FastDecoder(build(context_length=1))
    model = build()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    FastDecoder(model)


def test_what_is_compiled_lies_in_the_users_cache(tmp_path: Path) -> None:
    code = [
        "from barreleye import ModelConfig, Transformer",
        "from barreleye.inference.engine import make_decoder",
        "model = Transformer(ModelConfig(n_layers=1, n_heads=1, d_model=8, d_ff=8, vocab_size=9))",
        "decoder, reason = make_decoder(model)",
        "print(decoder is model, reason)",
    ]
    run = [sys.executable, "-c", "\n".join(code)]
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    env["XDG_CACHE_HOME"] = str(tmp_path)
    assert subprocess.run(run, env=env, capture_output=True, text=True).stdout == "False \n"
    kept = list((tmp_path / "barreleye" / "numba").rglob("*.nbi"))
    assert {file.name.split("-")[0] for file in kept} >= {"compiled.decode", "compiled.draw"}
    assert not list(Path(barreleye.__file__).parent.rglob("*.nbi"))
    for file in kept:
        file.write_bytes(b"torn")  # as a full disk leaves it: then torch decodes
    assert subprocess.run(run, env=env, capture_output=True, text=True).stdout.startswith("True ")


def test_without_a_folder_to_keep_it_in_nothing_is_kept(tmp_path: Path) -> None:
    code = [
        "import numba; before = numba.config.CACHE_DIR",
        "from barreleye.inference import compiled",
        "print(repr(compiled.FOLDER), type(compiled.decode._cache).__name__, numba.config.CACHE_DIR == before)",
    ]
    (tmp_path / "file").touch()
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    for cache, said in (
        ("file", "'' NullCache True"),
        ("folder", f"{str(tmp_path / 'folder' / 'barreleye' / 'numba')!r} FunctionCache True"),
    ):
        env["XDG_CACHE_HOME"] = str(tmp_path / cache)
        run = [sys.executable, "-c", "\n".join(code)]
        assert subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout == f"{said}\n"
