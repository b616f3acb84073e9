"""How a text becomes tokens, move by move: the merges that were learned, applied in the order of their learning."""

from dataclasses import dataclass
from itertools import pairwise

from barreleye.data.bpe import join_pair, letters_to_bytes
from barreleye.data.tokenizer import Tokenizer, for_the_eye


@dataclass(frozen=True)
class Move:
    """One pair became one token wherever it stood; all for the eye.

    rank: the pair's place among the merges. pieces: the whole text after it.
    """

    left: str
    right: str
    rank: int
    pieces: list[str]


def merge_moves(tokenizer: Tokenizer, text: str) -> tuple[list[str], list[Move]]:
    """The pieces that a text begins as, and each move until it is tokens. By characters there is nothing to move.

    A tokenizer of another house may take whole words at once: its moves then end before its tokens. Raises ValueError
    for a text that cannot be encoded.
    """
    ids = tokenizer.encode(text)
    if tokenizer.kind == "characters":
        return [tokenizer.token_text(i) for i in ids], []
    words, ranks = [list(word) for word in tokenizer.words(text)], tokenizer.merges
    first, moves = _shown(words), []
    while pairs := {pair for word in words for pair in pairwise(word) if pair in ranks}:
        left, right = pair = min(pairs, key=ranks.__getitem__)
        words = [join_pair(word, pair, left + right) for word in words]
        one, other = _shown([[left, right]])
        moves.append(Move(one, other, ranks[pair], _shown(words)))
    return first, moves


def _shown(words: list[list[str]]) -> list[str]:
    return [for_the_eye(letters_to_bytes(piece)) for word in words for piece in word]
