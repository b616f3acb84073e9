import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barreleye.data.template import (
    MOST_TO_COVER,
    Bindings,
    Slot,
    covering,
    expansions,
    longest,
    may_be_empty,
    parse,
    render,
    slots_of,
    ways,
)

SLOTS = {"food": ("snow", "{kind} jelly", "krill"), "kind": ("tiny", "soft")}


def texts(template: str) -> set[str]:
    return set(expansions(template, SLOTS))


def test_expansions_list_every_choice_and_filler():
    assert texts("(hi|hello|) there") == {"hi there", "hello there", "there"}
    assert texts("i eat {food}") == {"i eat snow", "i eat tiny jelly", "i eat soft jelly", "i eat krill"}
    assert texts("are you (really |)a {kind} fish") == {
        f"are you {really}a {kind} fish" for really in ("really ", "") for kind in ("tiny", "soft")
    }


def test_a_slot_is_bound_once_and_its_second_filler_differs():
    assert texts("{kind}, {kind}") == {"tiny, tiny", "soft, soft"}
    assert texts("{kind}, {kind#2}") == {"tiny, soft", "soft, tiny"}
    assert texts("{kind#2}, {kind}") == {"tiny, soft", "soft, tiny"}
    assert len(list(expansions("{food} {food#2} {food#3}", SLOTS))) == 6 * 2


def test_a_filler_shares_the_bindings_of_the_template_around_it():
    assert "tiny: soft jelly" not in texts("{kind}: {food}")
    assert "tiny: tiny jelly" in texts("{kind}: {food}")


def test_render_draws_only_what_expansions_lists_and_keeps_bindings():
    rng = random.Random(0)
    drawn = {render("(a|b) {food} {kind}", SLOTS, {}, rng.choice) for _ in range(500)}
    assert drawn == texts("(a|b) {food} {kind}")
    bound: Bindings = {}
    first = render("{food}", SLOTS, bound, rng.choice)
    assert {render("{food}", SLOTS, bound, rng.choice) for _ in range(50)} == {first}


def test_an_empty_choice_leaves_no_double_or_outer_space():
    assert texts("(oh|) i am (so|) glad (now|)") >= {"i am glad", "oh i am so glad now"}


def test_slots_of_finds_those_inside_choices():
    assert slots_of("{food} ({kind}|{food#2}|x)") == [Slot("food"), Slot("kind"), Slot("food", 2)]


def test_a_form_is_of_the_filler_that_its_slot_stands_for():
    body = {"body": ("my head", "my eyes", "an ear")}
    verbs = "{body} {body.is} cold, {body.was} wet, {body.has} hope and {body.does} not care"
    assert set(expansions(verbs, body, {"my eyes"})) == {
        "my head is cold, was wet, has hope and does not care",
        "my eyes are cold, were wet, have hope and do not care",
        "an ear is cold, was wet, has hope and does not care",
    }
    things = {"thing": ("egg", "box of mice", "glass eyes")}
    assert set(expansions("{a:thing} or many {thing.s}", things | {"thing": ("egg", "box of mice")})) == {
        "an egg or many eggs",
        "a box of mice or many boxes of mice",
    }
    assert set(expansions("{thing.s}", things, {"glass eyes"})) == {"eggs", "boxes of mice", "glass eyes"}


def test_forms_of_the_second_filler_and_of_nested_ones():
    slots = {"x": ("egg", "{size} ant"), "size": ("old", "big")}
    assert set(expansions("{a:x#2}, not {x.s}", slots)) == {
        "an old ant, not eggs", "a big ant, not eggs", "an egg, not old ants", "an egg, not big ants",
    }  # fmt: skip
    assert slots_of("{a:x#2} {x.s} {x#3.is}") == [Slot("x", 2, "a"), Slot("x", 1, "s"), Slot("x", 3, "is")]
    assert Slot("x", 3, "is").key == Slot("x", 3)


