"""Variety, loops and grammar, counted by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barreleye.data.dress import normalize
from barreleye.evaluation.diversity import Diversity, distinct, diversity, has_loop

TEXTS = st.lists(st.text("ab .", max_size=20), min_size=1, max_size=6)


def share(replies: list[str], n: int) -> float:
    figure = distinct(replies, n)
    assert figure is not None
    return figure.value


def test_distinct_words_and_pairs() -> None:
    replies = ["The fish sees the fish.", "the snow"]
    assert share(replies, 1) == pytest.approx(4 / 7)
    assert share(replies, 2) == pytest.approx(4 / 5)  # "the fish" twice
    assert share(replies * 2, 1) == pytest.approx(4 / 14)


def measure(replies: list[str]) -> Diversity:
    return diversity({"said": replies})[0]["said"]


def test_replies_without_words_have_no_share_of_distinct_ones() -> None:
    figures = measure(["", "...", " "])
    assert figures.distinct_2 is None and figures.loops.value == figures.slips.value == 0
    assert measure(["", "so"]).distinct_1 is not None


@given(TEXTS, st.integers(1, 2))
def test_distinct_is_a_plain_count(replies: list[str], n: int) -> None:
    words = [normalize(reply).split() for reply in replies]
    grams = [tuple(own[i : i + n]) for own in words for i in range(len(own) - n + 1)]
    figure = distinct(replies, n)
    assert (figure is not None) == bool(grams)
    if figure:
        assert figure.value == pytest.approx(len(set(grams)) / len(grams))
        assert figure.low <= figure.value + 1e-9 and figure.value <= figure.high + 1e-9


@pytest.mark.parametrize(
    "reply",
    [
        "i am a fish i am a fish",
        "so I see. I am, a fish! i am a fish and so on",
        "one two three four one two three four",
        "yes. no. yes. maybe. YES!",
        "la la la la la la",
    ],
)
def test_a_loop(reply: str) -> None:
    assert has_loop(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "...",
        "ha ha ha ha ha",  # two words of one
        "food, food, come down, food",
        "i am a fish, and i am a fish",  # not right after itself
        "yes. no. yes. no, maybe.",
        "dark dark. wet dark. dark dark.",
    ],
)
def test_no_loop(reply: str) -> None:
    assert not has_loop(reply)


def test_slips_are_counted_per_reply() -> None:
    replies = ["My eyes is cold. i saw a egg.", "my eyes are cold.", "an egg.", "so."]
    groups, rows = diversity({"said": replies, "nothing": [""]}, ["my eyes"])
    figures = groups["said"]
    assert groups["nothing"].slips.value == 0 and rows.pop()["group"] == "nothing"
    assert figures.slips.value == 2 / 4 and figures.slips.n == 4
    assert [len(row["slips"]) for row in rows] == [2, 0, 0, 0]
    assert "'my eyes is' needs 'are'" in rows[0]["slips"]
    assert measure(replies).slips.value == 1 / 4  # without a sheet, articles alone


def test_loops_are_a_share() -> None:
    groups, rows = diversity({"said": ["i am a fish i am a fish", "hello", "no", "so"]})
    figures = groups["said"]
    assert figures.loops.value == 1 / 4 and [row["loop"] for row in rows] == [True, False, False, False]
