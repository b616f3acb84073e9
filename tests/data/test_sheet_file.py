"""Every way a sheet can be wrong, each with its line; that covers the checks of sheet.py too."""

import pytest
from pydantic import ValidationError

from barreleye.data import sheet_file
from barreleye.data.sheet import Persona
from barreleye.data.sheet_file import load_persona, persona_names, read_sheet, write_new_sheet

SHEET = """\
name: Pip
description: a small test fish
style: short
slots:
  food: [snow, krill]
  home: [a hole]
topics:
  greeting:
    ask:
      - hello
      - hi there
    reply:
      - hello. have some {food}.
    follow_ups:
      - ask: ["which food?"]
        reply: ["{food}."]
  eating:
    ask: ["what do you eat?"]
    reply: [snow, "{food#2} and {food}"]
follow_ups:
  - ask: ["why?"]
    reply: [because.]
confused:
  ask: ["what is a car?"]
  reply: [i do not know.]
"""


def load(tmp_path, text):
    path = tmp_path / "pip.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_persona(path)


def test_a_sheet_is_read_as_written(tmp_path):
    persona = load(tmp_path, SHEET)
    assert list(persona.all_topics) == ["greeting", "eating", "confused"]
    assert persona.topics["greeting"].ask == ("hello", "hi there")
    assert persona.topics["greeting"].follow_ups[0].reply == ("{food}.",)
    assert persona.slots["food"] == ("snow", "krill")
    assert persona == load_persona(str(tmp_path / "pip.yaml"))


def test_byte_order_mark_and_crlf_are_fine(tmp_path):
    windows = b"\xef\xbb\xbf" + SHEET.replace("\n", "\r\n").encode()
    assert load(tmp_path, windows) == load(tmp_path, SHEET)


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("- hello\n", "- hello: there: you\n", 10, "not YAML"),
        ("style: short", "style: 'short", None, "not YAML"),
        ("    ask:\n      - hello", "\task:\n      - hello", 9, "not YAML"),
        ("- hi there", "- yes", 11, "'yes' here as yes or no, not as text; quote it"),
        ("- hi there", "- 42", 11, "'42' here as a number, not as text; quote it"),
        ("- hi there", "- 2024-99-99", 11, "as a date"),
        ("- hi there", "- ~", 11, "as nothing"),
        ("- hi there", "-", 11, "as nothing"),
        ("- hi there", "- !wow there", 11, "the tag !wow"),
        ("- hi there", "- hi: there", 11, "list or mapping"),
        ("- hi there", "- {food}", 11, "list or mapping"),
        ("- hi there", "- *waves fin", 11, "alias or anchor"),
        ("- hi there", "- *waves* fin", 11, "not YAML.* \\* "),
        ("- hi there", "- &fish hi", 11, "alias or anchor"),
        ("- hi there", "- ''", 11, "empty"),
        ("- hi there", "- (hi|)", 11, "can come out empty"),
        ("- hi there", "- Hello?", 11, r"the same line twice; remove one \(first on line 10\)"),
        ("- hi there", "- hi {foood}", 11, r"unknown slot \{foood\}; did you mean 'food'\?"),
        ("- hi there", "- hi {zzz}", 11, r"unknown slot \{zzz\}; add it under slots"),
        ("- hi there", "- hi (there", 11, r"unbalanced '\('"),
        ("- hi there", "- hi food}", 11, "unbalanced '}'"),
        ("- hi there", "- hi {home#2}", 11, r"\{home#2\} needs 2 fillers, slot 'home' has 1"),
        ("[snow, krill]", "[snow, snow]", 5, "the same line twice"),
        ("[snow, krill]", "[]", 5, "'food' is empty"),
        ("[snow, krill]", "snow", 5, "'food' needs a list"),
        ("[snow, krill]", '["{home}", b]\n  home: [c]', 7, "the key 'home' twice"),
        ("[a hole]", '["a {food}", "{home}s"]', 6, "slot cycle home -> home"),
        ("snow, krill", "snow " * 900 + ", krill", 5, "4000 characters"),
        ('ask: ["what do you eat?"]', "ask: [HELLO]", 18, r"asked in two topics, 'greeting' too.*line 10\)"),
        ('ask: ["what is a car?"]', "ask: [hello]", 24, "asked in two topics, 'greeting' too"),
        ("  eating:", "  confused:", 17, "beside topics"),
        ("  eating:", "  Eat it:", 17, "snake_case"),
        ("  eating:", "  no:", 17, "yes or no"),
        ("  eating:", "  [a, b]:", 17, "where a key should be"),
        ("    reply: [snow,", "    replies: [snow,", 19, "unknown key 'replies'; did you mean 'reply'"),
        ("    follow_ups:", "    follow_up:", 14, "unknown key 'follow_up'; did you mean 'follow_ups'"),
        ('  - ask: ["why?"]', '  - asks: ["why?"]', 21, "unknown key 'asks'; did you mean 'ask'"),
        ('- ask: ["which food?"]', '- which food?\n      - ask: ["why?"]', 15, "this entry needs keys of its own"),
        ("name: Pip\n", "", 1, "'name' is missing; add it"),
        ("name: Pip", "name: 7", 1, "a number"),
        ("style: short", "style:", 3, "as nothing"),
        ("style: short", "style: short\nmood: dark", 4, "unknown key 'mood'; .*keys here are name"),
        ("style: short", "style: short\nsentence_case: 1", 4, "'sentence_case' is yes or no; write true or false"),
        ("style: short", "style: short\nsentence_case: [true]", 4, "'sentence_case' is yes or no"),
        (
            "style: short",
            "style: short\nplurals: [krills]",
            4,
            "'krills' is no filler of this sheet; did you mean 'krill'",
        ),
        ("style: short", "style: short\nplurals: [krill,\n  zzz]", 5, "'zzz' is no filler of this sheet; remove it"),
        ("style: short", "style: short\nproper: [foods]", 4, "'foods' is no slot of this sheet; did you mean 'food'"),
        ("style: short", "style: short\nunseen: [confused]", 4, "'confused' is no topic of this sheet"),
        ("style: short", "style: short\nunseen: [greeting, eating]", 4, "every topic is held out, none is left"),
        ("  home: [a hole]", "  said: [a hole]", 6, r"\{said\} is built in.*choose another name"),
        ("- hi there", "- hi {said}", 11, r"\{said\} stands in replies of follow_ups alone; move"),
        ("- hello. have some {food}.", "- you said {said}.", 13, r"\{said\} stands in replies of follow_ups alone"),
        ('- ask: ["why?"]', '- ask: ["{said}?"]', 21, r"\{said\} stands in replies of follow_ups alone"),
        ("- hi there", '- "hi {a:home}"', 11, r"\{a:home\}: 'a hole' brings its own article; write the bare noun"),
        ("- hi there", '- "hi {home.s}"', 11, r"\{home.s\}: 'a hole' brings its own article"),
        (
            '  - ask: ["why?"]',
            '  - later: true\n    ask: ["why?"]',
            21,
            "'later' belongs to a topic that tells something",
        ),
        (
            '      - ask: ["which',
            '      - later: true\n        ask: ["which',
            17,
            "'later' remembers nothing; repeat a slot",
        ),
        ("topics:\n", "topics:\n---\n", None, "not YAML"),
        ("hi there", "[[[[[[[[[[[", None, "not YAML|too deep"),
        ("hi there", "hi \x01", 11, "control character|not YAML"),
        ("hi there", "hi \0", 11, "NUL"),
    ],
)
def test_a_wrong_sheet_gives_one_line_with_its_place(tmp_path, old, new, line, problem):
    assert old in SHEET
    with pytest.raises(ValueError, match=problem) as error:
        load(tmp_path, SHEET.replace(old, new, 1))
    message = str(error.value)
    assert "\n" not in message and ";" in message
    place = f"{tmp_path / 'pip.yaml'}:"
    assert message.startswith(place)
    if line is not None:
        assert message.startswith(f"{place}{line}: "), message


