"""How varied replies are, whether they go round in circles, and what of their grammar the sheet can check."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from barreleye.data.dress import normalize
from barreleye.data.grammar import slips
from barreleye.evaluation.figures import Figure, bootstrap

SHORTEST_LOOP = 3  # words that follow themselves at once
SAME_SENTENCE = 3  # times in one reply
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")


@dataclass(frozen=True)
class Diversity:
    """Of some replies.

    distinct_1, distinct_2: distinct words and pairs of words, as a share of all (Li et al. 2016); a few replies have a
    larger share than many, and empty ones have none. loops: share of replies that go round in circles. slips: what is
    surely wrong with articles and agreement, per reply. This is no full grammar check: `grammar.slips` sees articles,
    and the verbs that follow the sheet's plurals.
    """

    distinct_1: Figure | None
    distinct_2: Figure | None
    loops: Figure
    slips: Figure


def diversity(
    groups: Mapping[str, Sequence[str]], plurals: Collection[str] = ()
) -> tuple[dict[str, Diversity], list[dict[str, Any]]]:
    """The figures of some groups of replies ("generated", "true"), and every reply with what was found in it.

    plurals: the sheet's. Compare with the sheet's own replies to the same prompts: these shares depend on how many
    replies there are.
    """
    figures, rows = {}, []
    for group, replies in groups.items():
        loops = [has_loop(reply) for reply in replies]
        found = [list(slips(reply.lower(), [plural.lower() for plural in plurals])) for reply in replies]
        counts = bootstrap(list(map(len, found)))
        figures[group] = Diversity(distinct(replies, 1), distinct(replies, 2), bootstrap(loops), counts)
        rows += [
            {"group": group, "reply": reply, "loop": loop, "slips": slipped}
            for reply, loop, slipped in zip(replies, loops, found, strict=True)
        ]
    return figures, rows


def distinct(replies: Sequence[str], n: int) -> Figure | None:
    """Distinct n-grams of words / all of them; None where no reply has one.

    An n-gram that occurs c times counts 1/c at each place, so that the distinct ones are a sum over replies. The
    interval draws replies and keeps c: drawing anew would make copies, and copies are what is measured.
    """
    grams = [_grams(normalize(reply).split(), n) for reply in replies]
    if not any(grams):
        return None
    counts = Counter(chain.from_iterable(grams))
    return bootstrap([sum(1 / counts[gram] for gram in own) for own in grams], [len(own) for own in grams])


def has_loop(reply: str) -> bool:
    """Whether `SHORTEST_LOOP` words or more come twice in a row, or one sentence `SAME_SENTENCE` times."""
    sentences = Counter(filter(None, map(normalize, _SENTENCE_END.split(reply))))
    if sentences and max(sentences.values()) >= SAME_SENTENCE:
        return True
    words = normalize(reply).split()
    return any(
        words[start : start + n] == words[start + n : start + 2 * n]
        for n in range(SHORTEST_LOOP, len(words) // 2 + 1)
        for start in range(len(words) - 2 * n + 1)
    )


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
