"""Text <-> token ids. A token is a string of bytes with a number; a tokenizer is the list of them.

Two kinds: `learn_characters` (each character that occurs is a token) and `learn_bpe` (each byte is one, and so
are the byte strings that occur most: any text can be encoded). Both are saved as Hugging Face's tokenizer.json.
"""

import codecs
import json
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from barreleye.data.bpe import (
    ASCII_WORD,
    BEFORE_SPACE,
    BYTE_LETTERS,
    LETTER_OF_BYTE,
    PRE_TOKENIZER,
    count_words,
    learn_merges,
    letters_to_bytes,
)
from barreleye.data.chat_template import HOUSE, IM_END, IM_START, TEMPLATE_FILE, ChatFormat, recognize
from barreleye.data.pre_tokenizer import KNOWN, house_of

FILE_NAME = "tokenizer.json"
MAX_FILE_BYTES = 64 * 2**20  # the largest in use, of 256,000 tokens, take half of it
KINDS = {("WordLevel", "Fuse"): "characters", ("BPE", "ByteLevel"): "bpe"}  # by model and decoder
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>")  # as tokenizers of other houses call it
PROBE = "a  é\n🐟\x00"  # what a byte-level tokenizer of another house must give back unchanged
GPT2_CUT = json.loads(PRE_TOKENIZER.__getstate__())
CHARACTERS = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
MOST_WORDS, LONGEST_WORD = 1_000_000, 100  # kept in memory; characters
VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


