import random

import pytest

from barreleye.data.template import Bindings, Slot, expansions, longest, may_be_empty, parse, render, slots_of

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


def test_longest_is_the_length_of_the_longest_expansion_or_more():
    sizes = {"kind": 4, "food": 10}
    for template in ("(a|bcd) {food}", "({food}|{kind}) x", "plain"):
        assert longest(template, sizes) == max(map(len, texts(template)))


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
    ],
)
def test_broken_templates_say_what_is_wrong(template, problem):
    with pytest.raises(ValueError, match=problem) as error:
        parse(template)
    assert "\n" not in str(error.value) and ";" in str(error.value)
