"""What `persona check` says: kinds of mistakes by file and line, counts, and that what we hand out has none."""

import random
import sys
from collections import Counter
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from barreleye.data import persona_check
from barreleye.data.dress import normalize
from barreleye.data.grammar import slips
from barreleye.data.persona import compose, converse
from barreleye.data.persona_check import check
from barreleye.data.sheet import FollowUp, Persona, templates
from barreleye.data.sheet_file import load_persona, persona_names, write_new_sheet
from barreleye.data.split import overlap
from barreleye.data.template import expansions


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """The sheet that `persona new` writes, as text: complete, and in order."""
    return write_new_sheet("Lou", tmp_path_factory.mktemp("new") / "lou.yaml").read_text()


def said_of(path):
    """All that a check says of a sheet, whether it can be read or not."""
    try:
        return check(path).findings
    except ValueError as error:
        return (str(error),)


HELLO = '- "hello. mind the {thing}."'
THANKS = """\
    ask: [thank you, thank you lighthouse, thank you very much, thanks, thanks a lot, thanks lighthouse, many thanks,
      i thank you, you are kind thank you]
"""
# What stands in the new sheet, what is planted there instead, and what must be said of the line that has the mark.
PLANTED = [
    # of YAML
    ("- hi lighthouse", "§- hi lighthouse: you", "list or mapping"),
    ("- hi lighthouse", "§- hi: you: there", "not YAML"),
    ("- hi lighthouse", "§- yes", "'yes' here as yes or no, not as text; quote it"),
    ("- hi lighthouse", "§- 42", "'42' here as a number"),
    ("- hi lighthouse", "§- {boat}", "list or mapping"),
    ("- hi lighthouse", "§- *waves at you", "alias or anchor"),
    ("- hi lighthouse", "§- ''", "empty"),
    ("  goodbye:\n", "§\tgoodbye:\n", "not YAML"),
    ("sentence_case: true ", "§sentence_case: often ", "'sentence_case' is yes or no"),
    ("- later: true", "§- later: maybe", "'later' is yes or no"),
    # of keys and names
    ('name: "Lou"\n', "§", "the key 'name' is missing"),
    ("style: >-", "§stile: >-", "unknown key 'stile'; did you mean 'style'?"),
    ("    reply:    ", "§    replies:    ", "unknown key 'replies'; did you mean 'reply'?"),
    ("- later: true", "§- when: true", "unknown key 'when'; the keys here are ask, reply, later"),
    ("  goodbye:\n", "§  greeting:\n", "the key 'greeting' twice"),
    ("  goodbye:\n", "§  Good bye:\n", "not snake_case"),
    ("  goodbye:\n", "§  confused:\n", "'confused' is a key beside topics"),
    ("  boat: [ferry,", "§  said: [ferry,", "{said} is built in"),
    ("proper: [person]", "§proper: [persons]", "'persons' is no slot of this sheet; did you mean 'person'?"),
    (
        "plurals: [my stairs,",
        "§plurals: [my stares,",
        "'my stares' is no filler of this sheet; did you mean 'my stairs'?",
    ),
    ("unseen: []", "§unseen: [boat]", "'boat' is no topic of this sheet; did you mean 'boats'?"),
    # of templates
    (HELLO, '§- "hello. mind the {thin}."', "unknown slot {thin}; did you mean 'thing'?"),
    (HELLO, '§- "hello. mind the {thing."', "unbalanced '{'"),
    (HELLO, '§- "hello (you). mind the {thing}."', "one choice only"),
    (HELLO, '§- "hello | mind the {thing}."', "a '|' outside parentheses"),
    (HELLO, '§- "(hello|(hi|hey))"', "do not nest"),
    (HELLO, '§- "(mind the {thing}|)"', "can come out empty"),
    (HELLO, '§- "mind the {thing.are}"', "is not a slot"),
    (HELLO, '§- "you said {said}."', "{said} stands in replies of follow_ups alone"),
    (HELLO, '§- "mind {a:part}."', "'my lamp' brings its own article"),
    (HELLO, '§- "mind {a:seen}."', "'nine boats' is plural and takes no article"),
    ("[sea, fog,", '[§"{thing}", fog,', "slot cycle thing -> thing"),
    ("[ferry, tanker,", '[§"{boat#9}", tanker,', "slot cycle boat -> boat"),
    # of what was said before
    ("- hi lighthouse", "§- Hello Lighthouse!", "the same line twice; remove one (first on line"),
    ("ask: [goodbye,", "ask: [§hello,", "is asked in two topics, 'greeting' too; keep one (first on line"),
    ("  - ask: [what did i just say?", "§  - later: true\n    ask: [what did i just say?", "'later' belongs to"),
    # findings, of a sheet that can be read
    ("  boat: [ferry,", "§  spare: [wheel]\n  boat: [ferry,", "no line uses {spare}; write one that does, or remove"),
    ("  boat: [ferry,", '  spare: ["{rim}"]\n§  rim: [tin]\n  boat: [ferry,', "no line uses {rim}"),
    (THANKS, "§    ask: [ta, ta ta]\n", "'thanks' has few asks (2); write 8 or more that share their key words"),
    (THANKS, f"§    ask: [{', '.join(f'(ta|{n}x)' for n in range(9))}]\n", "no ask of 'thanks' can be held out"),
    ('- "please call me {person}"', "§- please call me something", "this ask does not tell {person}"),
    ('- "you are {person}, and', '§- "you are you, and', "this reply does not say {person}, which is to be remembered"),
    (HELLO, '§- "{part} is glad."', "'{part} is', and 'my stairs' is plural; write {part} {part.is}"),
    (
        HELLO,
        '§- "{part#2} are glad."',
        "'{part#2} are', and 'my lamp' is not under plurals; write {part#2} {part#2.is}",
    ),
    (HELLO, '§- "{part} (is|is not) glad."', "needs 'are'"),
    (HELLO, '§- "you look like a {boat}."', "'a old' needs 'an'; reword the line, or let a slot agree: {a:slot}"),
    (HELLO, '§- "you look like an ship."', "'an ship' needs 'a'"),
    (HELLO, '§- "mind the {part}."', "'the my' has one article too many"),
    ("a lost glove,", "§a island,", "'a island' needs 'an'"),
    ("is it raining?", "§tell me about (boats|rain)", "'tell me about boats' can be asked in 'boats' too; change or"),
    ('"is it raining?"', '§"what is your rock like, eh?"', "almost 'what is your rock like?' again (87% alike); say"),
    (
        '- "my pleasure. {part}',
        '§- "Leave, like {a:boat}, slowly and with a light on."\n      - "{part}',
        "(100% alike)",
    ),
]


