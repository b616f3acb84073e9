"""A character sheet and a seed -> conversations, the same ones every time.

The unit of the split is the *clean prompt*, an ask template of a topic: held-out conversations are made of
asks that training never sees, in no dress. Follow-ups ("why?") belong to both sides and are marked `shared`.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from barreleye.data.chat_format import Conversation, Message
from barreleye.data.dress import dress, normalize
from barreleye.data.sheet import FollowUp, Persona, Topic, templates
from barreleye.data.sheet_file import load_persona, persona_names
from barreleye.data.template import Bindings, expansions, render, slots_of

__all__ = [
    "Asks",
    "FollowUp",
    "Persona",
    "PersonaCheck",
    "Topic",
    "check",
    "converse",
    "dress",
    "grow_conversations",
    "load_persona",
    "normalize",
    "overlap",
    "persona_names",
    "split_prompts",
]

Asks = dict[str, tuple[str, ...]]
"""Topic -> ask templates."""

CONFUSED_RATE = 0.1
EXCHANGES = (*[1] * 14, 2, 2, 2, 3, 3, 4)  # drawn from: 30 in 100 have several
EXPANSION_CAP = 1_000  # texts of one template that are listed; the overlap is exact beyond it too
FEW_ASKS = 8
TRIES = 50  # at one length, before a conversation is made longer; then the sheet counts as used up


def split_prompts(persona: Persona, seed: int, held_out: float = 0.05) -> tuple[Asks, Asks]:
    """Part the asks of each topic into (training, held-out), at least one each where a topic has two or more.

    Asks that can become the same prompt ("do you like {food}", "do you like plankton") stay on one side, and
    those that can become a follow-up stay in training. Where that leaves nothing to hold out, nothing is.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}; give a fraction between 0 and 1")
    rng = random.Random(f"split {seed}")
    group_of = _colliding(persona)
    members: dict[int, list[str]] = {_FOLLOW_UPS: []}  # group -> the topic of each of its asks
    for (name, _), group in group_of.items():
        members[group] = [*members.get(group, ()), name]
    in_training = {name: len(topic.ask) for name, topic in persona.all_topics.items()}
    chosen: set[int] = {_FOLLOW_UPS}
    topics = persona.all_topics
    for name, topic in topics.items():
        wanted = max(1, round(held_out * len(topic.ask)))
        groups = list(dict.fromkeys(group_of[name, ask] for ask in topic.ask))
        rng.shuffle(groups)
        for group in sorted(groups, key=lambda group: len(members[group])):
            missing = wanted - (len(topic.ask) - in_training[name])
            fits = all(in_training[other] > members[group].count(other) for other in members[group])
            if missing > 0 and group not in chosen and fits:
                chosen.add(group)
                for other in members[group]:
                    in_training[other] -= 1
    chosen.remove(_FOLLOW_UPS)
    sides: tuple[Asks, Asks] = {}, {}
    for name, topic in persona.all_topics.items():
        for side, is_held_out in zip(sides, (False, True), strict=True):
            asks = tuple(ask for ask in topic.ask if (group_of[name, ask] in chosen) is is_held_out)
            if asks:
                side[name] = asks
    return sides


_FOLLOW_UPS = -1  # the group of all follow-ups, and of asks that can become one


def _colliding(persona: Persona) -> dict[tuple[str, str], int]:
    """(topic, ask) -> its group: asks that share a normalized prompt are in one (union-find)."""
    asks = [(name, ask) for name, topic in persona.all_topics.items() for ask in topic.ask]
    parent = {i: i for i in (_FOLLOW_UPS, *range(len(asks)))}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    owner = dict.fromkeys(clean_texts(persona, _follow_up_asks(persona)), _FOLLOW_UPS)
    for i, (_, ask) in enumerate(asks):
        for prompt in clean_texts(persona, [ask]):
            low, high = sorted((root(i), root(owner.setdefault(prompt, i))))
            parent[high] = low  # the lower is the root, so that the follow-ups' group keeps its number
    return {ask: root(i) for i, ask in enumerate(asks)}


