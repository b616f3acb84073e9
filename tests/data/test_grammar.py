import pytest

from barreleye.data.grammar import article, has_determiner, inflect, plural_of, slips


@pytest.mark.parametrize(
    "phrase",
    ["an egg", "a unicorn", "an hour", "a one-eyed snail", "an old tug", "an honest fish", "a useful eel"],
)
def test_the_article_goes_by_sound(phrase):
    said, noun = phrase.split(" ", 1)
    assert article(noun) == said
    assert inflect(noun, "a", plural=False) == phrase
    assert list(slips(f"i saw {phrase}.")) == []
    wrong = {"a": "an", "an": "a"}[said]
    assert list(slips(f"i saw {wrong} {noun}.")) == [f"'{wrong} {noun.split()[0]}' needs '{said}'"]


@pytest.mark.parametrize(
    ("one", "many"),
    [("crumb", "crumbs"), ("mouse", "mice"), ("flake of snow", "flakes of snow"), ("box", "boxes"), ("fly", "flies")],
)
def test_plurals(one, many):
    assert plural_of(one) == inflect(one, "s", plural=False) == many
    assert inflect(many, "s", plural=True) == many


@pytest.mark.parametrize(("form", "many"), [("is", "are"), ("was", "were"), ("has", "have"), ("does", "do")])
def test_verbs_agree(form, many):
    assert inflect("my head", form, plural=False) == form
    assert inflect("my eyes", form, plural=True) == many


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A egg.", "'A egg' needs 'an'"),
        ("it is AN snail", "'AN snail' needs 'a'"),
        ("a the crumb", "'a the' has one article too many"),
        ("the my head", "'the my' has one article too many"),
        ("my eyes is cold", "'my eyes is' needs 'are'"),
        ("well, my eyes has seen it", "'my eyes has' needs 'have'"),
    ],
)
def test_a_slip_is_named(text, said):
    assert list(slips(text, {"my eyes", "two moons"})) == [said]


@pytest.mark.parametrize(
    "text",
    [
        "my eyes are cold",
        "the colour of my eyes is green",
        "what sits under my eyes was never clear",
        "green and my eyes is no sentence, but who knows what it ends",
        "my eyes isolate me",
        "i gave her a crumb, and his the best one",
        "plan a-one, and an x",
        "banana egg",
        "",
    ],
)
def test_what_may_be_right_is_no_slip(text):
    assert list(slips(text, {"my eyes"})) == []


@pytest.mark.parametrize(
    ("text", "has"), [("a crumb", True), ("My tail", True), ("half a worm", True), ("crumb", False), ("anchor", False)]
)
def test_has_determiner(text, has):
    assert has_determiner(text) is has
