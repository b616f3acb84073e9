import itertools
import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from barreleye.config import ModelConfig, Sampling
from barreleye.data.tokenizer import Tokenizer, learn_bpe, learn_characters
from barreleye.inference.generate import (
    decode_one_token,
    generate,
    generate_tokens,
    penalize,
    prefill,
    probabilities,
    sample,
    stream_text,
)
from barreleye.model.cache import KVCache
from barreleye.model.transformer import Transformer

CONTEXT, VOCAB = 16, 13
GREEDY = Sampling(temperature=0)
FISH = "🐟 é the fish swam up, the fish swam down. "
LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12)


def build(vocab: int = VOCAB, positions: str = "learned") -> Transformer:
    generator = torch.Generator().manual_seed(0)
    config = ModelConfig(
        n_layers=2, n_heads=2, d_model=32, d_ff=64, context_length=CONTEXT, vocab_size=vocab, positions=positions
    )
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model


MODEL = build()


@torch.no_grad()
def last_logits(model: Transformer, tokens: Sequence[int]) -> torch.Tensor:
    return model(torch.tensor([tokens]))[0, -1]


# Which token comes next --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1.0, 1.7])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rope", "none"])
def test_greedy_takes_the_likeliest_token_of_a_full_pass(positions: str, penalty: float) -> None:
    model, tokens = build(positions=positions), [3, 1, 4]
    sampling = Sampling(temperature=0, repetition_penalty=penalty)
    for token in generate_tokens(model, [3, 1, 4], CONTEXT - 3, sampling):
        logits = last_logits(model.eval(), tokens)
        logits = torch.stack(
            [x if i not in tokens else x / penalty if x > 0 else x * penalty for i, x in enumerate(logits)]
        )
        assert token == int(logits.argmax())
        tokens.append(token)
    assert len(tokens) == CONTEXT


def reference(logits: Sequence[float], sampling: Sampling) -> list[float]:
    """Softmax at the temperature, then the k likeliest, then the fewest that reach p: in plain Python."""
    n = len(logits)
    top = max(logits)
    weights = [math.exp((x - top) / sampling.temperature) for x in logits]
    probs = [w / sum(weights) for w in weights]
    order = sorted(range(n), key=lambda i: -probs[i])
    if sampling.top_k:
        order = order[: sampling.top_k]
    mass = sum(probs[i] for i in order)
    kept: list[int] = []
    for i in order:
        if kept and sum(probs[j] for j in kept) >= sampling.top_p * mass:
            break
        kept.append(i)
    total = sum(probs[i] for i in kept)
    return [probs[i] / total if i in kept else 0.0 for i in range(n)]


@settings(deadline=None)
@given(
    logits=st.lists(st.integers(-12, 12), min_size=2, max_size=12, unique=True),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 2.5]),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.0, 0.35, 0.8, 0.97, 1.0]),
)
def test_probabilities(logits: list[int], temperature: float, top_k: int, top_p: float) -> None:
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    ours = probabilities(torch.tensor([logits, logits[::-1]]).float(), sampling)
    expected = reference([float(x) for x in logits], sampling)
    assert ours[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert ours[1].tolist() == pytest.approx(expected[::-1], abs=1e-5)


@settings(deadline=None)
@given(LOGITS, st.floats(1e-30, 100), st.floats(0, 1), st.integers(0, 5))
def test_probabilities_are_always_a_distribution(
    logits: list[float], temperature: float, top_p: float, top_k: int
) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    probs = probabilities(torch.tensor([logits]), sampling)[0]
    assert probs.isfinite().all() and (probs >= 0).all() and float(probs.sum()) == pytest.approx(1, abs=1e-4)
    assert max(logits) - logits[int(probs.argmax())] < 1e-4


def test_the_smallest_temperature_is_greedy() -> None:
    logits = torch.tensor([[1.0, 1.01, 0.5]])
    assert probabilities(logits, Sampling(temperature=1e-30, top_p=1.0)).tolist() == [[0, 1, 0]]


@settings(deadline=None)
@given(LOGITS, st.floats(0.1, 10), st.data())
def test_the_penalty_is_once_per_token_seen(logits: list[float], penalty: float, data: st.DataObject) -> None:
    seen = data.draw(st.lists(st.integers(0, len(logits) - 1), min_size=1, max_size=20))
    ours = penalize(torch.tensor([logits]), torch.tensor([seen]), penalty)[0].tolist()
    for token, (before, after) in enumerate(zip(logits, ours, strict=True)):
        expected = before if token not in seen else before / penalty if before > 0 else before * penalty
        assert after == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_draws_come_as_often_as_their_probability() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(20_000, -1)
    sampling = Sampling(temperature=1.0, top_p=1.0, seed=0)
    drawn = sample(logits, sampling, torch.zeros(20_000, 1, dtype=torch.long), torch.rand(20_000))
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert torch.allclose(shares, logits[0].softmax(0), atol=0.015)


def test_the_ends_of_the_random_numbers_are_tokens_that_can_be_drawn() -> None:
    """Rounding must not fall off the end, nor draw what top-k has taken out."""
    logits = torch.randn(1000, 50, generator=torch.Generator().manual_seed(0))
    kept = logits.topk(3).indices
    for number in (0.0, 1 - 2**-24, 1.0):
        drawn = sample(logits, Sampling(top_k=3, top_p=1.0), logits[:, :0].long(), torch.full((1000,), number))
        assert (drawn[:, None] == kept).any(-1).all()


def test_logits_that_are_not_numbers_still_give_a_token() -> None:
    """Whoever breaks a model reads what it says, and not that an index is out of range."""
    assert sample(torch.full((2, 7), torch.nan), Sampling(), torch.empty(2, 0).long(), torch.rand(2)).tolist() == [0, 0]


# A whole text ------------------------------------------------------------------------------------------------------


def test_a_seed_gives_one_text_whatever_else_is_drawn() -> None:
    sampling = Sampling(temperature=1.5, top_p=1.0, seed=7)
    torch.manual_seed(1)
    first = list(generate_tokens(MODEL, [3], 40, sampling))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert list(generate_tokens(MODEL, [3], 40, sampling)) == first
    assert torch.equal(torch.get_rng_state(), state)  # and the world's random state is left alone
    others = [list(generate_tokens(MODEL, [3], 40, Sampling(temperature=1.5, top_p=1.0, seed=s))) for s in (8, -1, -1)]
    assert all(a != b for a, b in itertools.combinations([first, *others], 2))


def test_it_ends_at_the_limit_or_before_a_stop_token() -> None:
    tokens = list(generate_tokens(MODEL, [3], 12, GREEDY))
    assert len(tokens) == 12
    stop = tokens[5]
    cut = list(generate_tokens(MODEL, [3], 12, GREEDY, frozenset({stop})))
    assert cut == tokens[: tokens.index(stop)]
    assert list(generate_tokens(MODEL, [3], 0, GREEDY)) == []


@pytest.mark.parametrize("prompt", [[3], list(range(13)), [1, 2, 3, 4] * 20])
def test_a_full_context_goes_on_from_its_later_half(prompt: list[int]) -> None:
    """Token by token: what a model sees is at most its context; when that is full, the later half of it."""
    model, tokens, seen = build().eval(), list(prompt), min(len(prompt), CONTEXT)
    for token in generate_tokens(model, prompt, 50, GREEDY):
        assert token == int(last_logits(model, tokens[-seen:]).argmax())
        tokens.append(token)
        seen = seen + 1 if seen < CONTEXT else CONTEXT // 2
    assert len(tokens) == len(prompt) + 50


def test_a_context_of_one_token() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        n_layers=1, n_heads=1, d_model=8, d_ff=8, context_length=1, vocab_size=VOCAB, init_std=0.5, embed_std=0.5
    )
    assert len(list(generate_tokens(Transformer(config), [1, 2, 3], 5))) == 5


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="a prompt needs at least one token"):
        next(generate_tokens(MODEL, []))
    with pytest.raises(ValueError, match="a prompt needs at least one token"):
        next(generate(build(300), learn_bpe([FISH], 300), ""))


