"""What a model may learn from, and what it is asked about afterwards.

The unit of the split is the *clean prompt*, an ask template of a topic: held-out conversations are made of
asks that training never sees, in no dress. Follow-ups ("why?") belong to both sides and are marked `shared`.
"""

import random
from collections.abc import Iterable
from itertools import islice

from barreleye.data.chat_format import Conversation
from barreleye.data.dress import normalize
from barreleye.data.sheet import Persona, is_follow_up, templates
from barreleye.data.template import Slot, expansions, slots_of

Asks = dict[str, tuple[str, ...]]
"""Topic -> ask templates."""

EXPANSION_CAP = 1_000  # texts of one template that are listed; the overlap is exact beyond it too
HELD_BACK = 0.05  # of the fillers of a slot that is remembered, to ask for what was never seen
FEWEST_TO_HOLD_BACK = 20  # fillers; a shorter list is needed whole


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

    owner = dict.fromkeys(clean_texts(persona, follow_up_asks(persona)), _FOLLOW_UPS)
    for i, (_, ask) in enumerate(asks):
        for prompt in clean_texts(persona, [ask]):
            low, high = sorted((root(i), root(owner.setdefault(prompt, i))))
            parent[high] = low  # the lower is the root, so that the follow-ups' group keeps its number
    return {ask: root(i) for i, ask in enumerate(asks)}


def follow_up_asks(persona: Persona) -> list[str]:
    return [ask for place, lines in templates(persona) if is_follow_up(place) and place[-1] == "ask" for ask in lines]


def clean_texts(persona: Persona, asks: Iterable[str]) -> dict[str, None]:
    """The normalized texts of some ask templates, the first `EXPANSION_CAP` of each, as an ordered set."""
    texts = (text for ask in asks for text in islice(expansions(ask, persona.fillers, persona.plurals), EXPANSION_CAP))
    return dict.fromkeys(map(normalize, texts))


def remembered(persona: Persona) -> dict[str, set[Slot]]:
    """Topic -> the slots that it tells and a later follow-up asks for."""
    return {
        name: {
            slot
            for follow_up in topic.follow_ups
            if follow_up.later
            for slot in _slots(topic.ask) & _slots(follow_up.reply)
        }
        for name, topic in persona.topics.items()
        if any(follow_up.later for follow_up in topic.follow_ups)
    }


def hold_back(persona: Persona, seed: int) -> tuple[Persona, dict[str, tuple[str, ...]]]:
    """The sheet without some names, numbers, favourites that later follow-ups ask for, and those fillers by slot."""
    rng = random.Random(f"hold back {seed}")
    held: dict[str, tuple[str, ...]] = {}
    for name in sorted({slot.name for told in remembered(persona).values() for slot in told}):
        fillers = [filler for filler in persona.slots[name] if not slots_of(filler)]
        if len(fillers) >= FEWEST_TO_HOLD_BACK:
            held[name] = tuple(rng.sample(fillers, max(2, round(len(fillers) * HELD_BACK))))
    slots = {
        name: tuple(filler for filler in fillers if filler not in held.get(name, ()))
        for name, fillers in persona.slots.items()
    }
    return persona.model_copy(update={"slots": slots}), held


def _slots(lines: Iterable[str]) -> set[Slot]:
    return {slot.key for line in lines for slot in slots_of(line)}


def scored_prompts(conversation: Conversation) -> list[str]:
    return [normalize(m.content) for m in conversation.messages if m.role == "user" and not m.shared]


def overlap(train: Iterable[Conversation], held_out: Iterable[Conversation]) -> list[str]:
    """The prompts of the held-out side that training has too, as an ask or a follow-up.

    Shared follow-ups of the held-out side do not count. Prompts are compared after `normalize`, so that
    another casing or final mark does not hide one.
    """
    scored = {prompt for conversation in held_out for prompt in scored_prompts(conversation)}
    return sorted(scored & user_prompts(train))


def check_split(train: Iterable[Conversation], held_out: Iterable[Conversation]) -> None:
    """Raises ValueError where training has a prompt that counts as unseen."""
    if found := overlap(train, held_out):
        what = "prompt stands" if len(found) == 1 else "prompts stand"
        problem = f"{len(found)} held-out {what} in training too, such as {found[0]!r}"
        raise ValueError(f"{problem}; what is asked of a model later must not be learned: train anew")


def user_prompts(conversations: Iterable[Conversation]) -> set[str]:
    return {normalize(m.content) for conversation in conversations for m in conversation.messages if m.role == "user"}