def test_there_are_at_least_thirty_kinds_of_mistakes():
    assert len(PLANTED) >= 50 and len({(old, new) for old, new, _ in PLANTED}) == len(PLANTED)


@pytest.mark.parametrize(
    ("old", "new", "words"), PLANTED, ids=[f"{i} {words[:40]}" for i, (*_, words) in enumerate(PLANTED)]
)
def test_a_planted_mistake_is_named_by_file_and_line(sheet, tmp_path, old, new, words):
    assert sheet.count(old) >= 1
    planted = sheet.replace(old, new, 1)
    line = planted[: planted.index("§")].count("\n") + 1
    path = tmp_path / "mine.yaml"
    path.write_text(planted.replace("§", ""))
    said = said_of(path)
    assert all("\n" not in message and ";" in message for message in said)
    assert any(message.startswith(f"{path}:{line}: ") and words in message for message in said), said


# What is no mistake --------------------------------------------------------------------------------------------------


def test_the_new_sheet_is_in_order_and_can_say_enough(sheet, tmp_path):
    path = tmp_path / "lou.yaml"
    path.write_text(sheet)
    checked = check(path)
    assert checked.findings == ()
    assert checked.topics >= 12 and checked.conversations >= 20_000
    persona = load_persona(path)
    assert any(follow_up.later for topic in persona.topics.values() for follow_up in topic.follow_ups)
    everything = [line for _, lines in templates(persona) for line in lines]
    for form in ("{said}", "{a:boat}", "{boat.s}", "{part.is}", "{boat#2", "(hello|hi)"):
        assert any(form in line for line in everything), form


@pytest.mark.slow
def test_the_new_sheet_is_enough_for_a_training(sheet, tmp_path):
    path = tmp_path / "lou.yaml"
    path.write_text(sheet)
    assert len(compose({"lou": (load_persona(path), 20_000)}, seed=1).held_out) == 1_000


def test_a_verb_of_something_else_is_no_slip(sheet, tmp_path):
    for line in ("agnes and {boat.s} are here.", "the sound of {part} is bad.", "{boat} and {part} are here."):
        path = tmp_path / "lou.yaml"
        path.write_text(sheet.replace(HELLO, f'- "{line}"'))
        assert check(path).findings == ()


def test_other_languages_may_have_another_grammar(sheet, tmp_path):
    path = tmp_path / "lou.yaml"
    path.write_text(sheet.replace("(hola|", "(a eau|"))
    assert check(path).findings == ()