def test_a_filler_may_name_another_slot(tmp_path):
    assert load(tmp_path, SHEET.replace("snow, krill", '"snow of {home}", krill', 1))


def test_flags_are_yes_or_no_and_off_unless_told(tmp_path):
    told = SHEET.replace("style: short", "style: short\nsentence_case: yes\nplurals: [snow]").replace(
        "- hi there", "- i eat {food}"
    )
    told = told.replace('- ask: ["which food?"]', '- later: true\n        ask: ["which food?"]')
    persona = load(tmp_path, told)
    assert persona.sentence_case and persona.topics["greeting"].follow_ups[0].later
    persona = load(tmp_path, SHEET)
    assert not persona.sentence_case and not persona.topics["greeting"].follow_ups[0].later


def test_a_plural_takes_no_article(tmp_path):
    plural = SHEET.replace("style: short", "style: short\nplurals: [snow]").replace("- hi there", '- "{a:food}"')
    with pytest.raises(
        ValueError, match=r"pip.yaml:12: \{a:food\}: 'snow' is plural and takes no article; take it out"
    ):
        load(tmp_path, plural)
    assert load(tmp_path, plural.replace("{a:food}", "{food.s} {food.is}"))


# Lines of places -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("slots", "home"), 6),
        (("topics", "greeting"), 8),
        (("topics", "greeting", "ask"), 9),
        (("topics", "greeting", "ask", 1), 11),
        (("topics", "greeting", "follow_ups", 0, "reply", 0), 16),
        (("follow_ups", 0, "ask"), 21),
        (("confused", "ask", 0), 24),
        ((), 1),
        (("proper",), 1),
    ],
)
def test_each_place_has_its_line(tmp_path, place, line):
    path = tmp_path / "pip.yaml"
    path.write_text(SHEET)
    persona, file, text, line_of = read_sheet(path)
    assert persona == load_persona(path) and file == str(path) and text == SHEET
    assert line_of(place) == line


