"""The small template language of a character sheet: `{slot}`, `{slot#2}` and `(this|that|)`.

A template is parsed once into parts. One function renders them, and asks `choose` wherever the template
leaves something open: with `random.Random.choice` that draws one text, with an odometer it lists them all.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

NAME = r"[a-z][a-z0-9_]*"
_TOKEN = re.compile(r"\{(?P<slot>[^(){}|]*)\}|(?P<mark>[(){}|])|(?P<literal>[^(){}|]+)")
_SLOT = re.compile(rf"({NAME})(?:#([2-9]))?")


class Slot(NamedTuple):
    """`{name}` is number 1 of its slot, `{name#2}` number 2: another filler of the same slot."""

    name: str
    number: int = 1


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
    if match is None:
        raise ValueError(f"{{{inside}}} is not a slot; write {{slot}}, or {{slot#2}} for a second filler")
    return Slot(match[1], int(match[2] or 1))


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
        return longest_filler[piece.name] if isinstance(piece, Slot) else len(piece)

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


def render(template: str, slots: Slots, bound: Bindings, choose: Choose) -> str:
    """One text of a template. Slots already in `bound` keep their filler; the others are drawn and added."""
    text = _render(parse(template), slots, bound, choose)
    while "  " in text:  # left behind by an empty choice
        text = text.replace("  ", " ")
    return text.strip()


def _render(parts: Parts | Sequel, slots: Slots, bound: Bindings, choose: Choose) -> str:
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Slot):
            texts.append(bound[part][1] if part in bound else _bind(part, slots, bound, choose))
        else:
            texts.append(_render(choose(part), slots, bound, choose))
    return "".join(texts)


def _bind(slot: Slot, slots: Slots, bound: Bindings, choose: Choose) -> str:
    taken = [filler for other, (filler, _) in bound.items() if other.name == slot.name]
    fillers = slots[slot.name]
    filler = choose([filler for filler in fillers if filler not in taken] if taken else fillers)
    text = _render(parse(filler), slots, bound, choose)
    bound[slot] = (filler, text)
    return text


def expansions(template: str, slots: Slots) -> Iterator[str]:
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
        yield render(template, slots, {}, choose)
        while digits and digits[-1] + 1 == sizes[-1]:
            digits.pop()
            sizes.pop()
        if not digits:
            return
        digits[-1] += 1
