"""Words in, two sides out: what is read, how it is parted, and what is said of what cannot be read."""

import pytest

from barreleye.config import DataConfig
from barreleye.data.chat_format import Conversation, Message
from barreleye.data.chats import chat_line
from barreleye.data.corpus import Corpus, prepare, split_chats, split_text
from barreleye.data.dress import normalize


def chat(*texts, topic=""):
    """A conversation of prompts and replies in turn."""
    return Conversation(
        tuple(Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts)), topic
    )


def prompts(side):
    return {normalize(m.content) for c in side for m in c.messages if m.role == "user"}


MANY = [chat(f"question {n}", f"answer {n}") for n in range(100)]

# Text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "held_out"), [(1000, 100), (1009, 100), (20, 2), (10, 2), (4, 2)])
def test_the_last_tenth_of_a_text_is_held_out_in_order(length, held_out):
    text = "".join(chr(ord("a") + n % 26) for n in range(length))
    split = split_text(text)
    assert split.train + split.held_out == text
    assert len(split.held_out) == held_out
    assert split.report["train_characters"] == length - held_out
    assert split.report["held_out_characters"] == held_out
    assert split.texts() == [split.train], "a tokenizer learns from the training side alone"


@pytest.mark.parametrize("text", ["", "a", "abc"])
def test_a_text_too_short_to_split_is_refused(text):
    with pytest.raises(ValueError, match=f"a text of {len(text)} characters is too short to split; give it 4 or more"):
        split_text(text)


# Chats -------------------------------------------------------------------------------------------------------------


def test_chats_are_parted_by_normalized_first_prompt():
    planted = [chat("QUESTION 7!!", "in capitals"), chat("question 8", "another answer"), chat("  Question  9 ", "x")]
    split = split_chats([*MANY, *planted], 0.1)
    assert prompts(split.train).isdisjoint(prompts(split.held_out))
    assert prompts(split.train) | prompts(split.held_out) == prompts(MANY)
    assert len(prompts(split.held_out)) == 10
    assert len(split.train) + len(split.held_out) == len(MANY) + len(planted)
    assert split.report["train"] == len(split.train) and split.report["held_out"] == len(split.held_out)
    assert (split.report["overlap"], split.report["held_out_dropped"], split.report["duplicates_dropped"]) == (0, 0, 0)
    for side in (split.train, split.held_out):
        assert [c for c in [*MANY, *planted] if c in set(side)] == list(side), "the order is kept"


def test_every_planted_prompt_stays_on_the_side_of_its_twin():
    for n in range(100):
        split = split_chats([*MANY, chat(f"QUESTION {n}!", "planted")], 0.3)
        twins = [c for c in split.train if c.messages[0].content.lower() in (f"question {n}", f"question {n}!")]
        assert len(twins) in (0, 2)


def test_a_held_out_exchange_that_training_has_too_is_read_and_not_scored():
    held_out = split_chats(MANY, 0.1).held_out[0].messages[0].content
    in_training = split_chats(MANY, 0.1).train[0].messages[0].content
    leak = chat(held_out, "hm", in_training.upper() + "?", "so")
    split = split_chats([*MANY, leak], 0.1)
    assert leak not in split.train and len(split.held_out) == 11
    (kept,) = [c for c in split.held_out if len(c.messages) == 4]
    assert [m.content for m in kept.messages] == [m.content for m in leak.messages]
    assert [m.shared for m in kept.messages] == [False, False, True, True]
    assert split.report["held_out_shared"] == 1 and split.report["held_out_dropped"] == 0


def test_a_held_out_chat_of_which_nothing_can_be_scored_is_dropped_and_counted():
    held_out = split_chats(MANY, 0.1).held_out[0].messages[0].content
    asks_it_later = chat(split_chats(MANY, 0.1).train[0].messages[0].content, "hm", held_out, "hm")
    split = split_chats([*MANY, asks_it_later], 0.1)
    assert split.report["held_out_dropped"] == 1 and held_out not in prompts(split.held_out)
    assert prompts(split.train).isdisjoint(prompts(split.held_out))


def test_the_same_chat_twice_counts_once():
    split = split_chats([*MANY, *MANY[:30]], 0.1)
    assert len(split.train) + len(split.held_out) == 100
    assert split.report["duplicates_dropped"] == 30


