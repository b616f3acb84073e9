"""Conversations that tell something and ask for it later: composed right, unseen, and scored by what the reply says."""

from pathlib import Path

import pytest

import barreleye.data
from barreleye.data.chat_format import Conversation, Message
from barreleye.data.persona import compose
from barreleye.data.sheet import Persona
from barreleye.data.sheet_file import load_persona
from barreleye.data.template import expansions
from barreleye.evaluation import recall as room
from barreleye.evaluation.recall import (
    DISTANCES,
    NOTHING_TOLD,
    OTHER_DISTANCES,
    PER_NAME,
    PER_OTHER,
    Recall,
    compose_recalls,
    memories,
    name_slot,
    recall_rates,
    remembers,
)

SHEET = load_persona(Path(barreleye.data.__file__).with_name("new_sheet.yaml"))
FISH = load_persona("fish")
PERSONAS = {"fish": FISH}
SIDES = compose({"fish": (FISH, 2_000)}, 1)
RECALLS = compose_recalls(PERSONAS, SIDES.unseen_fillers, SIDES.train)
FOLLOW_UPS = {memory.slot.name: memory for memory in memories(FISH)}
SMALL = dict(
    name="x", description="x", style="x",
    slots={"person": ("ann", "bo"), "fruit": ("plum", "fig")},
    topics={
        "user_fruit": dict(
            ask=("i like {fruit}", "i like fruit"), reply=("good.",),
            follow_ups=(dict(ask=("what do i like?",), reply=("{fruit}.", "it was {fruit}."), later=True),),
        ),
        "user_name": dict(
            ask=("i am {person}",), reply=("hello.",),
            follow_ups=(
                dict(ask=("who am i?",), reply=("{person}.", "you are {person}."), later=True),
                dict(ask=("do you know me?",), reply=("{person}.", "somebody."), later=True),
                dict(ask=("and now?",), reply=("{person}.",)),
            ),
        ),
        "unknown": dict(ask=("who am i?", "guess who i am"), reply=("nobody said.",)),
        "sea": dict(ask=("how is the sea?",), reply=("wet.",)),
    },
    confused=dict(ask=("asdf",), reply=("what?",)),
)  # fmt: skip


def small(**changes: object) -> Persona:
    return Persona.model_validate(SMALL | changes)


# What there is to remember -----------------------------------------------------------------------------------------


def test_what_a_sheet_remembers() -> None:
    found = [(m.topic, m.slot.name, m.asks, m.follow_up.ask) for m in memories(small())]
    assert found == [  # nothing that a right answer may leave out, or that is asked at once
        ("user_fruit", "fruit", ("i like {fruit}",), ("what do i like?",)),
        ("user_name", "person", ("i am {person}",), ("who am i?",)),
    ]
    assert name_slot(small()) == "person" and name_slot(small(unseen=("user_name",))) == "fruit"
    assert {m.slot.name for m in memories(FISH)} >= {"person", "number", "colour"}


def test_a_sheet_that_remembers_nothing_is_said_to() -> None:
    sheet = small(topics={"sea": SMALL["topics"]["sea"]})  # type: ignore[index]
    assert memories(sheet) == []
    with pytest.raises(ValueError, match=NOTHING_TOLD):
        compose_recalls({"x": sheet}, {}, [])
    with pytest.raises(ValueError, match=NOTHING_TOLD):
        name_slot(sheet)


# The conversations -------------------------------------------------------------------------------------------------


def test_every_cell_is_full() -> None:
    rates, rows = recall_rates(RECALLS, [recall.truth for recall in RECALLS])
    for rate in rates:
        assert rate.conversations == (PER_NAME if rate.slot == "person" else PER_OTHER)
    cells = {(rate.slot, rate.known, rate.distance) for rate in rates}
    assert cells == {
        (slot, known, distance)
        for slot in FOLLOW_UPS
        for known in (True, False)
        for distance in (DISTANCES if slot == "person" else OTHER_DISTANCES)
    }
    assert len(rows) == len(RECALLS) == sum(rate.conversations for rate in rates)


