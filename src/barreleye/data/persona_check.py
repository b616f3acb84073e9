"""What is worth another look in a character sheet that can be read: findings by line, and how much it can say."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from barreleye.data.chat_format import Conversation
from barreleye.data.grammar import LINKS, VERBS, slips
from barreleye.data.near import near_duplicates
from barreleye.data.persona import converse
from barreleye.data.routes import Stray, routes
from barreleye.data.sheet import Persona, Place, asks_of, is_follow_up, templates
from barreleye.data.sheet_file import read_sheet
from barreleye.data.split import clean_texts, follow_up_asks, remembered, split_prompts
from barreleye.data.template import NAME, covering, slots_of, ways

FEW_ASKS = 8
SAMPLES = 4
STRAYS = 8
SEED = 1  # that of a training, unless another is asked for
MARKUP = re.compile(r"[{}()|]")
LITERAL_VERB = re.compile(
    rf"(?P<link>\b(?:{LINKS}) (?:the |my |your )?)?"
    rf"\{{(?P<slot>(?P<one>a:)?(?P<name>{NAME})(?:#\d)?(?P<many>\.s)?)\}} (?P<verb>are|{'|'.join(VERBS)})\b"
)


class Finding(NamedTuple):
    """Where, "what is wrong; what to do", and the place of what it is about besides."""

    place: Place
    problem: str
    other: Place | None = None


Findings = Iterator[Finding]


@dataclass(frozen=True)
class PersonaCheck:
    """What a sheet can say, and what is worth another look."""

    name: str
    topics: int
    asks: int
    prompts: int
    """Distinct after `normalize`, of one ask at most `split.EXPANSION_CAP`."""
    replies: int
    """Lines under `reply`, those of follow-ups too."""
    reply_texts: int
    """What these can become."""
    conversations: int
    """Of one exchange."""
    findings: tuple[str, ...]
    """Each "file:line: what is wrong; what to do", in the order of the file."""
    samples: tuple[Conversation, ...]
    routed: float | None = None
    """The share of asks that are found by the others of their topic; None where it was not asked for, or cannot be
    known without scikit-learn."""
    strays: tuple[str, ...] = ()
    """Some of the asks that are not, of the topics with the fewest found: "file:line: ask (taken for topic)"."""


def check(name_or_path: str | Path, key_words: bool = False) -> PersonaCheck:
    """Look a character sheet over; key_words: how well asks are found by theirs, too, which takes some seconds.

    Raises ValueError as `load_persona` does where it cannot be read.
    """
    persona, file, _, line_of = read_sheet(name_or_path)
    finders = (unused_slots, few_asks, forgotten, grammar_slips, same_prompts, look_alikes)
    found = [
        (line_of(place), f"{problem} (see line {line_of(other)})" if other else problem)
        for finder in finders
        for place, problem, other in finder(persona)
    ]
    routed, strays = poorest(persona) if key_words else (None, [])
    topics = persona.all_topics
    asks = [ask for topic in topics.values() for ask in topic.ask]
    replies = [line for place, lines in templates(persona) if place[-1] == "reply" for line in lines]
    return PersonaCheck(
        name=persona.name,
        topics=len(topics),
        asks=len(asks),
        prompts=len(clean_texts(persona, asks)),
        replies=len(replies),
        reply_texts=ways([replies], persona.fillers),
        conversations=sum(ways([topic.ask, topic.reply], persona.fillers) for topic in topics.values()),
        findings=tuple(f"{file}:{line}: {problem}" for line, problem in sorted(found)),
        samples=tuple(converse(persona, n=SAMPLES, seed=SEED)),
        routed=routed,
        strays=tuple(
            f"{file}:{line_of((*asks_of(s.topic), s.number))}: {s.ask!r} is taken for {s.taken_for!r}" for s in strays
        ),
    )


def poorest(persona: Persona) -> tuple[float | None, list[Stray]]:
    """The share of asks that are found by their words, and some that are not: first those of the poorest topics."""
    try:
        found = routes(persona)
    except ImportError:
        return None, []
    order = {name: i for i, name in enumerate(found.found)}
    return found.share, sorted(found.strays, key=lambda stray: order[stray.topic])[:STRAYS]


def unused_slots(persona: Persona) -> Findings:
    used: set[str] = set()
    talk = [line for place, lines in templates(persona) if place[0] != "slots" for line in lines]
    new = {slot.name for line in talk for slot in slots_of(line)}
    while new:  # and those that their fillers name
        used |= new
        new = {slot.name for name in new for filler in persona.fillers[name] for slot in slots_of(filler)} - used
    for name in persona.slots:
        if name not in used:
            yield Finding(("slots", name), f"no line uses {{{name}}}; write one that does, or remove the slot")


def few_asks(persona: Persona) -> Findings:
    """Topics too poor in prompts to be learned, or to be asked about afterwards."""
    _, held_out = split_prompts(persona, SEED)
    shared = set(follow_up_asks(persona))
    for name, topic in persona.all_topics.items():
        if shared.issuperset(topic.ask):  # "what is my name?" before it was told: shared on purpose
            continue
        if len(topic.ask) < FEW_ASKS:
            problem = f"{name!r} has few asks ({len(topic.ask)}); write {FEW_ASKS} or more that share their key words"
            yield Finding(asks_of(name), problem)
        elif name not in held_out and name not in persona.unseen:
            problem = f"no ask of {name!r} can be held out: each can become a prompt of another or of a follow-up"
            yield Finding(asks_of(name), f"{problem}; add asks that cannot")


def forgotten(persona: Persona) -> Findings:
    """What a later follow-up should remember, and a line does not say."""
    for name, told in remembered(persona).items():
        topic = persona.topics[name]
        lists: list[tuple[Place, tuple[str, ...], str]] = [(asks_of(name), topic.ask, "this ask does not tell")]
        for i, follow_up in enumerate(topic.follow_ups):
            if follow_up.later:
                lists.append((("topics", name, "follow_ups", i, "reply"), follow_up.reply, "this reply does not say"))
        missing = " or ".join(
            "{" + slot.name + (f"#{slot.number}" if slot.number > 1 else "") + "}" for slot in sorted(told)
        )
        for place, lines, what in lists:
            for i, line in enumerate(lines):
                if told.isdisjoint(slot.key for slot in slots_of(line)):
                    yield Finding((*place, i), f"{what} {missing}, which is to be remembered; put it in")


def grammar_slips(persona: Persona) -> Findings:
    """One for each line at most; what is wrong inside a filler is not said again of each line that uses it."""
    plurals = frozenset(persona.plurals)
    in_fillers: set[str] = set()
    for place, lines in templates(persona):
        if place == ("confused", "ask"):  # other languages, and nonsense
            continue
        for i, line in enumerate(lines):
            if problem := _disagreement(line, persona):
                yield Finding((*place, i), problem)
                continue
            texts = covering(line, persona.fillers, plurals)
            found = (slip for text in texts for slip in slips(text, plurals) if slip not in in_fillers)
            if slip := next(found, None):
                if place[0] == "slots":
                    in_fillers.add(slip)
                cure = "reword the line, or let a slot agree: {a:slot}, {slot.s}, {slot.is}"
                yield Finding((*place, i), f"{slip}; {cure}")


def _disagreement(line: str, persona: Persona) -> str | None:
    """What is said of "{body} is" where a filler is plural, of "{body} are" where one is not, and of "{boat.s} is"."""
    for match in LITERAL_VERB.finditer(line):
        slot, verb = match["slot"], match["verb"]
        of_one = verb != "are"
        said = f"{{{slot}}} {verb}"
        if match["link"]:
            continue
        if match["one"] or match["many"]:
            if bool(match["many"]) is of_one:
                return f"{said!r} does not agree; write {VERBS[verb] if of_one else 'is'!r}"
            continue
        wrong = [filler for filler in persona.fillers[match["name"]] if (filler in persona.plurals) is of_one]
        if wrong:
            number, agreeing = ("plural", verb) if of_one else ("not under plurals", "is")
            return f"{said!r}, and {wrong[0]!r} is {number}; write {{{slot}}} {{{slot}.{agreeing}}}"
    return None


def same_prompts(persona: Persona) -> Findings:
    """Asks of two topics that can become one prompt: there is no telling which one is meant."""
    owner: dict[str, tuple[str, int]] = {}
    for name, topic in persona.all_topics.items():
        for i, ask in enumerate(topic.ask):
            for prompt in clean_texts(persona, [ask]):
                other, line = owner.setdefault(prompt, (name, i))
                if other != name:
                    problem = f"{prompt!r} can be asked in {other!r} too; change or remove one of the two"
                    yield Finding((*asks_of(name), i), problem, (*asks_of(other), line))
                    break


def look_alikes(persona: Persona) -> Findings:
    """Asks of two topics, and replies anywhere, that are almost the same."""
    lines = [((*place, i), line) for place, lines in templates(persona) for i, line in enumerate(lines)]
    asks = [(place, line) for place, line in lines if "ask" in place[-2:] and not is_follow_up(place)]
    replies = [(place, line) for place, line in lines if "reply" in place[-2:]]
    for kind in (asks, replies):
        try:
            pairs = near_duplicates([MARKUP.sub(" ", line) for _, line in kind])
        except ImportError:
            yield Finding((), "near-duplicates are not found without datasketch; pip install 'barreleye[report]'")
            return
        for i, j, likeness in pairs:
            (first, line), (place, _) = kind[i], kind[j]
            if kind is replies or first[:-1] != place[:-1]:
                yield Finding(place, f"almost {line!r} again ({likeness:.0%} alike); say something else", first)
