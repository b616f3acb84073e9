"""The character sheet as values: a persona, its topics, and what makes a sheet wrong.

Pydantic checks the structure and `Persona` the meaning. Both name a place by its keys, such as
("topics", "greeting", "ask", 3), which `sheet_file.py` turns into a line of the file.
"""

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from barreleye.data.grammar import has_determiner
from barreleye.data.template import NAME, Slot, Slots, longest, may_be_empty, slots_of

SAID = "said"  # the slot that stands for what the person said just before
SAID_EXAMPLE = "what you said"  # its filler where nothing was said: in counts and checks
MAX_CHARACTERS = 4_000  # of one rendered line; far beyond any context that a small model reads
MAX_NESTING = 8  # of slots in slots

Place = tuple[str | int, ...]
Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Name = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
Lines = Annotated[tuple[Line, ...], Field(min_length=1)]


class _Sheet(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FollowUp(_Sheet):
    """A prompt that makes sense only after another, and its answers. `later`: any number of turns after, too."""

    ask: Lines
    reply: Lines
    later: bool = False


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
    sentence_case: bool = False
    """Its replies begin their sentences with capitals, which the sheet need not write."""
    slots: dict[Name, Lines] = {}
    plurals: tuple[Line, ...] = ()
    """The fillers that take a plural verb."""
    proper: tuple[Line, ...] = ()
    """The slots whose fillers are names: with `sentence_case`, replies write them with capitals."""
    topics: Annotated[dict[Name, Topic], Field(min_length=1)]
    follow_ups: tuple[FollowUp, ...] = ()
    confused: Topic
    unseen: tuple[Line, ...] = ()
    """Topics that training never sees, kept to ask about afterwards."""

    @property
    def all_topics(self) -> dict[str, Topic]:
        """The topics by name, with `confused` as the last."""
        return {**self.topics, "confused": self.confused}

    @property
    def fillers(self) -> Slots:
        """The slots, and the built-in one."""
        return {**self.slots, SAID: (SAID_EXAMPLE,)}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "confused" in self.topics:
            _wrong(("topics", "confused"), "'confused' is a key beside topics, not inside; move it there")
        if SAID in self.slots:
            _wrong(("slots", SAID), f"{{{SAID}}} is built in: what the person said just before; choose another name")
        _check_names(self)
        _check_templates(self)
        _check_duplicates(self)
        _check_follow_ups(self)
        return self


def _wrong(place: Place, problem: str, first: Place | None = None) -> NoReturn:
    raise PydanticCustomError("sheet", "{problem}", {"problem": problem, "place": place, "first": first})


def is_follow_up(place: Place) -> bool:
    """Whether a list of lines stands under a `follow_ups`; a topic may be called that, too."""
    return place[0] == "follow_ups" or "follow_ups" in place[2 if place[0] == "topics" else 1 :]


def asks_of(topic: str) -> Place:
    """Where the asks of a topic stand."""
    return ("confused", "ask") if topic == "confused" else ("topics", topic, "ask")


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


def _check_names(persona: Persona) -> None:
    """That what `plurals`, `proper` and `unseen` name is there."""
    fillers = [filler for fillers in persona.slots.values() for filler in fillers]
    for key, names, known, what in (
        ("plurals", persona.plurals, fillers, "filler"),
        ("proper", persona.proper, list(persona.slots), "slot"),
        ("unseen", persona.unseen, list(persona.topics), "topic"),
    ):
        for i, name in enumerate(names):
            if name not in known:
                hint = did_you_mean(name, known) or "remove it, or add one"
                _wrong((key, i), f"{name!r} is no {what} of this sheet; {hint}")
    if set(persona.unseen) == set(persona.topics):
        _wrong(("unseen",), "every topic is held out, none is left to learn from; name a few")


def _check_templates(persona: Persona) -> None:
    fillers = persona.fillers
    for place, lines in templates(persona):
        for i, line in enumerate(lines):
            try:
                slots = slots_of(line)
            except ValueError as error:
                _wrong((*place, i), str(error))
            for slot in slots:
                if slot.name not in fillers:
                    hint = did_you_mean(slot.name, fillers) or "add it under slots"
                    _wrong((*place, i), f"unknown slot {{{slot.name}}}; {hint}")
                if slot.name == SAID and not (is_follow_up(place) and place[-1] == "reply"):
                    _wrong((*place, i), f"{{{SAID}}} stands in replies of follow_ups alone; move this line to one")
                if slot.number > (have := len(fillers[slot.name])):
                    named = f"{{{slot.name}#{slot.number}}}"
                    problem = f"{named} needs {slot.number} fillers, slot {slot.name!r} has {have}; add fillers"
                    _wrong((*place, i), problem)
                _check_form(persona, slot, (*place, i))
            if may_be_empty(line):
                _wrong((*place, i), "this line can come out empty; give it some text that is always there")
    sizes = _slot_sizes(fillers)
    for place, lines in templates(persona):
        for i, line in enumerate(lines):
            if longest(line, sizes) > MAX_CHARACTERS:
                _wrong((*place, i), f"this line can pass {MAX_CHARACTERS} characters; shorten it or its fillers")


def _check_form(persona: Persona, slot: Slot, place: Place) -> None:
    """That every filler of a slot can take the form that is asked of it."""
    if slot.form not in ("a", "s"):
        return
    for filler in persona.fillers[slot.name]:
        if slot.form == "a" and filler in persona.plurals:
            _wrong(place, f"{{a:{slot.name}}}: {filler!r} is plural and takes no article; take it out of the slot")
        if has_determiner(filler):
            form = f"{{a:{slot.name}}}" if slot.form == "a" else f"{{{slot.name}.s}}"
            _wrong(place, f"{form}: {filler!r} brings its own article; write the bare noun under slots")


def _check_follow_ups(persona: Persona) -> None:
    for i, follow_up in enumerate(persona.follow_ups):
        if follow_up.later:
            problem = "'later' belongs to a topic that tells something; move it there, or remove it"
            _wrong(("follow_ups", i, "later"), problem)
    for i, follow_up in enumerate(persona.confused.follow_ups):
        if follow_up.later:
            problem = "'later' belongs to a topic that tells something, and this is none; remove it"
            _wrong(("confused", "follow_ups", i, "later"), problem)
    for name, topic in persona.topics.items():
        told = {slot.key for ask in topic.ask for slot in slots_of(ask)}
        for i, follow_up in enumerate(topic.follow_ups):
            repeated = {slot.key for reply in follow_up.reply for slot in slots_of(reply)}
            if follow_up.later and not told & repeated:
                place = ("topics", name, "follow_ups", i, "reply")
                _wrong(place, f"'later' remembers nothing; repeat a slot in the replies that an ask of {name!r} tells")


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
            if place[-1] == "ask" and not is_follow_up(place):
                if line in asked:
                    problem = f"{line!r} is asked in two topics, {asked[line][-3]!r} too; keep one"
                    _wrong(here, problem, first=asked[line])
                asked[line] = here


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""