def test_longest_is_the_length_of_the_longest_expansion_or_more():
    sizes = {"kind": 4, "food": 10}
    for template in ("(a|bcd) {food}", "({food}|{kind}) x", "plain"):
        assert longest(template, sizes) == max(map(len, texts(template)))
    for template in ("{a:kind}", "{kind.s} {kind.does}"):
        assert longest(template, sizes) >= max(map(len, texts(template)))


# Covering and counting -----------------------------------------------------------------------------------------------

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


def test_covering_says_every_option_and_filler_in_few_texts():
    slots = {"letter": LETTERS, "food": SLOTS["food"], "kind": SLOTS["kind"]}
    made = list(covering("{letter} (and|or) {food}", slots))
    words = {word for text in made for word in text.split()}
    assert words == {*LETTERS, "and", "or", "snow", "krill", "tiny", "soft", "jelly"}
    assert len(LETTERS) <= len(made) < 3 * len(LETTERS)
    assert made == list(covering("{letter} (and|or) {food}", slots)), "the same ones every time"
    assert set(made) <= set(expansions("{letter} (and|or) {food}", slots))


def test_covering_has_an_end():
    assert list(covering("as it is", {})) == ["as it is"]
    assert len(list(covering("{letter} {letter#2}", {"letter": LETTERS}))) == MOST_TO_COVER


PIECES = st.sampled_from(
    ["x ", "{food} ", "{food#2} ", "{kind} ", "{a:kind} ", "({food}|{kind#2}|x) ", "(a|b|) ", "{food#3} ", "{deep} "]
)


@given(st.lists(PIECES, min_size=1, max_size=5), st.integers(0, 5))
def test_ways_counts_what_expansions_lists(pieces, cut):
    slots = SLOTS | {"deep": ("{kind} {food}", "deep", "(very|so) deep")}
    first, second = "".join(pieces[:cut]), "".join(pieces[cut:])
    assert ways([[first], [second]], slots) == sum(1 for _ in expansions(first + second, slots))


def test_ways_adds_up_over_the_templates_of_a_list():
    asks, replies = ["{food}?", "hello"], ["{food}.", "{kind} (or|not)."]
    assert ways([asks], SLOTS) == 4 + 1
    # "{food}?" binds the kind in two of its four ways
    assert ways([asks, replies], SLOTS) == (4 + (2 * 2 * 2 + 2 * 2)) + (4 + 2 * 2)
    assert ways([], SLOTS) == 1 and ways([[]], SLOTS) == 0


def test_ways_can_be_many():
    assert ways([["{letter} {letter#2} {letter#3}"]], {"letter": LETTERS}) == 26 * 25 * 24


@pytest.mark.parametrize(
    ("template", "empty"), [("(a|)", True), ("(a| ) (|b)", True), ("(a|b)", False), ("x(a|)", False), ("{food}", False)]
)
def test_may_be_empty(template, empty):
    assert may_be_empty(template) is empty


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("hi (there", r"unbalanced '\('"),
        ("hi there)", r"unbalanced '\)'"),
        ("hi {food", "unbalanced '{'"),
        ("hi food}", "unbalanced '}'"),
        ("(a|{food)", "unbalanced '{'"),
        ("(a|(b|c))", "do not nest"),
        ("a|b", "outside parentheses"),
        ("(laughs)", "one choice only"),
        ("{}", "is not a slot"),
        ("{Food}", "is not a slot"),
        ("{food#1}", "is not a slot"),
        ("{food.are}", "is not a slot.*{slot.is}, {slot.was}"),
        ("{an:food}", "is not a slot.*{a:slot} with its article"),
        ("{a:food.s}", "is not a slot"),
        ("{food.s#2}", "is not a slot"),
    ],
)
def test_broken_templates_say_what_is_wrong(template, problem):
    with pytest.raises(ValueError, match=problem) as error:
        parse(template)
    assert "\n" not in str(error.value) and ";" in str(error.value)