def test_something_is_told_first_and_asked_for_last() -> None:
    for recall in RECALLS:
        asks = {text for ask in FOLLOW_UPS[recall.slot].follow_up.ask for text in expansions(ask, {})}
        assert [m.role for m in recall.chat] == ["user", "assistant"] * recall.distance + ["user"]
        assert recall.filler in recall.chat[0].content
        assert recall.chat[-1].content in asks
        between = [m.content for m in recall.chat[2:-1:2]]
        assert len(set(between)) == recall.distance - 1
        assert asks.isdisjoint(between)


def test_what_training_never_told_is_kept_apart() -> None:
    held = SIDES.unseen_fillers["fish"]
    for recall in RECALLS:
        assert (recall.filler in held[recall.slot]) is not recall.known
    said = {m.content.lower() for c in SIDES.train for m in c.messages}
    for filler in held["person"]:
        assert not any(remembers(text, filler) for text in said)


def test_none_stands_in_training() -> None:
    """Planted, with other casing and something before: each is composed no more."""
    first = Message("user", "hello"), Message("assistant", "hello.")
    planted = [
        Conversation((*first, *(Message(m.role, m.content.upper()) for m in r.chat), Message("assistant", "so")))
        for r in RECALLS
    ]
    again = compose_recalls(PERSONAS, SIDES.unseen_fillers, planted)
    assert not {r.chat for r in RECALLS} & {r.chat for r in again} and len(again) == len(RECALLS)
    assert compose_recalls(PERSONAS, SIDES.unseen_fillers, SIDES.train) == RECALLS


def test_a_sheet_too_small_to_make_unseen_ones_makes_fewer() -> None:
    def told(recalls: list[Recall]) -> list[Recall]:
        return [r for r in recalls if r.distance == 1]

    sheet = {"x": small()}
    everything = compose_recalls(sheet, {}, [])
    assert len(told(everything)) == 2  # of two names
    seen = [Conversation((*r.chat, Message("assistant", r.truth))) for r in told(everything)[:1]]
    assert told(compose_recalls(sheet, {}, seen)) == told(everything)[1:]


def test_a_name_that_was_told_is_not_asked_for_as_if_it_was_not() -> None:
    for recall in compose_recalls({"x": small()}, {}, []):
        asks = [m.content for m in recall.chat[:-1] if m.role == "user"]
        assert recall.slot == "fruit" or not {"who am i?", "guess who i am"} & set(asks)


def test_characters_of_a_mix_are_called_by_name() -> None:
    recalls = compose_recalls({"fish": FISH, "lighthouse": SHEET}, {}, [])
    assert {r.character for r in recalls} == {"fish", "lighthouse"}
    assert all(r.chat[0] == Message("system", r.character) and r.chat[1].role == "user" for r in recalls)
    assert all(r.known for r in recalls)


# The score ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "filler", "right"),
    [
        ("Anna. i kept it.", "anna", True),
        ("you are ANNA!", "anna", True),
        ("annabel, of course", "anna", False),
        ("hanna", "anna", False),
        ("it is new york.", "new york", True),
        ("it is new york.", "new yor", False),
        ("c++, you said", "c++", True),
        ("4 and 42", "42", True),
        ("4 and 420", "42", False),
        ("", "anna", False),
    ],
)
def test_a_reply_remembers_by_whole_words_in_any_case(reply: str, filler: str, right: bool) -> None:
    assert remembers(reply, filler) is right


def test_true_answers_are_right_and_those_of_others_wrong() -> None:
    rates, rows = recall_rates(RECALLS, [recall.truth for recall in RECALLS])
    assert {rate.share.value for rate in rates} == {1} and all(row["remembered"] for row in rows)
    names = [r for r in RECALLS if r.slot == "person"]
    wrong, _ = recall_rates(names, [r.truth.replace(r.filler, "nobody") for r in names])
    assert {rate.share.value for rate in wrong} == {0}


def test_half_right_answers_and_how_many_fillers_they_rest_on() -> None:
    names = [r for r in RECALLS if r.slot == "person" and r.distance == 2 and not r.known]
    (rate,), _ = recall_rates(names, [r.filler if i % 2 else "who?" for i, r in enumerate(names)])
    assert rate.share.value == 0.5 and rate.share.low < 0.5 < rate.share.high
    assert rate.share.n == len({r.filler for r in names}) < rate.conversations == room.PER_NAME
