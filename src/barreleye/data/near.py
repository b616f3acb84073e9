"""Texts that are almost the same: found by MinHash (Broder 1997), then compared exactly."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from barreleye.data.dress import normalize

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

SHINGLE = 3  # characters
PERMUTATIONS = 128
MISSED, FOUND_IN_VAIN = 0.9, 0.1  # what counts for more: a wrong candidate costs one comparison, a missed one is lost


def near_duplicates(
    texts: Sequence[str], threshold: float = 0.8, most: int | None = None
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, likeness) of texts, i < j, in order: those that share `threshold` of their shingles or more.

    Likeness is the Jaccard index of the sets of 3-character shingles of the normalized texts: 1 for texts that differ
    in case and punctuation alone. Many texts alike make very many pairs: `most` of each j at most are looked at. Needs
    `datasketch` (the extra "report"): raises ImportError where it is missing.
    """
    shingles = [_shingles(normalize(text)) for text in texts]
    index = _index(threshold)
    pairs = []
    for j, sketch in enumerate(_sketches(shingles)):
        pairs += [(i, j, _likeness(shingles[i], shingles[j])) for i in index.query(sketch)[:most]]
        index.insert(j, sketch)
    return sorted(pair for pair in pairs if pair[2] >= threshold)


def near_across(texts: Sequence[str], others: Sequence[str], threshold: float = 0.8) -> list[tuple[int, int, float]]:
    """(i, j, likeness) for each text that has one like it among the others, in order; j is the most alike.

    Likeness, and what is needed, as for `near_duplicates`.
    """
    shingles, theirs = ([_shingles(normalize(text)) for text in side] for side in (texts, others))
    index = _index(threshold)
    for j, sketch in enumerate(_sketches(theirs)):
        index.insert(j, sketch)
    pairs = []
    for i, sketch in enumerate(_sketches(shingles)):
        likeness, j = max(((_likeness(shingles[i], theirs[j]), j) for j in index.query(sketch)), default=(0.0, 0))
        if likeness >= threshold:
            pairs.append((i, j, likeness))
    return pairs


def _index(threshold: float) -> "MinHashLSH":
    from datasketch import MinHashLSH

    return MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=(FOUND_IN_VAIN, MISSED))


def _sketches(shingles: Iterable[set[str]]) -> "Iterator[MinHash]":
    from datasketch import MinHash

    return MinHash.generator(([shingle.encode() for shingle in text] for text in shingles), num_perm=PERMUTATIONS)


def _likeness(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}
