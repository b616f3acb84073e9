"""The character sheet as values: a persona, its topics, and what makes a sheet wrong.

Pydantic checks the structure and `Persona` the meaning. Both name a place by its keys, such as
("topics", "greeting", "ask", 3), which `sheet_file.py` turns into a line of the file.
"""

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from barreleye.data.template import NAME, Slots, longest, may_be_empty, slots_of

MAX_CHARACTERS = 4_000  # of one rendered line; far beyond any context that a small model reads
MAX_NESTING = 8  # of slots in slots

Place = tuple[str | int, ...]
Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Name = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
Lines = Annotated[tuple[Line, ...], Field(min_length=1)]


class _Sheet(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FollowUp(_Sheet):
    """A prompt that makes sense only after another, and its answers."""

    ask: Lines
    reply: Lines


class Topic(_Sheet):
    """Ways to ask, ways to answer (any reply fits any ask), and what may be asked right after."""

    ask: Lines
    reply: Lines
    follow_ups: tuple[FollowUp, ...] = ()


class Persona(_Sheet):
    """A character: fillers for the slots of its templates, topics, follow-ups that fit after any of them, and
    `confused`, the topic of all that is outside its world."""

    name: Line
    description: Line
    style: Line
    slots: dict[Name, Lines] = {}
    topics: Annotated[dict[Name, Topic], Field(min_length=1)]
    follow_ups: tuple[FollowUp, ...] = ()
    confused: Topic

    @property
    def all_topics(self) -> dict[str, Topic]:
        """The topics by name, with `confused` as the last."""
        return {**self.topics, "confused": self.confused}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "confused" in self.topics:
            _wrong(("topics", "confused"), "'confused' is a key beside topics, not inside; move it there")
        _check_templates(self)
        _check_duplicates(self)
        return self


def _wrong(place: Place, problem: str, first: Place | None = None) -> NoReturn:
    raise PydanticCustomError("sheet", "{problem}", {"problem": problem, "place": place, "first": first})


def templates(persona: Persona) -> Iterator[tuple[Place, tuple[str, ...]]]:
    """Every list of lines of a sheet and its place, slots first."""
    for name, fillers in persona.slots.items():
        yield ("slots", name), fillers
    places: list[tuple[Place, Topic | FollowUp]] = [(("topics", name), t) for name, t in persona.topics.items()]
    places.append((("confused",), persona.confused))
    for place, topic in list(places):
        assert isinstance(topic, Topic)
        places += [((*place, "follow_ups", i), follow_up) for i, follow_up in enumerate(topic.follow_ups)]
    places += [(("follow_ups", i), follow_up) for i, follow_up in enumerate(persona.follow_ups)]
    for place, topic in places:
        yield (*place, "ask"), topic.ask
        yield (*place, "reply"), topic.reply


def _check_templates(persona: Persona) -> None:
    for place, lines in templates(persona):
        for i, line in enumerate(lines):
            try:
                slots = slots_of(line)
            except ValueError as error:
                _wrong((*place, i), str(error))
            for name, number in slots:
                if name not in persona.slots:
                    hint = did_you_mean(name, persona.slots) or "add it under slots"
                    _wrong((*place, i), f"unknown slot {{{name}}}; {hint}")
                if number > len(persona.slots[name]):
                    have = len(persona.slots[name])
                    problem = f"{{{name}#{number}}} needs {number} fillers, slot {name!r} has {have}; add fillers"
                    _wrong((*place, i), problem)
            if may_be_empty(line):
                _wrong((*place, i), "this line can come out empty; give it some text that is always there")
    sizes = _slot_sizes(persona.slots)
    for place, lines in templates(persona):
        for i, line in enumerate(lines):
            if longest(line, sizes) > MAX_CHARACTERS:
                _wrong((*place, i), f"this line can pass {MAX_CHARACTERS} characters; shorten it or its fillers")


def _slot_sizes(slots: Slots) -> dict[str, int]:
    """The longest text of each slot, capped; refuses slots that lead back to themselves."""
    sizes: dict[str, int] = {}
    depths: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            chain = " -> ".join((*path[path.index(name) :], name))
            _wrong(("slots", name), f"slot cycle {chain}; take one of these slots out of the other's fillers")
        if name not in depths:
            inner = [slot.name for filler in slots[name] for slot in slots_of(filler)]
            too_deep = len(path) == MAX_NESTING
            depths[name] = 1 if too_deep else 1 + max((visit(i, (*path, name)) for i in inner), default=0)
            if too_deep or depths[name] > MAX_NESTING:
                _wrong(("slots", name), f"slots nest deeper than {MAX_NESTING}; write some of the fillers out")
            sizes[name] = min(MAX_CHARACTERS + 1, max(longest(filler, sizes) for filler in slots[name]))
        return depths[name]

    for name in slots:
        visit(name, ())
    return sizes


def _check_duplicates(persona: Persona) -> None:
    asked: dict[str, Place] = {}
    for place, lines in templates(persona):
        seen: dict[str, Place] = {}
        for i, line in enumerate(lines):
            here = (*place, i)
            if place[-1] == "ask":  # casing and final marks are dressing: "Hello" and "hello?" are one prompt
                line = line.casefold().rstrip("?!. ") or line
            if line in seen:
                _wrong(here, "the same line twice; remove one", first=seen[line])
            seen[line] = here
            if place[-1] == "ask" and "follow_ups" not in place:
                if line in asked:
                    problem = f"{line!r} is asked in two topics, {asked[line][-3]!r} too; keep one"
                    _wrong(here, problem, first=asked[line])
                asked[line] = here


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""
