"""Text from a model: prefill, decode one token, sample. Plain functions over a KV cache; the model knows none of it.

What reads one text and draws from it token by token is a Stream. `TorchStream` is the readable one, over the functions
here; `fast.py` has a compiled one that draws the same tokens.

B batch, T time (position), V vocabulary.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from barreleye.config import ModelConfig, Sampling
from barreleye.data.tokenizer import Tokenizer
from barreleye.model.cache import KVCache
from barreleye.model.parts import Tap, no_tap
from barreleye.model.transformer import Transformer

FEW = 64  # tokens, found ten times sooner than all are sorted; almost always they reach top-p


@torch.inference_mode()
def prefill(model: Transformer, tokens_BT: Tensor, cache: KVCache, tap: Tap = no_tap) -> Tensor:
    """Read a prompt into the cache; logits of what follows it, shape (B, V)."""
    return model(tokens_BT, cache, tap, last=True)[:, -1]


@torch.inference_mode()
def decode_one_token(model: Transformer, token_B: Tensor, cache: KVCache, tap: Tap = no_tap) -> Tensor:
    """Read one more token of each row; logits of what follows, shape (B, V)."""
    return model(token_B[:, None], cache, tap)[:, -1]


def sample(logits_BV: Tensor, sampling: Sampling, seen_BT: Tensor, uniform_B: Tensor) -> Tensor:
    """The next token of each row, shape (B,): where the sum of the probabilities passes a random number from 0 to 1."""
    logits_BV = penalize(logits_BV.float(), seen_BT, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    sum_BV = probabilities(logits_BV, sampling).cumsum(-1)
    passes_B1 = torch.searchsorted(sum_BV, uniform_B[:, None], right=True)
    # Rounding can end the sum a little below 1: a number above it stands for the last token that adds to it.
    last_B1 = torch.searchsorted(sum_BV, sum_BV[:, -1:].contiguous())
    # What is not a number is never passed: the first token stands for it.
    return passes_B1.minimum(last_B1)[:, 0] % sum_BV.shape[-1]


def random_numbers(sampling: Sampling) -> Iterator[float]:
    """From 0 to 1, without end; by the sampling's seed, and the same on every device."""
    numbers = random.Random(sampling.seed if sampling.seed >= 0 else None)
    while True:
        yield numbers.random()


def penalize(logits_BV: Tensor, seen_BT: Tensor, penalty: float) -> Tensor:
    """Make the tokens of `seen_BT` less likely (Keskar et al. 2019, CTRL, section 4.1)."""
    if penalty == 1:
        return logits_BV
    seen_logits_BT = logits_BV.gather(1, seen_BT)
    lower_BT = torch.where(seen_logits_BT > 0, seen_logits_BT / penalty, seen_logits_BT * penalty)
    return logits_BV.scatter(1, seen_BT, lower_BT)


