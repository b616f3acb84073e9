"""What of English grammar a sheet can state and a check can see: articles, plurals, and verbs that agree.

It is no parser: `slips` finds what is surely wrong ("a egg", "a the egg", "my eyes is") and stays silent elsewhere.
"""

import importlib
import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

VERBS = {"is": "are", "was": "were", "has": "have", "does": "do"}  # after one thing: after many
DETERMINERS = frozenset(
    "a an the my your his her its our their thy thine this that these those some any no every each one two three four "
    "five six seven eight nine ten many several few half both".split()
)
# After these a noun need not be what the verb behind it speaks of: "the colour of my eyes is", "fish and chips is".
LINKS = "and|or|nor|of|in|on|at|to|for|with|from|by|under|over|behind|near|like|than|about|between"
_ARTICLE = re.compile(r"(?<![\w'-])(an?) ([^\W\d_][\w'-]*)", re.IGNORECASE)
_ONE_ARE = re.compile(
    rf"(?<![\w'-])(?P<link>(?:{LINKS}) )?(?P<phrase>(?:an?|my|your|his|her|its|thy|each|every) (?P<noun>[a-z]+)) are\b",
    re.IGNORECASE,
)
AFTER_A_LETTER = frozenset("is are was and or but in on at to of for".split())  # "vitamin a is good", "plan a or b"
NO_NOUNS = frozenset("own best last first other few many rest lot hose".split())  # "my own are", "my hose are"
_DOUBLED = re.compile(r"(?<![\w'-])(an?|the|my|your|its|our|their|thy) (an?|the|my|your|his|its|our|their|thy) ", re.I)


@cache
def _engine() -> Any:
    # The library has its types checked by code that reads its source anew for each method: nine tenths of an import
    # that takes seconds. What it is given here is text.
    try:
        typeguard: Any = importlib.import_module("typeguard")
    except ImportError:
        return importlib.import_module("inflect").engine()
    checked, typeguard.typechecked = typeguard.typechecked, lambda method: method
    try:
        import inflect as library
    finally:
        typeguard.typechecked = checked
    return library.engine()


def inflect(text: str, form: str, plural: bool) -> str:
    """A filler in one of its forms: "a" with the article, "s" in the plural, a verb of `VERBS` alone, as it agrees."""
    if form == "a":
        return f"{article(text)} {text}"
    if form == "s":
        return text if plural else plural_of(text)
    return VERBS[form] if plural else form


@cache
def article(text: str) -> str:
    """Either "a" or "an", by the sound of the first word: an egg, an hour, a unicorn, a one-eyed snail."""
    return str(_engine().a(text.split()[0])).split()[0]


@cache
def plural_of(noun: str) -> str:
    """flake of snow -> flakes of snow, mouse -> mice."""
    return str(_engine().plural_noun(noun))


@cache
def _is_one(noun: str) -> bool:
    """Whether a word is surely a noun in the singular: "mouth", and neither "eyes" nor "fish"."""
    known = _engine()
    return noun not in NO_NOUNS and not known.singular_noun(noun) and known.plural_noun(noun) != noun


def has_determiner(text: str) -> bool:
    """Whether a phrase brings its own article, possessive or number: "a crumb", "my tail", "half a worm"."""
    return text.split()[0].lower() in DETERMINERS


def slips(text: str, plurals: Collection[str] = ()) -> Iterator[str]:
    """What is surely wrong in a text, in words. `plurals`: phrases that are known to take a plural verb."""
    for match in _ARTICLE.finditer(text):
        said, word = match[1].lower(), match[2]
        acronym = word.isupper() and not text.isupper()  # "an MRI", "a UFO": by how it is spelled or spoken
        if len(word) > 1 and not acronym and word.lower() not in AFTER_A_LETTER and article(word.lower()) != said:
            yield f"{match[0]!r} needs {article(word.lower())!r}"
    for match in _ONE_ARE.finditer(text):
        noun = match["noun"].lower()
        if match["phrase"].lower() not in plurals and not match["link"] and _is_one(noun):
            yield f"{match['phrase'] + ' are'!r} needs 'is'"
    for match in _DOUBLED.finditer(text):
        yield f"{match[0].strip()!r} has one article too many"
    for phrase in plurals:
        if phrase in text:
            named = rf"(?<![\w'-])(?P<link>(?:{LINKS}) )?{re.escape(phrase)} (?P<verb>{'|'.join(VERBS)})\b"
            for match in re.finditer(named, text):
                if not match["link"]:
                    yield f"{match[0]!r} needs {VERBS[match['verb']]!r}"
