"""What is mended and, as important, what is left alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barreleye.data.chat_format import Conversation, Message
from barreleye.data.dress import typo
from barreleye.data.spelling import OFTEN, OWN, RARER, Spelling, as_typed, count_words

COUNTS = {"what": 9000, "do": 8000, "you": 9900, "your": 4000, "eat": 300, "wht": 20, "hat": 145, "homework": 100}
COUNTS |= {"time": 5000, "it's": 60, "word": 5000, "cord": 51, "yes": 900, "eyes": 400}
SPELLING = Spelling(COUNTS)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("waht do you eat?", "what do you eat?"),  # moved
        ("homewrk", "homework"),  # dropped
        ("HOMEEWORK!", "homework!"),  # added
        ("my homewotk, please", "my homework, please"),  # changed
        ("wht", "what"),  # short, and training has this slip
        ("yuor", "your"),  # the same letters, though "you" is commoner
        ("oyu", "you"),
        ("i’ts", "it's"),
        ("it’s", "it's"),  # as phones write it
    ],
)
def test_one_slip_is_mended(typed: str, read: str) -> None:
    assert SPELLING(typed) == read


@pytest.mark.parametrize(
    "typed",
    [
        "What DO you eat?  ",  # right as it is: case, marks and spaces stay
        "cord",  # rarer than "word", and yet a word
        "tim and yot",  # short, and training has no such slip: it may be a name
        "yes",  # the same two letters first as "eyes", turned, and yet another word
        "zzyzx h2o 14 🐟 ...",  # nothing near, digits, no words
        "hmewrk",  # two slips
        "tomework",  # the first letter is seldom wrong
        "",
    ],
)
def test_what_may_be_meant_is_left_alone(typed: str) -> None:
    assert SPELLING(typed) == typed
    assert Spelling({"eyes": 400})("yes") == "yes"


def test_a_very_long_word_is_left_alone_at_once() -> None:
    assert SPELLING("a" * 200_000) == "a" * 200_000


def test_a_slip_that_training_has_too_is_mended_while_it_is_rare() -> None:
    counts = {"homework": 5 * RARER, "homewrok": 4}
    assert Spelling(counts)("homewrok") == "homework"
    assert Spelling(counts | {"homewrok": 5})("homewrok") == "homewrok"


def test_what_was_said_often_is_a_word_whatever_else_was() -> None:
    counts = {"like": 10**6, "lake": OWN, "lyke": OWN - 1}
    assert Spelling(counts)("lake lyke") == "lake like"


def test_what_was_hardly_ever_said_is_not_what_was_meant() -> None:
    assert Spelling({"homework": OFTEN - 1})("homewrok") == "homewrok"


def test_the_commoner_of_two_words_is_meant() -> None:
    assert Spelling({"lesson": 30, "lessen": 300})("lessn") == "lessen"


def test_words_are_counted_in_lowercase_and_of_the_person_alone() -> None:
    chat = Conversation((Message("user", "Why? WHY, don't you"), Message("assistant", "blub")))
    assert count_words([chat, chat]) == {"why": 4, "don't": 2, "you": 2}


def test_without_words_everything_is_read_as_typed() -> None:
    assert Spelling({})("waht?") == as_typed("waht?") == "waht?"


@given(st.lists(st.sampled_from(sorted(COUNTS)), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_reading_twice_is_reading_once(words: list[str], rng: random.Random) -> None:
    once = SPELLING(" ".join(typo(word, rng) for word in words))
    assert SPELLING(once) == once
