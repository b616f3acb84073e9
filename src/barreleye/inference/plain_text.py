"""Text <-> token ids with nothing but Python: what `data/tokenizer.py` does, read from the same tokenizer.json.

Two kinds: each character is a token, or byte-level BPE, whose words are cut as GPT-2 cuts them.
"""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from unicodedata import category, normalize

NFC = {"type": "NFC"}
LARGEST_FILE = 64 * 2**20  # bytes
MOST_WORDS = 100_000  # kept in memory
WORD = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\t-\r A-Za-z0-9]+|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+")
SPACES = "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte: its own where that prints, else the next from U+0100 on (space: Ġ)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(0x100)]


LETTERS = byte_letters()
BYTE_OF = {letter: byte for byte, letter in enumerate(LETTERS)}


class PlainTokenizer:
    """Reads a tokenizer.json. Raises ValueError, in one line, for one that it cannot read."""

    def __init__(self, file: Path) -> None:
        try:
            if file.stat().st_size > LARGEST_FILE:
                raise ValueError("too large for a tokenizer")
            self._read(json.loads(file.read_text(encoding="utf-8")))
        except OSError as error:
            raise ValueError(f"{file}: cannot be read ({error.strerror})") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: {error}") from None
        except (KeyError, TypeError, AttributeError, IndexError):
            raise ValueError(f"{file}: is not a tokenizer.json") from None

    def _read(self, table: Any) -> None:
        model, kind = table["model"], (table["model"]["type"], table["decoder"]["type"])
        if kind not in (("WordLevel", "Fuse"), ("BPE", "ByteLevel")) or table["normalizer"] not in (None, NFC):
            raise ValueError("neither a tokenizer by characters nor byte-level BPE with no normalizer but NFC")
        self.is_bpe, self.composes = kind[0] == "BPE", table["normalizer"] == NFC
        if self.is_bpe:
            pre = table["pre_tokenizer"]
            if pre["type"] != "ByteLevel" or not pre.get("use_regex", True) or pre["add_prefix_space"]:
                raise ValueError("its words are not cut as GPT-2 cuts them")
        if not all(token["special"] for token in table["added_tokens"]):
            raise ValueError("it has added tokens that are found in text, which is not read here")
        self.special = {token["content"]: token["id"] for token in table["added_tokens"]}
        vocab: dict[str, int] = model["vocab"] | self.special
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise ValueError("token ids must count from 0 up, without gaps")
        self.id_of = {token: token_id for token, token_id in vocab.items() if token not in self.special}
        if self.is_bpe and not set("".join(self.id_of)) <= BYTE_OF.keys():
            raise ValueError("the tokens are not spelled in GPT-2's 256 byte letters")
        self.bytes_of = [b""] * len(vocab)
        for token, token_id in vocab.items():
            spelled = self.is_bpe and token in self.id_of
            self.bytes_of[token_id] = bytes(BYTE_OF[c] for c in token) if spelled else token.encode()
        pairs = (
            [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]] if self.is_bpe else []
        )
        if not all(len(pair) == 2 and "".join(pair) in self.id_of for pair in pairs):
            raise ValueError("a merge makes no token")
        self.whole_words_first = self.is_bpe and bool(model.get("ignore_merges"))
        self.rank = {pair: rank for rank, pair in reversed([*enumerate(pairs)])}
        self.words: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, in which no special token is ever found. Raises ValueError for an unseen character."""
        text = normalize("NFC", text) if self.composes else text
        # A byte-level tokenizer of another house may lack bytes that its training never met.
        unseen = [
            c for c in dict.fromkeys(text) if not self.id_of.keys() >= set(self._letters(c) if self.is_bpe else c)
        ]
        if unseen:
            raise ValueError(f"this tokenizer has not seen {min(unseen)!r}: leave it out")
        if self.is_bpe:
            return [token_id for word in cut(text) for token_id in self._encode_word(word)]
        return [self.id_of[character] for character in text]

    def _letters(self, text: str) -> list[str]:
        return [LETTERS[byte] for byte in text.encode()]

    def _encode_word(self, word: str) -> list[int]:
        if word not in self.words:
            if len(self.words) > MOST_WORDS:
                self.words.clear()
            letters = self._letters(word)
            whole = self.whole_words_first and "".join(letters) in self.id_of
            self.words[word] = [self.id_of[token] for token in (["".join(letters)] if whole else self._merge(letters))]
        return self.words[word]

    def _merge(self, tokens: list[str]) -> list[str]:
        """The pair that was learned first becomes one token wherever it stands, until none is left."""
        while len(tokens) > 1:
            pairs = list(pairwise(tokens))
            first = min(pairs, key=lambda pair: self.rank.get(pair, len(self.rank)))
            if first not in self.rank:
                break
            merged, at = [], 0
            while at < len(tokens):
                joins = at < len(pairs) and pairs[at] == first
                merged.append("".join(first) if joins else tokens[at])
                at += 2 if joins else 1
            tokens = merged
        return tokens


def cut(text: str) -> list[str]:
    """GPT-2's words: a run of letters, of digits or of other signs, with the space before it.

    They are found in a likeness of the text, in which an ASCII sign of its kind stands for each other character."""
    likeness = text if text.isascii() else "".join(c if c.isascii() else _kind(c) for c in text)
    return [text[word.start() : word.end()] for word in WORD.finditer(likeness)]


def _kind(character: str) -> str:
    if character in SPACES:
        return "\t"
    return {"L": "a", "N": "0"}.get(category(character)[0], "!")
