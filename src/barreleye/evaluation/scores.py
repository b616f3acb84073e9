"""Bits per byte of replies that training never saw: the model's, next to those of plain statistics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from barreleye.data.batches import IGNORE, batch_edges
from barreleye.data.chat_format import Conversation
from barreleye.data.corpus import Corpus
from barreleye.data.tokenizer import Tokenizer
from barreleye.evaluation.figures import Figure, bootstrap, paired
from barreleye.evaluation.predictors import Lookup, NGram, Row, Unigram, encode_rows, scored_tokens
from barreleye.model.transformer import Transformer

SETS = {"unseen_rows": "unseen rows", "held_out": "unseen prompts", "unseen_topics": "unseen topics"}
BATCH_TOKENS = 2048  # the logits of more do not fit the cache, and take longer
MODEL = "model"


@dataclass(frozen=True)
class SetScore:
    """One set of conversations: bits per byte of its replies.

    baselines, and differences (the model's minus the baseline's: below zero the model is better, with the interval of
    pairs), by the baseline's name.
    """

    model: Figure
    baselines: dict[str, Figure]
    differences: dict[str, Figure]
    verdict: str
    replies: int
    tokens: int
    bytes: int


@dataclass(frozen=True)
class Scores:
    """By set ("unseen rows", "unseen prompts", "unseen topics": those that the run has), and a line for each reply.

    lookup_weight: how much the nearest prompts' replies count in the lookup baseline, chosen on training data.
    """

    sets: dict[str, SetScore]
    lookup_weight: float
    raw: list[dict[str, Any]]


def score_replies(corpus: Corpus, model: Transformer, tokenizer: Tokenizer, cap: int = 1_000, seed: int = 0) -> Scores:
    """Score the replies of at most `cap` conversations of each set.

    Replies to follow-ups that both sides share are context, and not scored. Raises ValueError for a corpus without
    replies, or without scikit-learn.
    """
    if isinstance(corpus.train, str):
        raise ValueError("plain text has no replies to score; name a run of chats")
    chosen = {
        name: rows
        for side, name in SETS.items()
        if (rows := encode_rows(_sample(getattr(corpus, side), cap, seed), tokenizer))
    }
    train = encode_rows(corpus.train, tokenizer)
    unigram = Unigram(train, tokenizer.vocab_size)
    ngram = NGram([row.ids for row in train], tokenizer.vocab_size)
    lookup = Lookup(train, ngram, seed)
    sets, raw = {}, []
    for name, rows in chosen.items():
        ids = [row.ids for row in rows]
        nats = {
            MODEL: scored_tokens(model_nats(model, ids), rows),
            "unigram": scored_tokens(unigram.nats(ids), rows),
            "5-gram": scored_tokens(ngram.nats(ids), rows),
            "lookup": lookup.nats(rows),
        }
        lines = _lines(name, rows, nats)
        sets[name] = summarize(lines, seed)
        raw += lines
    return Scores(sets, lookup.weight, raw)


def _sample(conversations: Sequence[Conversation], cap: int, seed: int) -> list[Conversation]:
    """Some of those that have a reply to score, in their order."""
    scorable = [c for c in conversations if any(m.role == "assistant" and not m.shared for m in c.messages)]
    return [scorable[i] for i in sorted(np.random.default_rng(seed).permutation(len(scorable))[:cap])]


@torch.inference_mode()
def model_nats(model: Transformer, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Negative log-likelihood of each token of each row given those before it; NaN for the first.

    A row longer than the context is cut as in training: what follows a cut is given only what stands after it.
    """
    model.eval()
    context, device = model.config.context_length, next(model.parameters()).device
    nats = [np.full(len(row), np.nan) for row in rows]
    cuts = [(i, start) for i, row in enumerate(rows) for start in range(0, len(row) - 1, context)]
    pieces = [torch.from_numpy(rows[i][start : start + context + 1]) for i, start in cuts]
    order = np.argsort([len(piece) for piece in pieces], kind="stable")
    edges = batch_edges(np.array([len(pieces[n]) - 1 for n in order]), BATCH_TOKENS)
    for left, right in pairwise(edges):
        batch = [pieces[n] for n in order[left:right]]
        tokens_BT = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=IGNORE).to(device)
        logits_BTV = model(tokens_BT[:, :-1].clamp(min=0))
        targets_BT = tokens_BT[:, 1:]
        nats_BT = F.cross_entropy(
            logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="none"
        ).view_as(targets_BT)
        for n, piece, nats_T in zip(order[left:right], batch, nats_BT.double().cpu().numpy(), strict=True):
            i, start = cuts[n]
            nats[i][start + 1 : start + len(piece)] = nats_T[: len(piece) - 1]
    return nats


def _lines(name: str, rows: Sequence[Row], nats: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A line for each scored reply."""
    replies = [(number, reply) for number, row in enumerate(rows) for reply in row.scored]
    starts = np.cumsum([0, *(len(reply.ids) for _, reply in replies)])
    assert all(len(nats_N) == starts[-1] for nats_N in nats.values()), "every predictor scores the same tokens"
    sums = {who: np.add.reduceat(nats_N, starts[:-1]).tolist() for who, nats_N in nats.items()}
    return [
        {
            "set": name,
            "conversation": number,
            "topic": rows[number].topic,
            "context": reply.context,
            "prompt": reply.prompt,
            "reply": reply.text,
            "tokens": len(reply.ids),
            "bytes": len(reply.text.encode()),
            "nats": {who: sums[who][i] for who in nats},
        }
        for i, (number, reply) in enumerate(replies)
    ]


def summarize(lines: Sequence[dict[str, Any]], seed: int = 0) -> SetScore:
    """The figures of one set from its replies. Topics are resampled where there are any, or else conversations: neither
    replies nor tokens, which hang together."""
    sizes, clusters = [line["bytes"] for line in lines], [line["topic"] or line["conversation"] for line in lines]
    bits = {who: [line["nats"][who] / math.log(2) for line in lines] for who in lines[0]["nats"]}
    ours = bits.pop(MODEL)
    differences = {who: paired(ours, theirs, sizes, clusters, seed) for who, theirs in bits.items()}
    return SetScore(
        bootstrap(ours, sizes, clusters, seed),
        {who: bootstrap(theirs, sizes, clusters, seed) for who, theirs in bits.items()},
        differences,
        verdict(lines[0]["set"], differences),
        len(lines),
        sum(line["tokens"] for line in lines),
        sum(sizes),
    )


def verdict(name: str, differences: dict[str, Figure]) -> str:
    """In words: a baseline is beaten where the whole interval of the difference is below zero."""
    beaten = [who for who, difference in differences.items() if difference.high < 0]
    unbeaten = [who for who in differences if who not in beaten]
    parts = (("beats", beaten), ("does not beat", unbeaten))
    said = f"{' but '.join(f'{verb} {_listed(whom)}' for verb, whom in parts if whom)} on {name}"
    if name != SETS["held_out"]:
        return said
    return said + (": it has not generalized" if unbeaten else ", and so says more than what was said to similar ones")


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