def _follow_up_asks(persona: Persona) -> list[str]:
    return [ask for place, lines in templates(persona) if "follow_ups" in place and place[-1] == "ask" for ask in lines]


def clean_texts(persona: Persona, asks: Iterable[str]) -> dict[str, None]:
    """The normalized texts of some ask templates, the first `EXPANSION_CAP` of each, as an ordered set."""
    texts = (text for ask in asks for text in islice(expansions(ask, persona.slots), EXPANSION_CAP))
    return dict.fromkeys(map(normalize, texts))


def converse(
    persona: Persona, asks: Asks, n: int, seed: int, avoid: frozenset[str] = frozenset()
) -> list[Conversation]:
    """`n` conversations over some asks of a sheet, no two the same after `normalize`.

    About 30 in 100 have 2 to 4 exchanges. Topics come equally often, `confused` one time in ten, until
    a small topic is used up.

    avoid: normalized prompts that must not occur.
    Raises ValueError if the sheet cannot make that many.
    """
    made = list(islice(_conversations(persona, asks, random.Random(f"converse {seed}"), avoid), n))
    if len(made) < n:
        raise ValueError(
            f"persona {persona.name!r} makes {len(made):,} distinct conversations, {n:,} were asked for; "
            "ask for fewer, or add asks, replies or slot fillers to its sheet"
        )
    return made


def _conversations(persona: Persona, asks: Asks, rng: random.Random, avoid: frozenset[str]) -> Iterator[Conversation]:
    """Distinct conversations until nothing new is found."""
    draw = _Draw(persona, asks, rng)
    seen: set[tuple[str, ...]] = set()
    found = bool(asks)
    used_up = 0  # what is said in so many exchanges, or fewer; a longer conversation is then the next best
    while found:
        found = False
        shortest = rng.choice(EXCHANGES)
        for exchanges in range(max(shortest, used_up + 1), max(EXCHANGES) + 1):
            for _ in range(TRIES):
                conversation = draw.conversation(exchanges)
                texts = tuple(normalize(message.content) for message in conversation.messages)
                if texts not in seen and avoid.isdisjoint(texts[::2]):
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

    def __init__(self, persona: Persona, asks: Asks, rng: random.Random) -> None:
        self.persona, self.asks, self.rng = persona, asks, rng
        self.topics = persona.all_topics

    def conversation(self, exchanges: int) -> Conversation:
        """At most so many exchanges: fewer where every topic has been talked about."""
        used: list[str] = []
        messages: list[Message] = []
        bound: Bindings = {}
        own: tuple[FollowUp, ...] = ()  # the follow-ups that fit what was said last
        shared: tuple[FollowUp, ...] = ()
        for _ in range(exchanges):
            roll = self.rng.random()
            if own and roll < 0.4:
                follow_up, own = self.rng.choice(own), ()
                messages += self._exchange(follow_up.ask, follow_up.reply, bound, shared=True)
            elif shared and roll > 0.8:
                follow_up, own, shared = self.rng.choice(shared), (), ()
                messages += self._exchange(follow_up.ask, follow_up.reply, bound, shared=True)
            elif len(used) < len(self.asks):
                used.append(self._topic(used))
                bound, topic = {}, self.topics[used[-1]]
                messages += self._exchange(self.asks[used[-1]], topic.reply, bound)
                own, shared = topic.follow_ups, self.persona.follow_ups
        return Conversation(tuple(messages), used[0])

    def _topic(self, used: list[str]) -> str:
        rest = [name for name in self.asks if name != "confused" and name not in used]
        confused = "confused" in self.asks and "confused" not in used
        if confused and (not rest or self.rng.random() < CONFUSED_RATE):
            return "confused"
        return self.rng.choice(rest)

    def _exchange(
        self, asks: tuple[str, ...], replies: tuple[str, ...], bound: Bindings, shared: bool = False
    ) -> tuple[Message, Message]:
        choose, slots = self.rng.choice, self.persona.slots
        prompt = dress(render(choose(asks), slots, bound, choose), self.rng)
        reply = render(choose(replies), slots, bound, choose)
        return Message("user", prompt, shared), Message("assistant", reply, shared)