def test_a_batch_is_decoded_side_by_side() -> None:
    rows = torch.tensor([[1, 2, 3], [4, 5, 6]])
    cache = KVCache(MODEL.config, batch=2)
    MODEL.eval()
    prefill(MODEL, rows, cache)
    logits = decode_one_token(MODEL, torch.tensor([7, 8]), cache)
    for row, alone in enumerate(([1, 2, 3, 7], [4, 5, 6, 8])):
        assert torch.allclose(logits[row], last_logits(MODEL, alone), atol=1e-5)


# Text as it comes --------------------------------------------------------------------------------------------------

BPE = learn_bpe([FISH] * 3, 280)
CHARACTERS = learn_characters(FISH)


@pytest.mark.parametrize("tokenizer", [BPE, CHARACTERS], ids=["bpe", "characters"])
def test_pieces_join_to_the_whole_and_none_holds_half_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(FISH * 2)
    pieces = list(stream_text(tokenizer, iter(ids)))
    assert "".join(pieces) == FISH * 2
    assert "\ufffd" not in "".join(pieces) and all(pieces)
    model = build(tokenizer.vocab_size)
    sampling = Sampling(temperature=2.0, top_p=1.0, seed=3)
    text = "".join(generate(model, tokenizer, "the", 60, sampling))
    assert text == tokenizer.decode(generate_tokens(model, tokenizer.encode("the"), 60, sampling))


def test_a_character_cut_by_the_end_is_shown_as_broken() -> None:
    ids = learn_bpe([]).encode("a🐟")[:-1]
    assert "".join(stream_text(learn_bpe([]), iter(ids))) == "a\ufffd"


def cut(text: str, stops: Sequence[str]) -> str:
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]


@settings(deadline=None)
@given(st.text("ab🐟", max_size=30), st.lists(st.text("ab🐟", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_text_however_tokens_cut_it(text: str, stops: list[str]) -> None:
    """Byte by byte: a stop text is spread over many tokens, and its beginning is not shown before it is sure."""
    tokenizer = learn_bpe([])
    ended = "".join(stream_text(tokenizer, iter(tokenizer.encode(text)), stops)) if text else ""
    first = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=len(text))
    assert ended == cut(text[:first], stops)


def test_nothing_is_read_after_a_stop_text() -> None:
    read = []

    def tokens() -> Iterator[int]:
        for token in CHARACTERS.encode("the fish swam"):
            read.append(token)
            yield token

    assert "".join(stream_text(CHARACTERS, tokens(), ["fish"])) == "the "
    assert len(read) == len("the fish")


def test_what_cannot_begin_a_stop_text_is_shown_at_once() -> None:
    stream = stream_text(CHARACTERS, iter(CHARACTERS.encode("the fish up")), ["fish swam"])
    assert list(stream) == ["t", "h", "e", " ", "fish u", "p"]


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(ValueError, match="a stop text cannot be empty"):
        next(stream_text(CHARACTERS, iter([0]), ["fish", ""]))