def test_the_split_depends_on_no_order_and_one_prompt_more_moves_at_most_one_other():
    before = prompts(split_chats(MANY, 0.1).held_out)
    assert prompts(split_chats(MANY[::-1], 0.1).held_out) == before
    for n in range(50):
        new = f"a new question {n}"
        after = prompts(split_chats([*MANY, chat(new, "x")], 0.1).held_out) - {new}
        assert len(before ^ after) <= 1


@pytest.mark.parametrize(
    ("chats", "says"),
    [
        ([], "fewer than 2 distinct first prompts"),
        ([chat("Hi", "a"), chat("hi!", "b")], "fewer than 2 distinct first prompts"),
        ([chat("a", "x", "b", "y"), chat("b", "x", "a", "y")], "is one of the others"),
    ],
)
def test_chats_that_cannot_be_parted_are_refused(chats, says):
    with pytest.raises(ValueError, match=says):
        split_chats(chats, 0.1)


# What a configuration names ------------------------------------------------------------------------------------------

SHEET = """\
name: Pip
description: a small crab
style: few words
topics:
  greeting:
    ask: [hello, hi there, good day]
    reply: [click., i wave a claw.]
confused:
  ask: [what is tax, who won the game]
  reply: [i only know sand.]
"""


def test_a_character_sheet_is_parted_by_clean_prompt_and_by_seed(tmp_path):
    (tmp_path / "pip.yaml").write_text(SHEET)
    config = DataConfig("persona", str(tmp_path / "pip.yaml"), conversations=30)
    split = prepare(config, seed=1)
    assert prompts(split.train).isdisjoint(prompts(split.held_out))
    assert len(split.train) == split.report["train"] == 30
    assert split.held_out and split.report["overlap"] == 0
    assert prepare(config, seed=1) == split
    assert prepare(config, seed=2) != split


def test_a_sheet_that_leaves_nothing_to_hold_out_is_refused(tmp_path):
    sheet = SHEET.replace("[hello, hi there, good day]", "[hello]").replace("[what is tax, who won the game]", "[eh]")
    (tmp_path / "pip.yaml").write_text(sheet)
    with pytest.raises(ValueError, match=r"pip.yaml: nothing can be held out; give topics more asks"):
        prepare(DataConfig("persona", str(tmp_path / "pip.yaml"), conversations=2), seed=1)


def test_a_source_that_cannot_be_parted_is_named(tmp_path):
    (tmp_path / "x.txt").write_text("abc")
    with pytest.raises(ValueError, match=r"x.txt: a text of 3 characters"):
        prepare(DataConfig("text", str(tmp_path / "x.txt")), seed=1)
    (tmp_path / "x.jsonl").write_text(chat_line(MANY[0]))
    with pytest.raises(ValueError, match=r"x.jsonl: the chats have fewer than 2"):
        prepare(DataConfig("chats", str(tmp_path / "x.jsonl")), seed=1)


def test_chats_and_texts_are_prepared(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n".join(map(chat_line, MANY)))
    split = prepare(DataConfig("chats", str(tmp_path / "x.jsonl"), held_out=0.2), seed=1)
    assert (len(split.train), len(split.held_out)) == (80, 20)
    assert "question 1" not in split.texts() or "question 1" in prompts(split.train)
    (tmp_path / "x.txt").write_text("ab" * 50)
    assert prepare(DataConfig("text", str(tmp_path / "x.txt")), seed=1).held_out == "ab" * 5


def test_rows_left_out_are_in_the_report_and_stop_nothing(tmp_path):
    rows = [*map(chat_line, MANY), "nonsense", chat_line(MANY[0])]
    (tmp_path / "x.jsonl").write_text("\n".join(rows))
    (tmp_path / "y.csv").write_text("prompt,response\nanother,one\nbroken\n")
    both = DataConfig("chats", f"{tmp_path}/x.jsonl\n{tmp_path}/y.csv")
    split = prepare(both, seed=1)
    assert len(split.train) + len(split.held_out) == len(MANY) + 1
    assert (split.report["rows"], split.report["rows_left_out_count"], split.report["duplicates_dropped"]) == (
        104,
        2,
        1,
    )
    places = [(row["file"], row["line"]) for row in split.report["rows_left_out"]]
    assert places == [(f"{tmp_path}/x.jsonl", 101), (f"{tmp_path}/y.csv", 3)]


def test_a_tokenizer_learns_from_the_training_side_of_chats_alone():
    texts = Corpus([chat("hello there", "hi")], [chat("unseen", "too")], {}).texts()
    assert "hello there" in texts and "hi" in texts
    assert not any("unseen" in text or "too" in text for text in texts)
