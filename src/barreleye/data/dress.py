"""How people type: `dress` writes a clean prompt as one might; `normalize` undoes all but typos and who is asked."""

import functools
import random
import re
import string
import unicodedata
from collections.abc import Collection, Iterable
from functools import cache

TYPO_RATE = 0.15
ADDRESS_RATE = 0.06
SMILE_RATE = 0.08
SMILES = (":)", ";)", ":-)", "^^")
EMOJI = range(0x1F300, 0x1F650)  # pictographs and emoticons
_SENTENCE_START = re.compile(r"(^|[.!?][\"')]*\s+|\n)([\"'(]*)([^\W\d_])")
_LONE_I = re.compile(r"(?<![\w'-])i(?![\w-])")
MARKS = "?!. "
_QWERTY = (
    "q:wa w:qes e:wrd r:etf t:ryg y:tuh u:yij i:uok o:ipl p:ol a:qsz s:adwx d:sfec f:dgrv g:fhtb h:gjyn "
    "j:hkum k:jli l:ko z:xa x:zcs c:xvd v:cbf b:vng n:bmh m:nj"
)
EMOJI_STYLE = 0xFE0F  # follows a character that is to be drawn as a picture
_NEARBY = dict(key.split(":") for key in _QWERTY.split())  # the keys around each letter


class _Without(dict[int, int | None]):
    """For str.translate: drops characters of some Unicode categories, filled in as they are met."""

    def __init__(self, *categories: str) -> None:
        super().__init__({EMOJI_STYLE: None})
        self.categories = categories

    def __missing__(self, code: int) -> int | None:
        self[code] = None if unicodedata.category(chr(code)).startswith(self.categories) else code
        return self[code]


_WITHOUT_MARKS = _Without("P", "Cf")  # punctuation, and what is not seen
_WORDS_ALONE = _Without("P", "Cf", "So", "Sk")  # nor emoji and their skin tones


@functools.lru_cache(maxsize=100_000)
def normalize(text: str) -> str:
    """What two texts must share to count as the same one: NFKC, case folded, no punctuation or emoji, single spaces.

    A text of nothing but those stays as it is, so that "?" and "..." are still two prompts.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    folded = text.casefold()
    words = folded.translate(_WORDS_ALONE).split() or folded.translate(_WITHOUT_MARKS).split() or folded.split()
    return " ".join(words) if text.isascii() else unicodedata.normalize("NFKC", " ".join(words))


def dress(
    text: str, rng: random.Random, told: Collection[str] = (), name: str = "", typo_rate: float = TYPO_RATE
) -> str:
    """Write a clean prompt as a person might: final marks, one typo, now and then a smile, or the name of who is asked.
    Never empty.

    told: words that come without a typo, as nobody could tell what was meant. Casing is no matter: the model reads what
    a person types in lowercase.
    """
    if name and rng.random() < ADDRESS_RATE and not _word(name).search(text):
        bare = text.rstrip(MARKS)
        text = rng.choice((f"{name}, {text}", f"{bare}, {name}{text[len(bare) :]}")) if bare else text
    if rng.random() < typo_rate:
        mistyped = typo(text, rng)
        text = mistyped if all(_word(word).search(mistyped) for word in told) else text
    marked = _mark(text, rng)
    if rng.random() < SMILE_RATE:
        marked += " " + rng.choice((rng.choice(SMILES), chr(rng.choice(EMOJI))))
    return marked


def _mark(text: str, rng: random.Random) -> str:
    bare = text.rstrip(MARKS)
    if not bare:  # "?" or "...": the marks are all there is
        return text
    roll = rng.random()
    if roll < 0.25:
        return bare
    if roll < 0.37:
        return bare + rng.choice(("??", "!!", "..."))
    if roll < 0.50 and text == bare:
        return bare + rng.choice((".", ".", "!"))
    return text


def sentence_case(text: str) -> str:
    """Capitals where sentences and lines begin, and for a lone "i"."""
    text = _SENTENCE_START.sub(lambda match: match[1] + match[2] + match[3].upper(), text)
    return _LONE_I.sub("I", text)


def capital_names(text: str, names: Iterable[str]) -> str:
    """The given words with capitals, wherever they stand alone; those that have one stay as they are ("McDonald")."""
    for name in names:
        if name.islower():
            text = _word(name).sub(string.capwords(name), text)
    return text


@cache
def _word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")


def typo(text: str, rng: random.Random) -> str:
    """Swap two letters, drop one, double one, or hit the key beside it. Very short texts stay as they are."""
    inside = [i for i in range(1, len(text)) if text[i - 1].isalpha() and text[i].isalpha()]
    if len(inside) < 3:
        return text
    i = rng.choice(inside)
    kind = rng.choice(("swap", "drop", "double", "nearby"))
    if kind == "swap":
        return text[: i - 1] + text[i] + text[i - 1] + text[i + 1 :]
    if kind == "drop":
        return text[:i] + text[i + 1 :]
    if kind == "nearby" and text[i] in _NEARBY:
        return text[:i] + rng.choice(_NEARBY[text[i]]) + text[i + 1 :]
    return text[:i] + text[i] + text[i:]
