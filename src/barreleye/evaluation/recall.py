"""Whether a model uses what it was told: a name, a number, a favourite, asked for some exchanges later.

The conversations are composed for the purpose and occur nowhere in training. The reply must contain what was told; what
training told too is kept apart from what it never did.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from barreleye.data.chat_format import Conversation, Message
from barreleye.data.dress import normalize
from barreleye.data.persona import exchange, said_back
from barreleye.data.sheet import SAID, FollowUp, Persona, Topic
from barreleye.data.template import Bindings, Slot, render, slots_of
from barreleye.evaluation.figures import Figure, bootstrap

DISTANCES = (1, 2, 3, 4)
PER_NAME, PER_OTHER = 50, 20  # conversations of a distance
OTHER_DISTANCES = (2,)  # for all but the name: each length of a conversation is a batch of its own, and that takes time
TRIES = 20  # for each conversation, before a sheet counts as too small to make one that training has not
NAME_TOPIC = "user_name"
NOTHING_TOLD = "the sheet has no follow-up with `later: true`, so there is nothing to remember"


@dataclass(frozen=True)
class Recall:
    """A conversation that tells something first and asks for it last.

    distance: exchanges from the telling to the question, 2 where one stands between. known: whether training told it.
    chat: what the model is given. truth: what the sheet answers.
    """

    character: str
    slot: str
    filler: str
    known: bool
    distance: int
    chat: tuple[Message, ...]
    truth: str


@dataclass(frozen=True)
class RecallRate:
    """The share of replies that contain what was told. Fillers are drawn together for the interval: its `n` counts
    them, and `conversations` what was asked."""

    character: str
    slot: str
    known: bool
    distance: int
    share: Figure
    conversations: int


class Memory(NamedTuple):
    """A slot that a topic tells by some asks, and a follow-up whose every reply gives it back."""

    topic: str
    slot: Slot
    asks: tuple[str, ...]
    follow_up: FollowUp


def memories(persona: Persona) -> list[Memory]:
    """What a sheet can be asked to remember. A follow-up that may be answered without the slot tells nothing either
    way and is left out."""
    found = []
    learned = {name: topic for name, topic in persona.topics.items() if name not in persona.unseen}
    for name, topic in learned.items():
        for follow_up in topic.follow_ups:
            given_back = set.intersection(*map(_keys, follow_up.reply)) if follow_up.later else set()
            telling = {slot: tuple(ask for ask in topic.ask if slot in _keys(ask)) for slot in sorted(given_back)}
            found += [Memory(name, slot, asks, follow_up) for slot, asks in telling.items() if asks]
    return found


def _keys(line: str) -> set[Slot]:
    return {slot.key for slot in slots_of(line)}


def name_slot(persona: Persona) -> str:
    """The slot of the user's name: what `user_name` tells, or else the first that the sheet remembers. Raises
    ValueError where it remembers nothing."""
    found = memories(persona)
    if not found:
        raise ValueError(NOTHING_TOLD)
    return next((memory.slot.name for memory in found if memory.topic == NAME_TOPIC), found[0].slot.name)


def compose_recalls(
    personas: Mapping[str, Persona],
    unseen_fillers: Mapping[str, Mapping[str, Sequence[str]]],
    train: Sequence[Conversation],
    seed: int = 0,
) -> list[Recall]:
    """For each slot, distance, and kind of filler, `PER_NAME` conversations about the name and `PER_OTHER` about each
    other slot; none, up to its question, stands anywhere in a training conversation.

    unseen_fillers: character -> slot -> fillers that training never told. Raises ValueError where no sheet has anything
    to remember.
    """
    in_training = {stretch for conversation in train for stretch in _stretches(conversation.messages)}
    recalls: list[Recall] = []
    for name, persona in personas.items():
        unseen = unseen_fillers.get(name, {})
        told = {slot: [f for f in fillers if f not in unseen.get(slot, ())] for slot, fillers in persona.slots.items()}
        known = persona.model_copy(update={"slots": told})
        system = (Message("system", name),) if len(personas) > 1 else ()
        rng = random.Random(f"recall {seed} {name}")
        for memory in memories(persona):
            slot = memory.slot.name
            n, distances = (PER_NAME, DISTANCES) if slot == name_slot(persona) else (PER_OTHER, OTHER_DISTANCES)
            others = _others(known, memory)
            for is_known, fillers in ((True, told[slot]), (False, unseen.get(slot, ()))):
                for distance in [d for d in distances if fillers and d <= 1 + len(others)]:
                    found: dict[tuple[str, ...], Recall] = {}
                    for _ in range(TRIES * n):
                        between = rng.sample(others, distance - 1)
                        text, chat, truth = _compose(known, memory, rng.choice(fillers), between, rng)
                        key = tuple(normalize(message.content) for message in chat)
                        if key not in in_training:
                            found[key] = Recall(name, slot, text, is_known, distance, (*system, *chat), truth)
                        if len(found) == n:
                            break
                    recalls += found.values()
    if not recalls:
        raise ValueError(NOTHING_TOLD)
    return recalls


def _others(persona: Persona, memory: Memory) -> list[Topic]:
    """What may be talked about between the telling and the question."""
    asked_back = set(memory.follow_up.ask)  # by another topic too, where nothing was told: it would now be wrong
    return [
        topic
        for name, topic in persona.all_topics.items()
        if name != memory.topic and name not in persona.unseen and asked_back.isdisjoint(topic.ask)
    ]


def _compose(
    persona: Persona, memory: Memory, filler: str, between: Sequence[Topic], rng: random.Random
) -> tuple[str, tuple[Message, ...], str]:
    """(what is told, the conversation up to the question, the sheet's answer)"""
    text = render(filler, persona.fillers, {}, rng.choice, persona.plurals)
    bound: Bindings = {memory.slot: (filler, text)}
    said = [exchange(persona, memory.asks, persona.topics[memory.topic].reply, bound, rng)]
    said += [exchange(persona, topic.ask, topic.reply, {}, rng) for topic in between]
    bound[Slot(SAID)] = said_back(said[-1][0])
    question, truth = exchange(persona, memory.follow_up.ask, memory.follow_up.reply, bound, rng)
    chat = [Message(*turn) for pair in said for turn in zip(("user", "assistant"), pair, strict=True)]
    return text, (*chat, Message("user", question)), truth


def _stretches(messages: Sequence[Message]) -> Iterator[tuple[str, ...]]:
    """From each prompt to each later one, normalized: what a conversation that ends in a question can repeat."""
    texts = [normalize(message.content) for message in messages if message.role != "system"]
    for start in range(0, len(texts), 2):
        for end in range(start + 3, len(texts), 2):
            yield tuple(texts[start:end])


def remembers(reply: str, filler: str) -> bool:
    """Whether a reply contains what was told, as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(filler)}(?!\w)", reply, re.IGNORECASE) is not None


def recall_rates(recalls: Sequence[Recall], replies: Sequence[str]) -> tuple[list[RecallRate], list[dict[str, Any]]]:
    """The figures of each character, slot, kind of filler and distance, and every reply with what it should contain."""
    cells: dict[tuple[str, str, bool, int], list[int]] = {}
    for i, recall in enumerate(recalls):
        cells.setdefault((recall.character, recall.slot, recall.known, recall.distance), []).append(i)
    right = [remembers(reply, recall.filler) for recall, reply in zip(recalls, replies, strict=True)]
    rates = [
        RecallRate(*cell, bootstrap([right[i] for i in own], clusters=[recalls[i].filler for i in own]), len(own))
        for cell, own in cells.items()
    ]
    rows = [
        {
            "character": recall.character,
            "slot": recall.slot,
            "told": recall.filler,
            "known": recall.known,
            "distance": recall.distance,
            "messages": [{"role": m.role, "content": m.content} for m in recall.chat],
            "reply": reply,
            "truth": recall.truth,
            "remembered": remembered,
        }
        for recall, reply, remembered in zip(recalls, replies, right, strict=True)
    ]
    return rates, rows
