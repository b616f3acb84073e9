import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barreleye.data import dress as module
from barreleye.data.dress import TYPO_RATE, capital_names, dress, normalize, sentence_case, typo


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("HELLO??", "hello"),
        ("  Don't   you, then? ", "dont you then"),
        ("ﬁsh", "fish"),
        ("Straße", "strasse"),
        ("¿Qué tal?", "qué tal"),
        ("...", "..."),
        (" ?! ", "?!"),
        ("…", "..."),
        ("🐟!", "🐟"),
        ("hello 👋🏽!! ❤️", "hello"),
        ("a\u200bb", "ab"),
        ("", ""),
    ],
)
def test_normalize(text, normal):
    assert normalize(text) == normal


@given(st.text())
def test_normalize_is_idempotent(text):
    assert normalize(normalize(text)) == normalize(text)


def test_dress_reaches_every_way_to_write_hello():
    rng = random.Random(0)
    seen = {dress("hello", rng) for _ in range(5000)}
    assert {"hello", "hello??", "hello...", "hello!!", "hello.", "hello!"} <= seen
    assert any(normalize(text) != "hello" for text in seen)


def test_dress_drops_and_doubles_the_mark_of_a_question():
    rng = random.Random(0)
    seen = {dress("why is that?", rng) for _ in range(3000)}
    assert {"why is that?", "why is that", "why is that??", "why is that!!"} <= seen
    assert not any(text.endswith("?.") for text in seen)


@given(st.text(min_size=1).filter(str.strip), st.integers())
def test_dress_never_empties_a_text(text, seed):
    assert dress(text, random.Random(seed)).strip()


@given(st.text(alphabet="abcdefg i?!.,'", min_size=1).filter(str.strip), st.integers())
def test_without_typos_normalize_undoes_a_dress(text, seed):
    dressed = dress(text, random.Random(seed), typo_rate=0)
    assert normalize(dressed) == normalize(text) or not normalize(text).isalnum()


def test_a_dress_may_end_in_a_smile():
    rng = random.Random(0)
    seen = {dress("hello", rng, typo_rate=0) for _ in range(5000)}
    assert {text.split()[-1] for text in seen} >= set(module.SMILES)
    assert len({text[-1] for text in seen if ord(text[-1]) in module.EMOJI}) > 100
    assert {normalize(text) for text in seen} == {"hello"}


def test_who_is_asked_may_be_named_but_not_twice():
    rng = random.Random(0)
    seen = {dress("what do you eat?", rng, name="barry", typo_rate=0) for _ in range(3000)}
    assert {"barry, what do you eat?", "what do you eat, barry?", "what do you eat?"} <= seen
    assert {dress("barry?", rng, name="barry", typo_rate=0).count("barry") for _ in range(3000)} == {1}
    assert all("barry" not in dress("?", rng, name="barry") for _ in range(3000))


def test_typos_are_one_step_away_and_as_many_as_asked_for():
    rng = random.Random(0)
    assert {len(typo("hello", rng)) for _ in range(200)} == {4, 5, 6}
    assert "ehllo" in {typo("hello", rng) for _ in range(300)}
    assert typo("hi", rng) == "hi"
    for rate in (TYPO_RATE, 0.5):
        dressed = (dress("what do you eat?", rng, typo_rate=rate) for _ in range(10_000))
        typos = sum(normalize(text) != "what do you eat" for text in dressed)
        assert rate * 0.9 < typos / 10_000 < rate * 1.1


def test_what_is_told_comes_without_a_typo():
    rng = random.Random(0)
    seen = [dress("call me jean luc", rng, told=["jean luc"]) for _ in range(3000)]
    assert all("jean luc" in text for text in seen)
    assert any("call me" not in text for text in seen), "the other words still get typos"


# Names and capitals --------------------------------------------------------------------------------------------------


def test_names_are_whole_words():
    assert capital_names("ann, anna and ann's hat", ["ann"]) == "Ann, anna and Ann's hat"
    assert capital_names("no a.b here, axb", ["a.b"]) == "no A.b here, axb"
    assert capital_names("hello", []) == "hello"


@pytest.mark.parametrize(
    ("text", "cased"),
    [
        ("hello. i am here! are you? yes", "Hello. I am here! Are you? Yes"),
        ("so am i, i'm sure", "So am I, I'm sure"),
        ('he said "no." and i left', 'He said "no." And I left'),
        ('"hi," i said', '"Hi," I said'),
        ("one line\nanother line", "One line\nAnother line"),
        ("élan. über", "Élan. Über"),
        ("wait... what", "Wait... What"),
        ("the isle of pi-i and i-beams", "The isle of pi-i and i-beams"),
        ("3 fish. 4 more", "3 fish. 4 more"),
        ("", ""),
    ],
)
def test_sentence_case(text, cased):
    assert sentence_case(text) == cased
    assert sentence_case(cased) == cased