def test_without_datasketch_all_else_is_checked(sheet, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    path = tmp_path / "lou.yaml"
    path.write_text(sheet.replace("a lost glove,", "a island,"))
    assert len(check(path).findings) == 2
    assert any("pip install 'barreleye[report]'" in finding for finding in check(path).findings)


# What the page for makers says ---------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "personas.md").read_text(encoding="utf-8")


@pytest.fixture
def example(tmp_path):
    path = tmp_path / "lou.yaml"
    path.write_text(PAGE.split("```yaml\n")[1].split("```")[0])
    return path


def test_the_sheet_on_the_page_has_every_key_there_is(example):
    persona = load_persona(example)
    assert persona.model_fields_set == set(Persona.model_fields)
    assert {key for follow_up in persona.topics["user_name"].follow_ups for key in follow_up.model_fields_set} == set(
        FollowUp.model_fields
    )
    assert all("few asks" in finding for finding in check(example).findings)


def test_each_form_on_the_page_becomes_what_it_says(example):
    persona = load_persona(example)
    table = PAGE.split("for instance | |\n|---|---|---|\n")[1].split("\n\n")[0]
    rows = [row.replace("\\|", "\0").split("|") for row in table.splitlines()]
    assert len(rows) == 8
    for row in rows:
        template = row[1].strip().strip("`").replace("\0", "|")
        assert row[2].strip() in set(expansions(template, persona.fillers, persona.plurals)), template


# Counts --------------------------------------------------------------------------------------------------------------

PIP = """\
name: Pip
description: a test fish
style: short
slots:
  food: [snow, krill, plankton, "{size} jelly"]
  size: [tiny, soft, round]
topics:
  greeting:
    ask: [hello, hi there, "(well|oh) hello"]
    reply: [hello., the water is good today.]
  eating:
    ask: ["do you like {food}?", "do you like plankton?", "what do you eat?"]
    reply: ["{food}. not {food#2}.", "i like {food}."]
    follow_ups:
      - ask: ["is it good?"]
        reply: ["{food} is."]
confused:
  ask: ["what is a car?", asdf]
  reply: [i do not know that.]
"""


def test_counts(tmp_path):
    path = tmp_path / "pip.yaml"
    path.write_text(PIP)
    checked = check(path)
    assert (checked.name, checked.topics, checked.asks, checked.replies) == ("Pip", 3, 3 + 3 + 2, 2 + 2 + 1 + 1)
    foods, two_foods = 3 + 3, 3 * 2 + 3 * 3 + 3 * 3  # three as they are, and a jelly of three sizes
    assert checked.prompts == 4 + (foods + 1) + 2
    assert checked.reply_texts == 2 + (two_foods + foods) + foods + 1
    # "do you like {food}?" binds the first food, in each of these ways once
    assert checked.conversations == 4 * 2 + 3 * (two_foods + foods) + 2 * 1
    assert [len(sample.messages) % 2 for sample in checked.samples] == [0] * persona_check.SAMPLES
    with pytest.raises(FrozenInstanceError):
        checked.asks = 0


def test_it_fails_as_loading_does(tmp_path):
    path = tmp_path / "pip.yaml"
    path.write_text(PIP.replace("hi there", "yes"))
    with pytest.raises(ValueError, match=r"pip.yaml:9: .*quote it"):
        check(path)


# The characters that come with the package ---------------------------------------------------------------------------

built_in = pytest.mark.parametrize("name", persona_names())


def test_there_are_four_characters():
    assert persona_names() == ["bard", "cat", "fish", "tycoon"]


@built_in
def test_a_built_in_sheet_is_in_order(name):
    checked = check(name)
    assert checked.findings == ()
    assert checked.topics >= 60


@built_in
@pytest.mark.slow
def test_a_built_in_character_has_enough_to_say(name):
    persona = load_persona(name)
    sides = compose({name: (persona, 60_000)}, seed=1)
    texts = [tuple(normalize(m.content) for m in c.messages) for c in sides.train]
    assert len(set(texts)) == len(texts) == 60_000
    assert len({prompt for c in texts for prompt in c[::2]}) >= 5_000
    assert len({reply for c in texts for reply in c[1::2]}) >= 30_000
    turns = Counter(len(c) // 2 for c in texts)
    assert max(turns) <= 5 and turns[1] <= 0.75 * len(texts)
    assert set(persona.all_topics) - set(persona.unseen) == {c.topic for c in sides.train}
    assert len(sides.held_out) == 3_000 and len(sides.unseen_rows) == len(sides.unseen_topics) == 1_000
    assert overlap(sides.train, sides.held_out) == overlap(sides.train, sides.unseen_topics) == []


@built_in
def test_built_in_replies_have_no_slip_of_grammar(name):
    persona, rng = load_persona(name), random.Random(0)
    replies = [m.content for c in converse(persona, n=3_500, seed=2) for m in c.messages if m.role == "assistant"]
    assert len(replies) >= 5_000
    assert [slip for reply in rng.sample(replies, 5_000) for slip in slips(reply.lower(), persona.plurals)] == []
