"""What the data alone say, before anything is learned: how low a model can come that ignores what was said before,
whether targets are the tokens that come next, how much of the data stands there twice, which tokens never occur.

N tokens and their targets, end to end; B batch, T time (position); V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from barreleye.data.batches import IGNORE, ChatBatches, TextBatches, encode_text
from barreleye.data.corpus import Corpus
from barreleye.data.tokenizer import Tokenizer

TARGETS = 2**17  # enough for statistics of three tokens; all are read in a fraction of a second
FEWEST_TARGETS = 2**12  # of fewer nothing can be said
MOST_BATCHES = 2**11
MOST_TOKENS = 2**21  # in which copies are looked for
SLICES = 32  # of a longer text
WINDOW = 50  # tokens: what is equal for so long was copied
PRIORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no multiplication modulo 2^64 loses anything

Facts = dict[str, float | None]
Document = TypeVar("Document", np.ndarray, str)


def data_facts(batches: ChatBatches | TextBatches, corpus: Corpus, tokenizer: Tokenizer) -> Facts:
    """What a training reads, and both sides that it was cut from.

    unigram, bigram, trigram: nats per learned token that knowing no token, the one before, or the two before leaves
    (estimated on targets that were not counted; left out where there are too few). copied: share of targets that equal
    their own token; next: that equal the token after it, all but the last of a row. learned: targets in a batch, on
    average. same_batch: share of batches that were read before, in the first epoch. unused: share of learned tokens,
    single bytes and special ones aside, that training never reads. Of a text, repeated: share of training, leaked:
    share of the held-out side, that stood in training before. Of chats, left_out: share that were copies, and are not
    learned.
    """
    read = _read(batches)
    facts: Facts = {}
    if min(len(read.targets_N), len(batches.tokens)) >= FEWEST_TARGETS:  # reading them again does not make more of them
        left = entropies((read.tokens_N, read.before_N), read.targets_N, tokenizer.vocab_size)
        facts["unigram"], facts["bigram"], facts["trigram"] = left
    facts["copied"] = float((read.tokens_N == read.targets_N).mean())
    facts["next"], facts["learned"], facts["same_batch"] = read.next, read.learned, read.same_batch
    facts["unused"] = unused(np.concatenate(spread(batches.tokens)), tokenizer)
    if isinstance(batches, TextBatches):
        assert isinstance(corpus.held_out, str)
        learned = windows(np.concatenate(spread(batches.tokens)))
        held_out = windows(encode_text("".join(spread(corpus.held_out)), tokenizer))
        facts["repeated"] = 1 - len(np.unique(learned)) / max(1, len(learned))
        facts["leaked"] = float(np.isin(held_out, learned).mean()) if len(held_out) else 0.0
    else:
        dropped = int(corpus.report.get("duplicates_dropped", 0))
        facts["left_out"] = dropped / (dropped + len(corpus.train) + len(corpus.held_out))
    return {name: value if value is None else float(f"{value:.6g}") for name, value in facts.items()}


@dataclass(frozen=True)
class Read:
    """The first batches of a training: what is learned there, with the token at it and the one before (-1: none)."""

    before_N: np.ndarray
    tokens_N: np.ndarray
    targets_N: np.ndarray
    next: float | None
    learned: float
    same_batch: float


def _read(batches: ChatBatches | TextBatches) -> Read:
    parts, n, follow, could_follow = [], 0, 0, 0
    in_first_epoch: list[int] = []
    for i in range(MOST_BATCHES):
        tokens_BT, targets_BT = batches(i)
        learned_BT = targets_BT != IGNORE
        before_BT = torch.cat([torch.full_like(tokens_BT[:, :1], -1), tokens_BT[:, :-1]], 1)
        parts.append(torch.stack([x_BT[learned_BT] for x_BT in (before_BT, tokens_BT, targets_BT)]))
        there_BT = learned_BT[:, :-1] & learned_BT[:, 1:]  # what stands behind a row's end is padding
        follow += int((targets_BT[:, :-1] == tokens_BT[:, 1:])[there_BT].sum())
        could_follow += int(there_BT.sum())
        if i < batches.per_epoch:
            in_first_epoch.append(hash(tokens_BT.numpy().tobytes()))
        n += parts[-1].shape[1]
        if n >= TARGETS:
            break
    before_N, tokens_N, targets_N = torch.cat(parts, 1).numpy()
    following = follow / could_follow if could_follow else None
    same_batch = 1 - len(set(in_first_epoch)) / len(in_first_epoch)
    return Read(before_N, tokens_N, targets_N, following, n / len(parts), same_batch)


def entropies(history: Sequence[np.ndarray], targets_N: np.ndarray, vocab_size: int) -> list[float]:
    """Nats per target that knowing none leaves, one, ... all of the tokens before it (the nearest first; -1: there is
    none), counted on the first half, scored on the second.

    Each leans on the one before as on a Dirichlet prior (MacKay and Peto 1995), of the weight that serves it best.
    """
    half = (len(targets_N) + 1) // 2
    seen_V = np.bincount(targets_N[:half], minlength=vocab_size) + 1.0
    p_N = (seen_V / seen_V.sum())[targets_N[half:]]
    left, context_N = [_nats(p_N)], np.zeros(len(targets_N), np.int64)
    for token_N in history:
        context_N = context_N * (vocab_size + 1) + token_N + 1
        alone_N, both_N = (_times(ids_N, half) for ids_N in (context_N, context_N * vocab_size + targets_N))
        p_N = min(((both_N + a * p_N) / (alone_N + a) for a in PRIORS), key=_nats)
        left.append(_nats(p_N))
    return left


def _nats(p_N: np.ndarray) -> float:
    return float(-np.log(p_N).mean())


def _times(ids_N: np.ndarray, half: int) -> np.ndarray:
    """How often each of the second half stands in the first."""
    known, counts = np.unique(ids_N[:half], return_counts=True)
    place_N = np.minimum(np.searchsorted(known, ids_N[half:]), len(known) - 1)
    return np.where(known[place_N] == ids_N[half:], counts[place_N], 0)


def unused(tokens: np.ndarray, tokenizer: Tokenizer) -> float | None:
    """Share of the vocabulary that does not occur; None where there is nothing but bytes and special tokens, which
    stand by for what may come."""
    learned = [
        i
        for i in range(tokenizer.vocab_size)
        if i not in tokenizer.special_ids and (tokenizer.kind == "characters" or len(tokenizer.token_bytes(i)) > 1)
    ]
    counts_V = np.bincount(tokens, minlength=tokenizer.vocab_size)
    return float((counts_V[learned] == 0).mean()) if learned else None


def spread(document: Document) -> list[Document]:
    """Even slices of a document, MOST_TOKENS in all; all of a shorter one."""
    if len(document) <= MOST_TOKENS:
        return [document]
    starts = np.linspace(0, len(document) - MOST_TOKENS // SLICES, SLICES).astype(int).tolist()
    return [document[start : start + MOST_TOKENS // SLICES] for start in starts]


def windows(tokens: np.ndarray) -> np.ndarray:
    """A number for each window of the tokens, equal where windows are (a polynomial modulo 2^64)."""
    ids = tokens.astype(np.uint64) + np.uint64(1)
    n = max(0, len(ids) - WINDOW + 1)
    hashes = np.zeros(n, np.uint64)
    for i in range(WINDOW):
        hashes = hashes * MULTIPLIER + ids[i : i + n]
    return hashes