def probabilities(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """What is drawn from: softmax at the temperature, then top-k, then top-p (Holtzman et al. 2020), summing to 1."""
    # The largest logit is taken off first, so that the smallest temperatures do not overflow.
    top_B1 = logits_BV.amax(-1, keepdim=True)
    probs_BV = ((logits_BV - top_B1) / max(sampling.temperature, 1e-6)).softmax(-1)
    if 0 < sampling.top_k < probs_BV.shape[-1]:
        smallest_B1 = probs_BV.topk(sampling.top_k).values[:, -1:]
        probs_BV = probs_BV.masked_fill(probs_BV < smallest_B1, 0)
    if sampling.top_p < 1:
        probs_BV = keep_top_p(probs_BV, sampling.top_p)
    return probs_BV / probs_BV.sum(-1, keepdim=True)


def keep_top_p(probs_BV: Tensor, top_p: float) -> Tensor:
    """Zero for all but the likeliest tokens that together reach p of the sum."""
    enough_B1 = top_p * probs_BV.sum(-1, keepdim=True)
    k = min(FEW, probs_BV.shape[-1])
    likeliest_BK, token_BK = probs_BV.topk(k)
    if (likeliest_BK.sum(-1, keepdim=True) < enough_B1).any():
        likeliest_BK, token_BK = probs_BV.sort(descending=True)
    # A token stays when those before it do not yet reach p: the first always does.
    stays_BK = likeliest_BK.cumsum(-1) - likeliest_BK < enough_B1
    stays_BK[:, 0] = True
    return torch.zeros_like(probs_BV).scatter(1, token_BK, likeliest_BK * stays_BK)


class Stream(Protocol):
    """One text that a model reads, and what it says comes next."""

    @property
    def room(self) -> int:
        """How many more tokens fit the context."""

    def start(self, tokens: Sequence[int]) -> None:
        """Forget what was read and read these, at most a context of them."""

    def read(self, token: int) -> None:
        """Go on by one token, where there is room."""

    def draw(self, sampling: Sampling, seen: Sequence[int], uniform: float) -> int:
        """The next token, by a random number from 0 to 1; `seen` is what a repetition penalty looks at."""


class Decoder(Protocol):
    """A model made ready to read texts."""

    config: ModelConfig

    def stream(self) -> Stream: ...


class TorchStream:
    """The readable one: on any device, with any parts, and with a tap on all it computes."""

    def __init__(self, model: Transformer, tap: Tap = no_tap) -> None:
        self.model, self.tap = model.eval(), tap
        self.device = next(model.parameters()).device
        self.cache = KVCache(model.config, device=self.device)

    @property
    def room(self) -> int:
        return self.cache.room

    def start(self, tokens: Sequence[int]) -> None:
        self.cache.length = 0
        self.logits_BV = prefill(self.model, self._tensor([tokens]), self.cache, self.tap)

    def read(self, token: int) -> None:
        self.logits_BV = decode_one_token(self.model, self._tensor([token]), self.cache, self.tap)

    def draw(self, sampling: Sampling, seen: Sequence[int], uniform: float) -> int:
        return int(sample(self.logits_BV, sampling, self._tensor([seen]).long(), self._tensor([uniform])))

    def _tensor(self, values: list[Any]) -> Tensor:
        return torch.tensor(values, device=self.device)


def generate_tokens(
    model: Transformer | Decoder,
    prompt: Sequence[int],
    max_tokens: int = 200,
    sampling: Sampling | None = None,
    stop_ids: frozenset[int] = frozenset(),
) -> Iterator[int]:
    """Token ids that continue `prompt`, one by one, until one of `stop_ids` (not given out) or `max_tokens`.

    When the context is full, its later half is read anew and the text goes on from there. Raises ValueError for an
    empty prompt, or an id that the model has no row for.
    """
    if not prompt:
        raise ValueError("a prompt needs at least one token to continue from")
    if not 0 <= min(prompt) <= max(prompt) < model.config.vocab_size:
        raise ValueError(
            f"a prompt's ids must be 0 to {model.config.vocab_size - 1}, not {min(prompt)} to {max(prompt)}"
        )
    sampling = sampling or Sampling()
    numbers = random_numbers(sampling)
    stream = TorchStream(model) if isinstance(model, Transformer) else model.stream()
    context = model.config.context_length
    tokens = list(prompt)
    stream.start(tokens[-context:])
    for _ in range(max_tokens):
        seen = tokens if sampling.repetition_penalty != 1 else []
        token = stream.draw(sampling, seen, next(numbers))
        if token in stop_ids:
            return
        yield token
        tokens.append(token)
        if stream.room:
            stream.read(token)
        else:
            stream.start(tokens[-max(1, context // 2) :])


def generate(
    model: Transformer | Decoder,
    tokenizer: Tokenizer,
    prompt: str,
    max_tokens: int = 200,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """Text that continues `prompt`, piece by piece as whole characters are there; ends before any text of `stop`, and
    where the model ends it."""
    tokens = generate_tokens(model, tokenizer.encode(prompt), max_tokens, sampling, tokenizer.end_ids)
    return stream_text(tokenizer, tokens, stop)


def stream_text(tokenizer: Tokenizer, tokens: Iterator[int], stop: Sequence[str] = ()) -> Iterator[str]:
    """The text of tokens as they come. What may be the beginning of a stop text is held back until it is not."""
    if "" in stop:
        raise ValueError("a stop text cannot be empty")
    stream, held = tokenizer.stream(), ""
    for token in tokens:
        held += stream.feed(token)
        found = [held.index(text) for text in stop if text in held]
        if found:
            yield held[: min(found)]
            return
        keep = max((n for text in stop for n in range(1, len(text)) if held.endswith(text[:n])), default=0)
        if len(held) > keep:
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
    if rest := held + stream.finish():
        yield rest
