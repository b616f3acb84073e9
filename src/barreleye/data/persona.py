"""Character sheets and a seed -> conversations, the same ones every time."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from barreleye.data.chat_format import Conversation, Message
from barreleye.data.dress import TYPO_RATE, capital_names, dress, normalize, sentence_case
from barreleye.data.sheet import SAID, FollowUp, Persona
from barreleye.data.split import (
    Asks,
    clean_texts,
    follow_up_asks,
    hold_back,
    remembered,
    scored_prompts,
    split_prompts,
)
from barreleye.data.template import Bindings, Slot, render

CONFUSED_RATE = 0.1
MEMORY_RATE = 0.7  # of the topics of longer conversations that tell something to ask for later
EXCHANGES = (*[1] * 22, 2, 2, 2, 2, 3, 3, 4, 5)  # drawn from: 27 in 100 have several
_NO_WORD_AT_END = re.compile(r"[\W_]+$")
TRIES = 50  # at one length, before a conversation is made longer; then the sheet counts as used up
EXTRA_SHARE = 1 / 60  # of the training side: how many conversations each of the harder sets has


@dataclass(frozen=True)
class Sides:
    """What is learned, and what is asked about afterwards: prompts, topics and whole conversations it never saw."""

    train: list[Conversation]
    held_out: list[Conversation]
    unseen_topics: list[Conversation] = field(default_factory=list)
    unseen_rows: list[Conversation] = field(default_factory=list)
    unseen_fillers: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    """Character -> slot -> what a person may tell that training never told."""


def compose(shares: Mapping[str, tuple[Persona, int]], seed: int, held_out: float = 0.05) -> Sides:
    """Conversations of one or several characters: name -> (its sheet, how many to train on).

    `held_out` times as many have unseen prompts: fewer if the held-out asks make no more. Of several characters each
    conversation begins with a system turn that names one. No held-out prompt occurs in training in any dress;
    follow-ups, which are `shared`, do. Raises ValueError if a sheet cannot make as many.
    """
    sides = Sides([], [])
    draws: dict[str, tuple[_Draw, int]] = {}
    for name, (persona, n) in shares.items():
        system = name if len(shares) > 1 else ""
        known, sides.unseen_fillers[name] = hold_back(persona, seed)
        topics = {topic: known.topics[topic] for topic in known.topics if topic not in persona.unseen}
        learned = known.model_copy(update={"topics": topics})
        training_asks, held_out_asks = split_prompts(learned, seed, held_out)
        topic_asks = {topic: known.topics[topic].ask for topic in persona.unseen}
        draws[name] = _Draw(learned, training_asks, random.Random(f"converse {seed}"), system), n
        in_training = [*follow_up_asks(persona), *(ask for asks in training_asks.values() for ask in asks)]
        clean = clean_texts(persona, in_training).keys()
        for side, sheet, asks, share in (
            (sides.held_out, learned, held_out_asks, held_out),
            (sides.unseen_topics, known, topic_asks, EXTRA_SHARE),
        ):
            # Without typos, as what they cost is measured on its own. A name added can still make a prompt of training.
            draw = _Draw(sheet, asks, random.Random(f"held-out {seed}"), system, typo_rate=0)
            drawn = _conversations(draw, frozenset())
            unseen = (conversation for conversation in drawn if clean.isdisjoint(scored_prompts(conversation)))
            side += islice(unseen, max(1, round(n * share)))
    avoid = frozenset(prompt for c in (*sides.held_out, *sides.unseen_topics) for prompt in scored_prompts(c))
    for name, (draw, n) in draws.items():
        drawn = _conversations(draw, avoid)
        sides.train.extend(_exactly(n, drawn, shares[name][0].name))
        sides.unseen_rows.extend(islice(drawn, round(n * EXTRA_SHARE)))  # as those before, and like none of them
    if len(shares) > 1:
        random.Random(f"mix {seed}").shuffle(sides.train)
    return sides


def converse(persona: Persona, asks: Asks | None = None, n: int = 10, seed: int = 1) -> list[Conversation]:
    """`n` conversations over some asks of a sheet (default: all), no two the same after `normalize`.

    About 27 in 100 have 2 to 5 exchanges. Topics come equally often, `confused` one time in ten, until
    a small topic is used up. Raises ValueError if the sheet cannot make that many.
    """
    asks = every_ask(persona) if asks is None else asks
    draw = _Draw(persona, asks, random.Random(f"converse {seed}"))
    return _exactly(n, _conversations(draw, frozenset()), persona.name)


def every_ask(persona: Persona) -> Asks:
    return {name: topic.ask for name, topic in persona.all_topics.items()}


def _exactly(n: int, conversations: Iterator[Conversation], name: str) -> list[Conversation]:
    made = list(islice(conversations, n))
    if len(made) < n:
        raise ValueError(
            f"persona {name!r} makes {len(made):,} distinct conversations, {n:,} were asked for; "
            "ask for fewer, or add asks, replies or slot fillers to its sheet"
        )
    return made


def _conversations(draw: "_Draw", avoid: frozenset[str]) -> Iterator[Conversation]:
    """Distinct conversations until nothing new is found; none has a prompt that is, normalized, in `avoid`."""
    seen: set[tuple[str, ...]] = set()
    found = bool(draw.asks)
    used_up = 0  # what is said in so many exchanges, or fewer; a longer conversation is then the next best
    while found:
        found = False
        shortest = draw.rng.choice(EXCHANGES)
        for exchanges in range(max(shortest, used_up + 1), max(EXCHANGES) + 1):
            for _ in range(TRIES):
                conversation = draw.conversation(exchanges)
                texts = tuple(normalize(message.content) for message in conversation.messages)
                prompts = [text for text, m in zip(texts, conversation.messages, strict=True) if m.role == "user"]
                if texts not in seen and avoid.isdisjoint(prompts):
                    seen.add(texts)
                    found = True
                    yield conversation
                    break
            if found:
                break
            if exchanges == used_up + 1:
                used_up = exchanges
        if not found and used_up:
            found, used_up = True, 0  # before giving up, look once more at what seemed used up


class _Draw:
    """Draws conversations over some asks of a sheet; they may repeat."""

    def __init__(
        self, persona: Persona, asks: Asks, rng: random.Random, system: str = "", typo_rate: float = TYPO_RATE
    ) -> None:
        self.persona, self.asks, self.rng, self.typo_rate = persona, asks, rng, typo_rate
        self.system = (Message("system", system),) if system else ()
        self.topics = persona.all_topics
        self.later = {name: [f for f in self.topics[name].follow_ups if f.later] for name in asks}
        tells = {name: {slot.name for slot in told} for name, told in remembered(persona).items()}
        self.kept = set().union(*tells.values())
        # By how much there is to tell: copying a name is learned from how often that name comes, so each comes as
        # often as each number or colour.
        self.telling = {
            name: max([1, *(len(persona.fillers[slot]) for slot in tells.get(name, ()))])
            for name in asks
            if self.later[name]
        }
        # "what is my name?" has one answer before the name was told, and another one after.
        recalls = {name: {ask for f in self.later[name] for ask in f.ask} for name in self.telling}
        self.settles = {n: {t for t in asks if not recalls[n].isdisjoint(self.topics[t].ask)} for n in self.telling}

    def conversation(self, exchanges: int) -> Conversation:
        """At most so many exchanges: fewer where every topic has been talked about."""
        used: list[str] = []
        over: set[str] = set()  # topics that have been talked about, or make no sense any more
        messages: list[Message] = []
        told: list[tuple[FollowUp, Bindings]] = []  # what may be asked for later, and what was told
        bound: Bindings = {}
        own: list[FollowUp] = []  # the follow-ups that fit what was said last
        shared: tuple[FollowUp, ...] = ()
        for left in range(exchanges, 0, -1):
            roll = self.rng.random()
            if told and roll < (0.7 if left == 1 else 0.25):
                follow_up, bound = told.pop(self.rng.randrange(len(told)))
                own, shared = [], self.persona.follow_ups
                messages += self._follow_up(follow_up, bound, messages)
            elif own and roll < 0.6:
                follow_up, own = self.rng.choice(own), []
                messages += self._follow_up(follow_up, bound, messages)
            elif shared and roll > 0.8:
                follow_up, own, shared = self.rng.choice(shared), [], ()
                messages += self._follow_up(follow_up, bound, messages)
            elif name := self._topic(over, left > 1):
                used.append(name)
                over |= {name} | self.settles.get(name, set())
                bound, topic = {}, self.topics[name]
                messages += self._exchange(self.asks[name], topic.reply, bound)
                told += [(follow_up, bound) for follow_up in self.later[name]]
                own = [follow_up for follow_up in topic.follow_ups if not follow_up.later]
                shared = self.persona.follow_ups
        return Conversation((*self.system, *messages), used[0])

    def _topic(self, over: set[str], more: bool) -> str | None:
        """One that is not `over`, if there is one; rather one that tells something if `more` comes after it."""
        rest = [name for name in self.asks if name != "confused" and name not in over]
        confused = "confused" in self.asks and "confused" not in over
        if confused and (not rest or self.rng.random() < CONFUSED_RATE):
            return "confused"
        telling = [name for name in self.telling if name not in over] if more else []
        if telling and self.rng.random() < MEMORY_RATE:
            return self.rng.choices(telling, [self.telling[name] for name in telling])[0]
        return self.rng.choice(rest) if rest else None

    def _follow_up(self, follow_up: FollowUp, bound: Bindings, before: list[Message]) -> tuple[Message, Message]:
        bound[Slot(SAID)] = said_back(before[-2].content)
        return self._exchange(follow_up.ask, follow_up.reply, bound, shared=True)

    def _exchange(
        self, asks: tuple[str, ...], replies: tuple[str, ...], bound: Bindings, shared: bool = False
    ) -> tuple[Message, Message]:
        prompt, reply = exchange(self.persona, asks, replies, bound, self.rng)
        told = [text for slot, (_, text) in bound.items() if slot.name in self.kept]
        dressed = dress(prompt, self.rng, told, self.persona.name.lower(), self.typo_rate)
        return Message("user", dressed, shared), Message("assistant", reply, shared)


def exchange(
    persona: Persona, asks: Sequence[str], replies: Sequence[str], bound: Bindings, rng: random.Random
) -> tuple[str, str]:
    """A prompt, not dressed, and a reply, as the sheet writes them; slots in `bound` keep their filler."""
    fillers, plurals = persona.fillers, frozenset(persona.plurals)
    prompt = render(rng.choice(asks), fillers, bound, rng.choice, plurals)
    reply = render(rng.choice(replies), fillers, bound, rng.choice, plurals)
    if persona.sentence_case:
        names = [text for slot, (_, text) in bound.items() if slot.name in persona.proper]
        reply = sentence_case(capital_names(reply, names))
    return prompt, reply


def said_back(prompt: str) -> tuple[str, str]:
    """What `{said}` stands for after a prompt: the words without final marks and smiles, as the model read them."""
    said = (_NO_WORD_AT_END.sub("", prompt) or prompt).lower()
    return said, said
