"""The small template language of a character sheet: `{slot}`, `{slot#2}`, `{a:slot}`, `{slot.s}` and `(this|that|)`.

A template is parsed once into parts. One function renders them, and asks `choose` wherever the template
leaves something open: with `random.Random.choice` that draws one text, with an odometer it lists them all.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from barreleye.data.grammar import VERBS, inflect

NAME = r"[a-z][a-z0-9_]*"
MOST_TO_COVER = 300  # texts; `{food} {food#2}` would ask for every pair
LONGEST_ADDITION = 4  # characters that a form adds to a filler, or a verb has, at most
_TOKEN = re.compile(r"\{(?P<slot>[^(){}|]*)\}|(?P<mark>[(){}|])|(?P<literal>[^(){}|]+)")
_SLOT = re.compile(rf"(?P<a>a:)?(?P<name>{NAME})(?:#(?P<number>[2-9]))?(?:\.(?P<form>s|{'|'.join(VERBS)}))?")


class Slot(NamedTuple):
    """`{name}` is number 1 of its slot, `{name#2}` number 2: another filler of the same slot.

    form: how the filler is written. "a" with its article, "s" in the plural; a verb stands for the verb alone, as it
    agrees with the filler.
    """

    name: str
    number: int = 1
    form: str = ""

    @property
    def key(self) -> "Slot":
        """The slot whatever its form: what a filler is bound to."""
        return Slot(self.name, self.number) if self.form else self


Sequel = tuple[str | Slot, ...]
Parts = tuple[str | Slot | tuple[Sequel, ...], ...]
"""Literal text, a slot, or the options of a choice."""

Slots = Mapping[str, Sequence[str]]
"""Slot name -> its fillers, which are templates too."""

Bindings = dict[Slot, tuple[str, str]]
"""What each slot stands for so far: (filler as written in the sheet, its text)."""

Choose = Callable[[Sequence[Any]], Any]


@cache
def parse(template: str) -> Parts:
    """Raises ValueError, "what is wrong; what to do", if brackets do not pair up."""
    parts: list[str | Slot | tuple[Sequel, ...]] = []
    options: list[list[str | Slot]] | None = None  # those of the open parenthesis
    for match in _TOKEN.finditer(template):
        mark = match["mark"]
        if mark is None:
            part = match["literal"] or _slot(match["slot"])
            if options is None:
                parts.append(part)
            else:
                options[-1].append(part)
        elif mark == "(" and options is None:
            options = [[]]
        elif mark == "|" and options is not None:
            options.append([])
        elif mark == ")" and options is not None:
            if len(options) == 1:
                raise ValueError("parentheses with one choice only; write (this|that), or leave them out")
            parts.append(tuple(tuple(option) for option in options))
            options = None
        elif mark == "(":
            raise ValueError("a '(' inside parentheses; choices do not nest, write them side by side")
        elif mark == "|":
            raise ValueError("a '|' outside parentheses; write choices as (this|that)")
        else:
            raise ValueError(f"unbalanced '{mark}'; write slots as {{slot}} and choices as (this|that)")
    if options is not None:
        raise ValueError("unbalanced '('; write choices as (this|that)")
    return tuple(parts)


def _slot(inside: str) -> Slot:
    match = _SLOT.fullmatch(inside)
    if match is None or (match["a"] and match["form"]):
        raise ValueError(
            f"{{{inside}}} is not a slot; write {{slot}}, {{slot#2}} for a second filler, {{a:slot}} with its article, "
            f"{{slot.s}} for its plural, or {{slot.{'}, {slot.'.join(VERBS)}}} for a verb that agrees"
        )
    return Slot(match["name"], int(match["number"] or 1), "a" if match["a"] else match["form"] or "")


def slots_of(template: str) -> list[Slot]:
    """The slots a template names, those inside its choices included."""
    found: list[Slot] = []
    for part in parse(template):
        options = [(part,)] if isinstance(part, str | Slot) else part
        found += [piece for option in options for piece in option if isinstance(piece, Slot)]
    return found


def longest(template: str, longest_filler: Mapping[str, int]) -> int:
    """An upper bound on the characters of a rendered template, given that of each slot."""

    def size(piece: str | Slot) -> int:
        if isinstance(piece, Slot):
            return longest_filler[piece.name] + (LONGEST_ADDITION if piece.form else 0)
        return len(piece)

    return sum(
        size(part) if isinstance(part, str | Slot) else max(sum(map(size, option)) for option in part)
        for part in parse(template)
    )


def may_be_empty(template: str) -> bool:
    """Whether some way to render a template leaves no text."""

    def blank(piece: str | Slot) -> bool:
        return isinstance(piece, str) and not piece.strip()

    return all(
        blank(part) if isinstance(part, str | Slot) else any(all(map(blank, option)) for option in part)
        for part in parse(template)
    )


def render(template: str, slots: Slots, bound: Bindings, choose: Choose, plurals: Collection[str] = frozenset()) -> str:
    """One text of a template. Slots already in `bound` keep their filler; the others are drawn and added.

    plurals: the fillers that take a plural verb.
    """
    text = _render(parse(template), slots, bound, choose, plurals)
    while "  " in text:  # left behind by an empty choice
        text = text.replace("  ", " ")
    return text.strip()


def _render(parts: Parts | Sequel, slots: Slots, bound: Bindings, choose: Choose, plurals: Collection[str]) -> str:
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Slot):
            if part.key not in bound:
                _bind(part.key, slots, bound, choose, plurals)
            filler, text = bound[part.key]
            texts.append(inflect(text, part.form, filler in plurals) if part.form else text)
        else:
            texts.append(_render(choose(part), slots, bound, choose, plurals))
    return "".join(texts)


def _bind(slot: Slot, slots: Slots, bound: Bindings, choose: Choose, plurals: Collection[str]) -> None:
    taken = [filler for other, (filler, _) in bound.items() if other.name == slot.name]
    fillers = slots[slot.name]
    filler = choose([filler for filler in fillers if filler not in taken] if taken else fillers)
    text = _render(parse(filler), slots, bound, choose, plurals)
    bound[slot] = (filler, text)


def expansions(template: str, slots: Slots, plurals: Collection[str] = frozenset()) -> Iterator[str]:
    """Every text a template can become, in a fixed order; a text may come twice."""
    digits: list[int] = []  # the option taken at each choice, counted up like an odometer
    sizes: list[int] = []

    def choose(options: Sequence[Any]) -> Any:
        if len(sizes) == len(digits):
            digits.append(0)
        sizes.append(len(options))
        return options[digits[len(sizes) - 1]]

    while True:
        sizes.clear()
        yield render(template, slots, {}, choose, plurals)
        while digits and digits[-1] + 1 == sizes[-1]:
            digits.pop()
            sizes.pop()
        if not digits:
            return
        digits[-1] += 1


def covering(template: str, slots: Slots, plurals: Collection[str] = frozenset()) -> Iterator[str]:
    """Texts of a template until every option and every filler has stood in one: few, and the same ones every time."""
    rng = random.Random(template)
    decks: dict[tuple[Any, ...], list[Any]] = {}  # what is left of each list of options until it is shuffled again
    dealt: set[tuple[Any, ...]] = set()

    def choose(options: Sequence[Any]) -> Any:
        key = tuple(options)
        if not decks.get(key):
            decks[key] = rng.sample(key, len(key))
        if len(decks[key]) == 1:
            dealt.add(key)
        return decks[key].pop()

    for _ in range(MOST_TO_COVER):
        yield render(template, slots, {}, choose, plurals)
        if len(dealt) == len(decks):
            return


Bound = frozenset[tuple[Slot, str]]
"""The slots that stand for something, each with its filler if that is a template itself, else with ""."""


def ways(lists: Iterable[Iterable[str]], slots: Slots) -> int:
    """In how many ways a template of each list can be taken in turn and rendered, all with the same bindings.

    Counted by dynamic programming over the sets of bound slots. Texts are not compared: where two ways lead to the
    same text, both count.
    """
    states: Counter[Bound] = Counter({frozenset(): 1})
    for templates in lists:
        states = _sum(_ways(parse(template), states, slots) for template in templates)
    return states.total()


def _ways(parts: Parts | Sequel, states: Counter[Bound], slots: Slots) -> Counter[Bound]:
    for part in parts:
        if isinstance(part, Slot):
            states = _ways_to_bind(part.key, states, slots)
        elif not isinstance(part, str):
            states = _sum(_ways(option, states, slots) for option in part)
    return states


def _ways_to_bind(slot: Slot, states: Counter[Bound], slots: Slots) -> Counter[Bound]:
    templates = {f for f in slots[slot.name] if any(not isinstance(part, str) for part in parse(f))}
    texts = len(slots[slot.name]) - len(templates)
    after: Counter[Bound] = Counter()
    for bound, count in states.items():
        if any(other == slot for other, _ in bound):
            after[bound] += count
            continue
        taken = [filler for other, filler in bound if other.name == slot.name]
        after[bound | {(slot, "")}] += count * (texts - taken.count(""))
        for filler in templates.difference(taken):
            for inside, times in _ways(parse(filler), Counter({bound: count}), slots).items():
                after[inside | {(slot, filler)}] += times
    return +after


def _sum(counters: Iterable[Counter[Bound]]) -> Counter[Bound]:
    total: Counter[Bound] = Counter()
    for counter in counters:
        total.update(counter)
    return total
