"""Text from a model: prefill, decode one token, sample. Plain functions over a KV cache; the model knows none of it.

B batch, T time (position), V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from barreleye.config import Sampling
from barreleye.data.tokenizer import Tokenizer
from barreleye.model.cache import KVCache
from barreleye.model.transformer import Transformer


@torch.inference_mode()
def prefill(model: Transformer, tokens_BT: Tensor, cache: KVCache) -> Tensor:
    """Read a prompt into the cache; logits of what follows it, shape (B, V)."""
    return model(tokens_BT, cache)[:, -1]


@torch.inference_mode()
def decode_one_token(model: Transformer, token_B: Tensor, cache: KVCache) -> Tensor:
    """Read one more token of each row; logits of what follows, shape (B, V)."""
    return model(token_B[:, None], cache)[:, -1]


def sample(logits_BV: Tensor, sampling: Sampling, seen_BT: Tensor, uniform_B: Tensor) -> Tensor:
    """The next token of each row, shape (B,): where the sum of the probabilities passes a random number from 0 to 1."""
    logits_BV = penalize(logits_BV.float(), seen_BT, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    sum_BV = probabilities(logits_BV, sampling).cumsum(-1)
    # Rounding can end the sum a little below 1: a number above it stands for the last token that adds to it.
    return ((sum_BV <= uniform_B[:, None]) & (sum_BV < sum_BV[:, -1:])).sum(-1)


def random_numbers(sampling: Sampling, device: torch.device) -> torch.Generator:
    """Where they come from, by the sampling's seed."""
    generator = torch.Generator(device)
    _ = generator.seed() if sampling.seed < 0 else generator.manual_seed(sampling.seed)
    return generator


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
    top_B1 = logits_BV.max(-1, keepdim=True).values
    probs_BV = ((logits_BV - top_B1) / max(sampling.temperature, 1e-6)).softmax(-1)
    if 0 < sampling.top_k < probs_BV.shape[-1]:
        smallest_B1 = probs_BV.topk(sampling.top_k).values[:, -1:]
        probs_BV = probs_BV.masked_fill(probs_BV < smallest_B1, 0)
    if sampling.top_p < 1:
        sorted_BV, order_BV = probs_BV.sort(descending=True)
        # A token stays when those before it do not yet reach p: the first always does.
        before_BV = sorted_BV.cumsum(-1) - sorted_BV
        drop_BV = before_BV >= sampling.top_p * sorted_BV.sum(-1, keepdim=True)
        drop_BV[:, 0] = False
        probs_BV = probs_BV.masked_fill(drop_BV.scatter(1, order_BV, drop_BV), 0)
    return probs_BV / probs_BV.sum(-1, keepdim=True)


def generate_tokens(
    model: Transformer,
    prompt: Sequence[int],
    max_tokens: int = 200,
    sampling: Sampling | None = None,
    stop_ids: frozenset[int] = frozenset(),
) -> Iterator[int]:
    """Token ids that continue `prompt`, one by one, until one of `stop_ids` (not given out) or `max_tokens`.

    When the context is full, its later half is read anew and the text goes on from there. Raises ValueError for an
    empty prompt.
    """
    if not prompt:
        raise ValueError("a prompt needs at least one token to continue from")
    sampling = sampling or Sampling()
    device = next(model.parameters()).device
    generator = random_numbers(sampling, device)
    context = model.config.context_length
    model.eval()
    tokens = list(prompt)
    cache = KVCache(model.config, device=device)
    logits_BV = prefill(model, _row(tokens[-context:], device), cache)
    for _ in range(max_tokens):
        seen_BT = _row(tokens if sampling.repetition_penalty != 1 else [], device)
        token_B = sample(logits_BV, sampling, seen_BT, torch.rand(1, generator=generator, device=device))
        token = int(token_B)
        if token in stop_ids:
            return
        yield token
        tokens.append(token)
        if cache.room:
            logits_BV = decode_one_token(model, token_B, cache)
        else:
            cache.length = 0
            logits_BV = prefill(model, _row(tokens[-max(1, context // 2) :], device), cache)


def _row(tokens: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([tokens], device=device)


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    max_tokens: int = 200,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """Text that continues `prompt`, piece by piece as whole characters are there; ends before any text of `stop`."""
    return stream_text(tokenizer, generate_tokens(model, tokenizer.encode(prompt), max_tokens, sampling), stop)


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