def grow_conversations(
    persona: Persona, n: int, seed: int, held_out: float = 0.05
) -> tuple[list[Conversation], list[Conversation]]:
    """`n` conversations to train on, and `held_out` times as many beside them: fewer if the held-out asks make no more.

    No held-out prompt occurs in training in any dress; follow-ups, which are `shared`, do.
    Raises ValueError if the sheet cannot make `n`.
    """
    training_asks, held_out_asks = split_prompts(persona, seed, held_out)
    # A typo can turn a held-out prompt into one of training; the clean prompt is the one to keep.
    in_training = [*_follow_up_asks(persona), *(ask for asks in training_asks.values() for ask in asks)]
    clean = clean_texts(persona, in_training)
    drawn = _conversations(persona, held_out_asks, random.Random(f"held-out {seed}"), frozenset())
    unseen = (conversation for conversation in drawn if clean.keys().isdisjoint(_scored_prompts(conversation)))
    unseen_conversations = list(islice(unseen, max(1, round(n * held_out))))
    avoid = frozenset(prompt for conversation in unseen_conversations for prompt in _scored_prompts(conversation))
    training = converse(persona, training_asks, n, seed, avoid)
    assert overlap(training, unseen_conversations) == 0
    return training, unseen_conversations


def _scored_prompts(conversation: Conversation) -> list[str]:
    return [normalize(m.content) for m in conversation.messages if m.role == "user" and not m.shared]


def overlap(train: Iterable[Conversation], held_out: Iterable[Conversation]) -> int:
    """How many prompts of the held-out side training has too, as an ask or a follow-up.

    Shared follow-ups of the held-out side do not count. Prompts are compared after `normalize`, so that
    another casing or final mark does not hide one.
    """
    seen = {normalize(m.content) for conversation in train for m in conversation.messages if m.role == "user"}
    scored = {prompt for conversation in held_out for prompt in _scored_prompts(conversation)}
    return len(seen & scored)


@dataclass(frozen=True)
class PersonaCheck:
    """What a sheet can say. Texts are counted after `normalize`, at most `EXPANSION_CAP` of one template."""

    name: str
    topics: int
    asks: int
    prompts: int
    replies: int
    unused_slots: tuple[str, ...]
    topics_with_few_asks: tuple[tuple[str, int], ...]
    """(topic, number of asks), for those with less than `FEW_ASKS`."""
    samples: tuple[Conversation, ...]


def check(persona: Persona | str | Path) -> PersonaCheck:
    """Count what a sheet can say and draw a few conversations. Raises ValueError as `load_persona` does."""
    if not isinstance(persona, Persona):
        persona = load_persona(persona)
    topics = persona.all_topics
    lines = list(templates(persona))
    named = {slot.name for _, texts in lines for text in texts for slot in slots_of(text)}
    draw = _Draw(persona, {name: topic.ask for name, topic in topics.items()}, random.Random(0))
    return PersonaCheck(
        name=persona.name,
        topics=len(topics),
        asks=sum(len(topic.ask) for topic in topics.values()),
        prompts=len(clean_texts(persona, (ask for topic in topics.values() for ask in topic.ask))),
        replies=len(clean_texts(persona, (t for place, texts in lines if place[-1] == "reply" for t in texts))),
        unused_slots=tuple(name for name in persona.slots if name not in named),
        topics_with_few_asks=tuple((name, len(t.ask)) for name, t in topics.items() if len(t.ask) < FEW_ASKS),
        samples=tuple(draw.conversation(exchanges) for exchanges in (1, 1, 2, 3)),
    )