class Tokenizer:
    """A learned vocabulary. Immutable; two are equal when their tokenizer.json is.

    kind: "characters" or "bpe". vocab_size: number of tokens. special_ids: ids that no text is encoded to.
    end_ids: those of them that end a text, as other houses have them.
    chat: how a chat is spelled; None for a tokenizer of plain text.
    """

    def __init__(self, library: tokenizers.Tokenizer, chat: ChatFormat | None = HOUSE) -> None:
        self._library = library
        # What a person types is text, even where it reads <|im_end|>, and none of it is cut off or filled up.
        library.encode_special_tokens = True
        library.no_truncation()
        library.no_padding()
        self.kind = KINDS[type(library.model).__name__, type(library.decoder).__name__]
        added = library.get_added_tokens_decoder()
        self._special = {token.content: token_id for token_id, token in added.items() if token.special}
        self.special_ids = frozenset(self._special.values())
        self.end_ids = frozenset(self._special[token] for token in END_OF_TEXT if token in self._special)
        self.chat = chat if {IM_START, IM_END} <= self._special.keys() else None

        tokens = sorted(library.get_vocab().items(), key=lambda item: item[1])
        assert [token_id for _, token_id in tokens] == list(range(len(tokens)))
        spelled_in_letters = self.kind == "bpe"
        self._bytes = [
            letters_to_bytes(token) if spelled_in_letters and token_id not in added else token.encode("utf-8")
            for token, token_id in tokens
        ]
        # A tokenizer of another house may lack bytes that its training never met; the library leaves them out unsaid.
        missing = set(BYTE_LETTERS) - library.get_vocab().keys() if spelled_in_letters else set()
        self._missing = letters_to_bytes("".join(missing))
        self._words = _Words(library)
        cut = json.loads(library.to_str())["pre_tokenizer"]
        self._cuts_as_gpt2 = cut == GPT2_CUT and all(token.special for token in added.values())
        self._id_of_character = {token: token_id for token, token_id in tokens if token_id not in added}

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self._library.to_str() == other._library.to_str()

    def __hash__(self) -> int:
        return hash(self._library.to_str())

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, {self.vocab_size} tokens)"

    def encode(self, text: str) -> list[int]:
        """The ids of a text; raises ValueError for a character that cannot be encoded."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        if self.kind == "characters":
            return [self._look_up(text) for text in texts]
        for text in texts:
            _refuse_lone_surrogates(text)
            if self._missing:
                self._refuse_unseen(text)
        if len(self._words) > MOST_WORDS:
            self._words.clear()
        if not self._cuts_as_gpt2:
            return [row.ids for row in self._library.encode_batch_fast(texts, add_special_tokens=False)]
        return [self._merge(text) for text in texts]

    def _merge(self, text: str) -> list[int]:
        words = ASCII_WORD.findall(text) if text.isascii() else BEFORE_SPACE.split(text)
        return [*chain.from_iterable(map(self._words.__getitem__, words))]

    def _look_up(self, text: str) -> list[int]:
        try:
            return [self._id_of_character[character] for character in text]
        except KeyError as error:
            raise _unseen(text, error.args[0]) from None

    def _refuse_unseen(self, text: str) -> None:
        for character in dict.fromkeys(text):
            if not set(self._missing).isdisjoint(character.encode()):
                raise _unseen(text, character)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens spelled out; bytes that make no whole character become U+FFFD."""
        return b"".join([self.token_bytes(token_id) for token_id in ids]).decode("utf-8", "replace")

    def stream(self) -> "TextStream":
        """A decoder to be fed id by id."""
        return TextStream(self)

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for, in UTF-8: perhaps only a part of a character."""
        if not 0 <= token_id < self.vocab_size:
            raise ValueError(f"there is no token {token_id}; this tokenizer has 0 to {self.vocab_size - 1}")
        return self._bytes[token_id]

    def token_text(self, token_id: int) -> str:
        """A token for the eye: "␣" for a space, "↵" for a newline, "\\xf0" for a byte of a cut character."""
        return for_the_eye(self.token_bytes(token_id))

    def words(self, text: str) -> list[str]:
        """What a text is cut into before anything is merged, spelled in byte letters; characters are cut one by one."""
        normalizer, cut = self._library.normalizer, self._library.pre_tokenizer
        return [word for word, _ in cut.pre_tokenize_str(normalizer.normalize_str(text) if normalizer else text)]

    @cached_property
    def merges(self) -> dict[tuple[str, str], int]:
        """Pair, in byte letters -> its place in the order in which they were learned; none for characters."""
        merges = json.loads(self.to_json())["model"].get("merges", [])
        return {tuple(pair.split(" ") if isinstance(pair, str) else pair): rank for rank, pair in enumerate(merges)}

    def id_of(self, special_token: str) -> int:
        """The id of a special token; raises ValueError where the tokenizer does not have it."""
        if special_token not in self._special:
            has = ", ".join(self._special) or "none"
            raise ValueError(
                f"this tokenizer has no special token {special_token} (it has {has}); learn one from chats"
            )
        return self._special[special_token]

    def save(self, path: str | Path) -> None:
        """Write a Hugging Face tokenizer.json: to `path` if it ends in .json, else into the folder `path`."""
        file = _file_at(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.to_json(), encoding="utf-8", newline="\n")

    def to_json(self) -> str:
        """The content of its tokenizer.json."""
        return str(self._library.to_str(pretty=True))

    @staticmethod
    def load(path: str | Path) -> "Tokenizer":
        """Read our tokenizer.json, or a byte-level BPE of another house; with the chat template beside it, if it is one
        that is known. Raises ValueError with what is wrong."""
        file = _file_at(path)
        template = file.with_name(TEMPLATE_FILE)
        return read_tokenizer(file, recognize(_read(template)) if template.is_file() else None)


def for_the_eye(data: bytes) -> str:
    """Bytes of a token as `Tokenizer.token_text` shows them."""
    text = data.decode("utf-8", "backslashreplace").translate(VISIBLE)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Words(dict[str, list[int]]):
    """The ids of words (or of several that follow each other) met so far. Merges stay within a word, so each is merged
    but once, and looked up ever after."""

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library, self._model = library, library.model

    def __missing__(self, word: str) -> list[int]:
        if not word.isascii():
            ids = self._library.encode(word, add_special_tokens=False).ids
        elif len(parts := ASCII_WORD.findall(word)) > 1:
            ids = [*chain.from_iterable(map(self.__getitem__, parts))]
        else:  # one word, and ASCII, which no normalizer changes: only merging is left
            ids = [token.id for token in self._model.tokenize(word.translate(LETTER_OF_BYTE))]
        if len(word) <= LONGEST_WORD:
            self[word] = ids
        return ids


class TextStream:
    """Turns ids into text as they come, and holds the bytes of a character back until it is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """The text that this token completes: perhaps none yet."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """What is left when no more tokens come: "" or U+FFFD for a broken character."""
        return self._decoder.decode(b"", final=True)


def learn_characters(text: str, special_tokens: Sequence[str] = ()) -> Tokenizer:
    """One token for each character of the text, in the order of Unicode, and then the special tokens."""
    if not text:
        raise ValueError("there is no text to learn characters from")
    _refuse_lone_surrogates(text)
    _refuse_typable(special_tokens)
    vocab = {token: token_id for token_id, token in enumerate([*sorted(set(text)), *special_tokens])}
    # The library asks for the name of an "unknown" token; none has that name, so it too refuses the unseen.
    library = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unseen>"))
    library.pre_tokenizer = CHARACTERS
    library.decoder = decoders.Fuse()
    return _with_special_tokens(library, special_tokens)


def learn_bpe(texts: Iterable[str], vocab_size: int = 4096, special_tokens: Sequence[str] = ()) -> Tokenizer:
    """At most `vocab_size` tokens: the special ones, the 256 bytes, and one for each merge, in that order."""
    texts = list(texts)
    for text in texts:
        _refuse_lone_surrogates(text)
    _refuse_typable(special_tokens)
    tokens = [*special_tokens, *sorted(BYTE_LETTERS)]
    if vocab_size < len(tokens):
        raise ValueError(f"vocab_size {vocab_size} is too small; bytes and special tokens take {len(tokens)}")

    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    merges: list[tuple[str, str]] = []
    learning = learn_merges(count_words(texts))
    while len(vocab) < vocab_size and (merge := next(learning, None)):
        vocab.setdefault(merge.token, len(vocab))
        merges.append((merge.left, merge.right))

    library = tokenizers.Tokenizer(models.BPE(vocab, merges))
    library.pre_tokenizer = PRE_TOKENIZER
    library.decoder = decoders.ByteLevel()
    return _with_special_tokens(library, special_tokens)


def _with_special_tokens(library: tokenizers.Tokenizer, special_tokens: Sequence[str]) -> Tokenizer:
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return Tokenizer(library)


def _refuse_typable(special_tokens: Sequence[str]) -> None:
    """A special token of one word could be learned as an ordinary one; what is typed would become special."""
    for token in special_tokens:
        if len(PRE_TOKENIZER.pre_tokenize_str(token)) < 2:
            raise ValueError(f"special token {token!r} could be typed; put marks around it, as in <|{token}|>")


def _refuse_lone_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{_name(text[error.start])}, at character {error.start + 1}, is half a character "
            "(a lone surrogate) and cannot be encoded: leave it out"
        ) from None


def _unseen(text: str, character: str) -> ValueError:
    return ValueError(
        f"this tokenizer has not seen {_name(character)}, at character {text.index(character) + 1}: "
        "leave it out, or learn from text that has it (a bpe tokenizer of ours takes any text)"
    )


def _name(character: str) -> str:
    return f"{character!r} ({unicodedata.name(character, f'U+{ord(character):04X}')})"


def _file_at(path: str | Path) -> Path:
    return Path(path) if Path(path).suffix == ".json" else Path(path) / FILE_NAME


def read_tokenizer(path: str | Path, chat: ChatFormat | None) -> Tokenizer:
    """As `Tokenizer.load`, with the chat format of a template that was found elsewhere."""
    file = _file_at(path)
    try:
        return parse(_read(file), chat)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(f"{file}: ") else f"{file}: {error}") from None


def _read(file: Path) -> str:
    try:
        if not file.exists():
            raise ValueError(f"{file}: there is no such file; a model folder holds its tokenizer")
        if not file.is_file():
            raise ValueError(f"{file}: cannot be read (it is no file)")
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{file}: too large for a tokenizer (over {MAX_FILE_BYTES // 2**20} MiB)")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: {error}") from None


def parse(text: str, chat: ChatFormat | None = HOUSE) -> Tokenizer:
    """A tokenizer from the content of its tokenizer.json. Only a vocabulary of characters or of bytes is read; of those
    of other houses, only ones whose parts are known. Raises ValueError with what is wrong."""
    try:
        _check_parts(json.loads(text))  # before the library compiles what it is given
        library = tokenizers.Tokenizer.from_str(text)
    except RecursionError:
        raise ValueError("not a tokenizer.json (it is nested too deeply)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not a tokenizer.json ({error})") from None
    except ValueError:
        raise
    except Exception as error:  # the library has no narrower class for a bad file
        raise ValueError(f"not a tokenizer.json ({' '.join(str(error).split())})") from None
    kind = KINDS[type(library.model).__name__, type(library.decoder).__name__]
    vocab = library.get_vocab()
    if set(vocab.values()) != set(range(len(vocab))):
        raise ValueError("token ids must count from 0 up, without gaps")
    ordinary = vocab.keys() - {token.content for token in library.get_added_tokens_decoder().values()}
    if kind == "characters" and any(len(token) != 1 for token in ordinary):
        raise ValueError("a token of this tokenizer is not one character")
    if kind == "bpe" and not set("".join(ordinary)) <= set(BYTE_LETTERS):
        raise ValueError("the tokens are not spelled in GPT-2's 256 byte letters")
    tokenizer = Tokenizer(library, chat)
    if typable := _typable(tokenizer):
        raise ValueError(f"special token {typable!r} could be typed: a text that reads so would become it")
    probe = "".join(c for c in PROBE if set(tokenizer._missing).isdisjoint(c.encode()))
    if kind == "bpe" and tokenizer.decode(tokenizer.encode(probe)) != probe:
        raise ValueError("a text that it encodes is not the text that it decodes")
    return tokenizer


def _typable(tokenizer: Tokenizer) -> str | None:
    """A special token that merges, or a whole word, come to; None where no text becomes one."""
    if tokenizer.kind == "characters":
        return None
    model = json.loads(tokenizer.to_json())["model"]
    merged = {"".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]}
    for token in tokenizer._special:
        if token in model["vocab"] and (token in BYTE_LETTERS or token in merged):
            return token
        if model.get("ignore_merges") and token in model["vocab"] and set(token) <= set(BYTE_LETTERS):
            word = letters_to_bytes(token).decode("utf-8", "ignore")
            if tokenizer._special[token] in tokenizer._library.encode(word, add_special_tokens=False).ids:
                return token
    return None


def _check_parts(parts: Any) -> None:
    """Raises ValueError, with the part's name, for a tokenizer made of parts that are not known."""
    if not isinstance(parts, dict) or not isinstance(model := parts.get("model"), dict):
        raise ValueError("not a tokenizer.json (it has no model)")
    names = _type_of(model), _type_of(parts.get("decoder"))
    kind = KINDS.get(names)
    if kind is None:
        raise ValueError(
            f"neither a tokenizer by characters nor byte-level BPE, but {names[0]} decoded by {names[1]} "
            "(SentencePiece and WordPiece are not read)"
        )
    if (normalizer := parts.get("normalizer")) not in (None, {"type": "NFC"}):
        raise ValueError(f"its normalizer is not known ({_type_of(normalizer)}); one that is: NFC")
    if kind == "characters" and parts.get("pre_tokenizer") not in (None, json.loads(CHARACTERS.__getstate__())):
        raise ValueError(f"it cuts characters in a way that is not known ({_type_of(parts['pre_tokenizer'])})")
    if kind == "bpe":
        if house_of(parts.get("pre_tokenizer")) is None:
            raise ValueError(
                f"it cuts words in a way that is not known ({_type_of(parts.get('pre_tokenizer'))}); "
                f"known are those of {', '.join(KNOWN)}"
            )
        for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
            if model.get(option):
                raise ValueError(f"its BPE has a {option}, which is not supported")


def _type_of(part: Any) -> str:
    return " ".join(str(part.get("type") if isinstance(part, dict) else part).split())
