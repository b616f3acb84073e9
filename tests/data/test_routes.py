"""Asks that share their key words are found by each other; one that is like no other is named, with its place."""

import sys

import pytest

from barreleye.data.persona_check import check
from barreleye.data.routes import routes
from barreleye.data.sheet import Persona

FRAMES = (
    *("do you like {}?", "tell me about {}", "what is {}?", "is {} far away?", "i saw {} today", "{} please"),
    *("i like {}", "why {}?", "where is {}?", "is there {}?", "{}!", "more {}", "who made {}?", "your {}", "i want {}"),
)
WORDS = ("snow", "crumbs", "linda", "rent")


def sheet(**more: list[str]) -> Persona:
    """Four topics of one key word each, and what is added to the asks of some."""
    topics = {
        word: {"ask": [frame.format(word) for frame in FRAMES] + more.get(word, []), "reply": [f"{word}!"]}
        for word in WORDS
    }
    confused = {"ask": ["asdf", "qwerty", "hola"], "reply": ["what?"]}
    return Persona(name="Pip", description="d", style="s", topics=topics, confused=confused)  # type: ignore[arg-type]


def test_key_words_lead_to_their_topic() -> None:
    found = routes(sheet())
    assert [found.found[word] for word in WORDS] == [1, 1, 1, 1] and found.share >= 0.8
    assert all(stray.topic == "confused" for stray in found.strays)


def test_an_ask_like_no_other_is_named_and_where_it_stands() -> None:
    found = routes(sheet(snow=["do you like linda snowing?"]))
    (stray,) = [stray for stray in found.strays if stray.ask == "do you like linda snowing?"]
    assert (stray.topic, stray.number) == ("snow", len(FRAMES)) and stray.taken_for == "linda"
    assert found.found["snow"] <= len(FRAMES) / (len(FRAMES) + 1)
    assert list(found.found.values()) == sorted(found.found.values())


def test_the_same_each_time() -> None:
    assert routes(sheet()) == routes(sheet())


def test_a_sheet_of_one_topic_has_nothing_to_tell_apart() -> None:
    only = Persona(
        name="Pip",
        description="d",
        style="s",
        topics={"snow": {"ask": ["snow"], "reply": ["snow!"]}},  # type: ignore[dict-item]
        confused={"ask": ["asdf"], "reply": ["what?"]},  # type: ignore[arg-type]
    )
    assert 0 <= routes(only).share <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bard", "cat", "fish", "tycoon"])
def test_the_asks_of_a_built_in_sheet_are_found(name: str) -> None:
    checked = check(name, key_words=True)
    assert checked.routed is not None and checked.routed > 0.93


def test_without_scikit_learn_the_rest_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    checked = check("fish", key_words=True)
    assert checked.routed is None and checked.strays == () and checked.topics > 60
