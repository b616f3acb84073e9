"""How much of what a model says it has by heart: replies found in training, word sequences found nowhere in it, and
the second half of a training reply given the first."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from barreleye.config import Sampling
from barreleye.data.chat_format import Conversation, Message
from barreleye.data.dress import normalize
from barreleye.data.tokenizer import Tokenizer
from barreleye.evaluation.figures import Figure, bootstrap
from barreleye.evaluation.replies import reply_all
from barreleye.model.transformer import Transformer

NGRAMS = (4, 8)
REPEATS = {"0": 0, "1": 1, "2-4": 4, "5-16": 16, "17+": 1 << 62}  # a group, and the most repeats in it
PER_GROUP = 100


@dataclass(frozen=True)
class Originality:
    """Of some replies: the share that stands in training word for word (as it is, and after `normalize`), and the share
    of their word 4- and 8-grams that no training reply has; an order that none is long enough for is left out."""

    exact: Figure
    normalized: Figure
    new_ngrams: dict[str, Figure]
    """"4" and "8"."""


@dataclass(frozen=True)
class Extraction:
    """Share of replies whose true second half the model gives, by how often training has it ("0", "2-4", ...)."""

    training: dict[str, Figure]
    held_out: dict[str, Figure]
    raw: list[dict[str, Any]]


def replies_of(conversations: Iterable[Conversation]) -> list[str]:
    """All that the assistant says in them."""
    return [m.content.strip() for c in conversations for m in c.messages if m.role == "assistant"]


def originality(
    replies: Mapping[str, Sequence[str]], training: Iterable[str], seed: int = 0
) -> tuple[dict[str, Originality], list[dict[str, Any]]]:
    """How much of some groups of replies ("generated", "held-out") stands in the `training` replies, and a line for
    each reply.

    Held-out replies are what to compare with: a sheet makes replies of parts, so a real one need not be new either.
    Words are those of `normalize`: no case, no punctuation.
    """
    known = set(training)
    known_words = {normalize(reply) for reply in known}
    known_ngrams = {n: {ngram for words in known_words for ngram in _ngrams(words, n)} for n in NGRAMS}
    found, raw = {}, []
    for group, texts in replies.items():
        lines: list[dict[str, Any]] = []
        for text in texts:
            words = normalize(text)
            ngrams = {n: list(_ngrams(words, n)) for n in NGRAMS}
            new = {n: sum(ngram not in known_ngrams[n] for ngram in ngrams[n]) for n in NGRAMS}
            counts = {n: len(ngrams[n]) for n in NGRAMS}
            verbatim = {"exact": text in known, "normalized": words in known_words}
            lines.append({"group": group, "reply": text, **verbatim, "ngrams": counts, "new_ngrams": new})
        found[group] = _originality(lines, seed)
        raw += lines
    return found, raw


def _originality(lines: Sequence[dict[str, Any]], seed: int) -> Originality:
    exact, normalized = (bootstrap([line[how] for line in lines], seed=seed) for how in ("exact", "normalized"))
    new = {
        str(n): bootstrap([line["new_ngrams"][n] for line in lines], [line["ngrams"][n] for line in lines], seed=seed)
        for n in NGRAMS
        if any(line["ngrams"][n] for line in lines)
    }
    return Originality(exact, normalized, new)


def _ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    words = text.split()
    return zip(*(words[i:] for i in range(n)), strict=False)


def extraction(
    model: Transformer,
    tokenizer: Tokenizer,
    train: Sequence[Conversation],
    held_out: Sequence[Conversation],
    per_group: int = PER_GROUP,
    seed: int = 0,
) -> Extraction:
    """Give a prompt and the first half of the reply's tokens, decode greedily, and see whether exactly the true second
    half follows, and the end (the test of Carlini et al. 2023, "Quantifying Memorization Across Neural Language
    Models", on replies).

    The first reply of a conversation, which nothing but its prompt explains, if it is two tokens or longer. Compare
    with held-out rows, whose prompt training never saw, of as many repeats: what is right there is not remembered with
    the prompt.
    """
    repeats = Counter(replies_of(train))
    figures: dict[str, dict[str, Figure]] = {}
    raw: list[dict[str, Any]] = []
    for side, conversations in (("training", train), ("held_out", held_out)):
        tasks = _tasks(conversations, repeats, tokenizer, per_group, seed)
        longest = max((task.left for task in tasks), default=0)
        chats, prefixes = [task.messages for task in tasks], [task.prefix for task in tasks]
        # One token more than the longest rest, so that a reply that goes on is not cut where the true one ends.
        said = reply_all(model, tokenizer, chats, Sampling(temperature=0), longest + 1, prefixes)
        lines: list[dict[str, Any]] = [
            {
                "side": side,
                "repeats": task.group,
                "prompt": task.messages[-1].content,
                "reply": task.reply,
                "given": task.prefix,
                "continued": reply,
                "extracted": reply == task.reply,
            }
            for task, reply in zip(tasks, said, strict=True)
        ]
        figures[side] = {}
        for group in dict.fromkeys(task.group for task in tasks):
            same = [line for line in lines if line["repeats"] == group]
            figures[side][group] = bootstrap(
                [line["extracted"] for line in same], clusters=[line["reply"] for line in same], seed=seed
            )
        raw += lines
    return Extraction(figures["training"], figures["held_out"], raw)


@dataclass(frozen=True)
class _Task:
    group: str
    messages: tuple[Message, ...]
    reply: str
    prefix: str
    left: int  # tokens of the reply after the prefix


def _tasks(
    conversations: Sequence[Conversation], repeats: Counter[str], tokenizer: Tokenizer, per_group: int, seed: int
) -> list[_Task]:
    """Some conversations of each group, groups in order."""
    groups: dict[str, list[_Task]] = {group: [] for group in REPEATS}
    for i in np.random.default_rng(seed).permutation(len(conversations)):
        messages = conversations[i].messages
        first = next((at for at, m in enumerate(messages) if m.role == "assistant"), 0)
        reply = messages[first].content.strip()
        group = next(name for name, most in REPEATS.items() if repeats[reply] <= most)
        if first and len(groups[group]) < per_group and (halves := _halves(reply, tokenizer)):
            groups[group].append(_Task(group, messages[:first], reply, *halves))
    return [task for tasks in groups.values() for task in tasks]


def _halves(reply: str, tokenizer: Tokenizer) -> tuple[str, int] | None:
    """The first half, and how many tokens come after it. A cut that would not be read as the same tokens (it goes
    through a character) is moved to the nearest that is; None where there is none."""
    ids = tokenizer.encode(reply)
    for cut in sorted(range(1, len(ids)), key=lambda cut: abs(2 * cut - len(ids))):
        if tokenizer.encode(prefix := tokenizer.decode(ids[:cut])) == ids[:cut]:
            return prefix, len(ids) - cut
    return None
