"""What the data alone say, before anything is learned: how low a model can come that ignores what was said before, how
much of the data stands there twice, and which tokens never occur.

N pairs of a token and its target, end to end; V vocabulary.
"""

import numpy as np
import torch

from barreleye.data.batches import IGNORE, ChatBatches, TextBatches, encode_text
from barreleye.data.corpus import Corpus
from barreleye.data.tokenizer import Tokenizer

PAIRS = 2**17  # enough for statistics of two tokens; all are read in a fraction of a second
FEWEST_PAIRS = 2**12  # of fewer nothing can be said
MOST_BATCHES = 2**11
MOST_TOKENS = 2**21
WINDOW = 50  # tokens: what is equal for so long was copied
PRIORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no multiplication modulo 2^64 loses anything

Facts = dict[str, float | None]


def data_facts(batches: ChatBatches | TextBatches, corpus: Corpus, tokenizer: Tokenizer) -> Facts:
    """What a training reads, and both sides that it was cut from.

    unigram, bigram: nats per learned token that knowing no token, or the one before, leaves (estimated on targets that
    were not counted; left out where there are too few). copied: share of targets that equal their own token. unused:
    share of learned tokens, single bytes and special ones aside, that training never reads. repeated: share of
    training, leaked: share of the held-out side, that stood in training before (exact duplicates of chats are not
    learned; what was dropped counts).
    """
    tokens_N, targets_N = _pairs(batches)
    facts: Facts = {}
    if min(len(targets_N), len(batches.tokens)) >= FEWEST_PAIRS:  # reading them again does not make more of them
        facts["unigram"], facts["bigram"] = entropies(tokens_N, targets_N, tokenizer.vocab_size)
    facts["copied"] = float((tokens_N == targets_N).mean())
    facts["unused"] = unused(batches.tokens[:MOST_TOKENS], tokenizer)
    if isinstance(batches, TextBatches):
        assert isinstance(corpus.held_out, str)
        learned = windows(batches.tokens[:MOST_TOKENS])
        held_out = windows(encode_text(corpus.held_out[:MOST_TOKENS], tokenizer))
        facts["repeated"] = 1 - len(np.unique(learned)) / max(1, len(learned))
        facts["leaked"] = float(np.isin(held_out, learned).mean()) if len(held_out) else 0.0
    else:
        dropped = int(corpus.report.get("duplicates_dropped", 0))
        facts["repeated"] = dropped / (dropped + len(corpus.train))
        facts["leaked"] = int(corpus.report.get("overlap", 0)) / max(1, len(corpus.held_out))
    return {name: value if value is None else float(f"{value:.6g}") for name, value in facts.items()}


def _pairs(batches: ChatBatches | TextBatches) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and learned targets of the first batches."""
    tokens, targets, n = [], [], 0
    for i in range(MOST_BATCHES):
        tokens_BT, targets_BT = batches(i)
        learned_BT = targets_BT != IGNORE
        tokens.append(tokens_BT[learned_BT])
        targets.append(targets_BT[learned_BT])
        n += len(targets[-1])
        if n >= PAIRS:
            break
    return torch.cat(tokens).numpy(), torch.cat(targets).numpy()


def entropies(tokens_N: np.ndarray, targets_N: np.ndarray, vocab_size: int) -> tuple[float, float]:
    """Nats per target of a unigram and of a bigram, counted on the first half of the pairs, scored on the second.

    The bigram leans on the unigram as on a Dirichlet prior (MacKay and Peto 1995), of the weight that serves it best.
    """
    half = (len(targets_N) + 1) // 2
    seen_V = np.bincount(targets_N[:half], minlength=vocab_size) + 1.0
    p_N = (seen_V / seen_V.sum())[targets_N[half:]]
    pairs_N = tokens_N.astype(np.int64) * vocab_size + targets_N
    known, counts = np.unique(pairs_N[:half], return_counts=True)
    place_N = np.minimum(np.searchsorted(known, pairs_N[half:]), len(known) - 1)
    both_N = np.where(known[place_N] == pairs_N[half:], counts[place_N], 0)
    before_N = np.bincount(tokens_N[:half], minlength=vocab_size)[tokens_N[half:]]
    bigram = min(float(-np.log((both_N + a * p_N) / (before_N + a)).mean()) for a in PRIORS)
    return float(-np.log(p_N).mean()), bigram


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


def windows(tokens: np.ndarray) -> np.ndarray:
    """A number for each window of the tokens, equal where windows are (a polynomial modulo 2^64)."""
    ids = tokens.astype(np.uint64) + np.uint64(1)
    n = max(0, len(ids) - WINDOW + 1)
    hashes = np.zeros(n, np.uint64)
    for i in range(WINDOW):
        hashes = hashes * MULTIPLIER + ids[i : i + n]
    return hashes
