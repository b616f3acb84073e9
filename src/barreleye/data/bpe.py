"""Byte-pair encoding, learned step by step (Sennrich et al. 2016; over bytes: Radford et al. 2019).

Text is cut into words, a word is a row of bytes, and learning is one move, repeated: find the pair of
neighbours that occurs most often, and make the two one token. `learn_merges` yields each move.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from tokenizers.pre_tokenizers import ByteLevel

T = TypeVar("T")

MIN_COUNT = 2  # a pair seen once is chance, not a pattern

# GPT-2's words: runs of letters, of digits or of other signs, with the space before them. No token spans two.
PRE_TOKENIZER = ByteLevel(add_prefix_space=False)
# The same cut of ASCII text, several times as fast.
ASCII_WORD = re.compile(
    r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\t-\r A-Za-z0-9]+|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+"
)
# Where a word of any text ends for certain: what is cut here and encoded apart has the same tokens.
BEFORE_SPACE = re.compile(r"(?<=\S)(?=[\t-\r ])")


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte: its own where that prints, else the next from U+0100 on (space: Ġ)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(0x100)]


BYTE_LETTERS = _byte_letters()
LETTER_OF_BYTE = dict(enumerate(BYTE_LETTERS))
BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}


def letters_to_bytes(token: str) -> bytes:
    """The bytes that a token spelled in byte letters stands for: "Ġcat" -> b" cat"."""
    return bytes(BYTE_OF_LETTER[letter] for letter in token)


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, spelled in byte letters: "a cat, a dog" -> {"a": 1, "Ġcat": 1, ...}."""
    words: Counter[str] = Counter()
    for text, times in Counter(texts).items():
        if text.isascii():
            cut = [word.translate(LETTER_OF_BYTE) for word in ASCII_WORD.findall(text)]
        else:
            cut = [word for word, _ in PRE_TOKENIZER.pre_tokenize_str(text)]
        for word in cut:
            words[word] += times
    return words


@dataclass(frozen=True, slots=True)
class Merge:
    """Two neighbouring tokens become one, because the pair occurred `count` times: more than any other."""

    left: str
    right: str
    count: int

    @property
    def token(self) -> str:
        return self.left + self.right


def learn_merges(word_counts: Mapping[str, int]) -> Iterator[Merge]:
    """Yield merges, most frequent pair first, until no pair occurs twice. Words are spelled in byte letters.

    Of equal counts, the pair of older tokens goes first, as in Hugging Face's BpeTrainer. A merge changes only
    the words that hold its pair, so only their pairs are counted again: thousands of merges take seconds.
    """
    tokens = sorted(BYTE_LETTERS)
    id_of = {token: token_id for token_id, token in enumerate(tokens)}
    words = [[id_of[letter] for letter in word] for word in word_counts]
    times = list(word_counts.values())

    pair_counts: Counter[tuple[int, int]] = Counter()
    words_with: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for w, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += times[w]
            words_with[pair].add(w)

    # heapq pops the smallest: the largest count, then the oldest pair.
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    while heap:
        negative_count, pair = heapq.heappop(heap)
        count = pair_counts[pair]
        if count != -negative_count:
            continue  # out of date: the pair was pushed again when its count changed
        if count < MIN_COUNT:
            return
        merge = Merge(tokens[pair[0]], tokens[pair[1]], count)
        yield merge

        if merge.token not in id_of:  # "a"+"bc" may spell what "ab"+"c" has spelled already
            id_of[merge.token] = len(tokens)
            tokens.append(merge.token)
        changed = set()
        for w in words_with.pop(pair):
            before, after = words[w], join_pair(words[w], pair, id_of[merge.token])
            for old in pairwise(before):
                pair_counts[old] -= times[w]
                changed.add(old)
            for new in pairwise(after):
                pair_counts[new] += times[w]
                words_with[new].add(w)
                changed.add(new)
            words[w] = after
        for pair in changed:
            heapq.heappush(heap, (-pair_counts[pair], pair))


def join_pair(word: list[T], pair: tuple[T, T], joined: T) -> list[T]:
    """Each occurrence of `pair` in the word, left to right, becomes the token `joined`."""
    after: list[T] = []
    at = 0
    while at < len(word):
        if tuple(word[at : at + 2]) == pair:
            after.append(joined)
            at += 2
        else:
            after.append(word[at])
            at += 1
    return after
