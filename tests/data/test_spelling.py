"""What is mended and, as important, what is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barreleye.data.chat_format import Conversation, Message
from barreleye.data.spelling import OFTEN, RARER, Spelling, as_typed, count_words

COUNTS = {
    "what": 900,
    "do": 800,
    "you": 1000,
    "your": 400,
    "eat": 300,
    "hat": 45,
    "homework": 100,
    "cord": 40,
    "word": 500,
    "it's": 60,
}
SPELLING = Spelling(COUNTS)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("waht do you eat?", "what do you eat?"),  # moved
        ("whta do you eat?", "what do you eat?"),
        ("what do yyou eat?!", "what do you eat?!"),  # added
        ("what do you et", "what do you et"),  # too short to tell
        ("HOMEWRK", "homework"),  # dropped
        ("my homewotk, please", "my homework, please"),  # changed
        ("its", "it's"),
        ("yuor", "your"),  # the same letters, though "you" is commoner
        ("oyu", "you"),
    ],
)
def test_one_slip_is_mended(typed: str, read: str) -> None:
    assert SPELLING(typed) == read


@pytest.mark.parametrize(
    "typed",
    [
        "What DO you eat?  ",  # right as it is: case, marks and spaces stay
        "cord",  # rarer than "word", and yet a word
        "zzyzx h2o 14 🐟 ...",  # nothing near, digits, no words
        "hmewrk",  # two slips
        "tomework",  # the first letter is seldom wrong
        "",
    ],
)
def test_what_may_be_meant_is_left_alone(typed: str) -> None:
    assert SPELLING(typed) == typed


def test_a_slip_that_training_has_too_is_mended_while_it_is_rare() -> None:
    counts = {"homework": 5 * RARER, "homewrok": 4}
    assert Spelling(counts)("homewrok") == "homework"
    assert Spelling(counts | {"homewrok": 5})("homewrok") == "homewrok"


def test_what_was_hardly_ever_said_is_not_what_was_meant() -> None:
    assert Spelling({"homework": OFTEN - 1})("homewrok") == "homewrok"


def test_the_commoner_of_two_words_is_meant() -> None:
    assert Spelling({"lost": 30, "list": 300})("lsst") == "list"


def test_words_are_counted_in_lowercase_and_of_the_person_alone() -> None:
    chat = Conversation((Message("user", "Why? WHY, don't you"), Message("assistant", "blub")))
    assert count_words([chat, chat]) == {"why": 4, "don't": 2, "you": 2}


def test_without_words_everything_is_read_as_typed() -> None:
    assert Spelling({})("waht?") == as_typed("waht?") == "waht?"


@given(st.text())
def test_reading_twice_is_reading_once(text: str) -> None:
    once = SPELLING(text)
    assert SPELLING(once) == once