# A new one -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Lou", "Mary Ann O'Neil", "Zoë-2", "o", "李雷", "x" * 40])
def test_a_new_sheet_has_the_name_that_it_was_given(tmp_path, name):
    persona = load_persona(write_new_sheet(name, tmp_path / "mine.yaml"))
    assert persona.name == name and name in persona.description
    assert any(name in reply for reply in persona.topics["name"].reply)


@pytest.mark.parametrize(
    ("name", "file"), [("Lou", "lou.yaml"), ("Mary Ann O'Neil", "mary_ann_o_neil.yaml"), ("Zoë-2", "zoë_2.yaml")]
)
def test_a_new_sheet_goes_to_a_file_of_its_name(tmp_path, monkeypatch, name, file):
    monkeypatch.chdir(tmp_path)
    assert str(write_new_sheet(name)) == file
    assert load_persona(file).name == name


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "lou.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"lou.yaml: is there already; .*--out"):
        write_new_sheet("Lou", tmp_path / "lou.yaml")
    assert (tmp_path / "lou.yaml").read_text() == "mine"


@pytest.mark.parametrize("name", ["", " ", "{boat}", 'a"b', "a: b\nc", "(a|b)", "x" * 41, "7", "../x"])
def test_a_name_that_a_line_cannot_hold_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is no name to write in a sheet; use letters"):
        write_new_sheet(name, tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()


# Sheets that are too much --------------------------------------------------------------------------------------------


def test_cycles_through_several_slots_are_named(tmp_path):
    text = SHEET.replace("[snow, krill]", '["{home}"]').replace("[a hole]", '[a, "in {food}"]').replace("{food#2}", "x")
    with pytest.raises(ValueError, match=r"pip.yaml:5: slot cycle food -> home -> food"):
        load(tmp_path, text)


@pytest.mark.parametrize("order", [1, -1])
def test_a_long_chain_of_slots_is_refused_in_either_order(tmp_path, order):
    chain = [f'  s{i}: ["{{s{i + 1}}}"]' for i in range(2000)] + ["  s2000: [end]"]
    text = SHEET.replace("slots:\n", "slots:\n" + "\n".join(chain[::order]) + "\n")
    with pytest.raises(ValueError, match="nest deeper"):
        load(tmp_path, text)


def test_slots_that_multiply_are_refused(tmp_path):
    bomb = "\n".join(f'  s{i}: ["{f"{{s{i + 1}}}" * 50}"]' for i in range(6)) + "\n  s6: [lol]\n"
    with pytest.raises(ValueError, match="4000 characters"):
        load(tmp_path, SHEET.replace("slots:\n", "slots:\n" + bomb))


def test_an_alias_bomb_is_refused_at_its_first_anchor(tmp_path):
    bomb = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [{', '.join(['*a'] * 9)}]\n" for i in range(30))
    with pytest.raises(ValueError, match=r"pip.yaml:1: a YAML alias or anchor"):
        load(tmp_path, bomb)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"name: Pip\nstyle: \xff\xfe", "pip.yaml:2: not UTF-8"),
        (b"", "pip.yaml:1: the sheet is empty"),
        (b"- a\n- b", "pip.yaml:1: the sheet needs keys"),
        (b"just words", "pip.yaml:1: the sheet needs keys"),
        (b"#" * 2_000_001, "pip.yaml:1: larger than 2,000,000 bytes"),
    ],
)
def test_files_that_are_no_sheet(tmp_path, data, problem):
    with pytest.raises(ValueError, match=problem):
        load(tmp_path, data)


def test_unknown_names_and_paths(tmp_path, monkeypatch):
    (tmp_path / "fish.yaml").write_text(SHEET)
    (tmp_path / "cat.yaml").write_text(SHEET)
    monkeypatch.setattr(sheet_file, "_FOLDER", tmp_path)
    assert persona_names() == ["cat", "fish"]
    assert load_persona("fish").name == "Pip"
    with pytest.raises(
        ValueError, match=r"no persona 'whale'; there are cat, fish; or give a \.yaml file that is there"
    ):
        load_persona("whale")
    with pytest.raises(ValueError, match="did you mean 'fish'"):
        load_persona("fsh")
    with pytest.raises(ValueError, match="cannot be read"):
        load_persona(tmp_path)


def test_errors_in_a_built_in_sheet_do_not_name_the_installation(tmp_path, monkeypatch):
    (tmp_path / "fish.yaml").write_text("name: Pip\n")
    monkeypatch.setattr(sheet_file, "_FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"^fish\.yaml:1: the key 'description' is missing"):
        load_persona("fish")


def test_a_persona_made_in_python_is_checked_too():
    topic = {"ask": ["hi {x}"], "reply": ["hi"]}
    with pytest.raises(ValidationError, match=r"unknown slot \{x\}"):
        Persona(name="P", description="d", style="s", topics={"a": topic}, confused={"ask": ["x"], "reply": ["y"]})
