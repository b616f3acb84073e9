"""The judges tell voices and topics apart: true replies reach the ceiling, shuffled and strange ones the floor."""

import random
import sys
from pathlib import Path

import pytest

import barreleye.data
from barreleye.data.chat_format import Conversation, Message
from barreleye.data.dress import normalize
from barreleye.data.persona import compose, exchange
from barreleye.data.sheet_file import load_persona, persona_names
from barreleye.data.template import Slot
from barreleye.evaluation.character import (
    NO_SHEET,
    Judge,
    Question,
    fresh_replies,
    judge_manners,
    rate,
    unseen_questions,
)

SHEET = load_persona(Path(barreleye.data.__file__).with_name("new_sheet.yaml"))
FISH = load_persona("fish")
PERSONAS = {"lighthouse": SHEET}
HELD_OUT = compose({"lighthouse": (SHEET, 2_000)}, 1, 0.1).held_out
QUESTIONS = unseen_questions(HELD_OUT, PERSONAS)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(PERSONAS, QUESTIONS, n=900)


def talk(system: str, topic: str, prompt: str, reply: str = "so") -> Conversation:
    begin = (Message("system", system),) if system else ()
    return Conversation((*begin, Message("user", prompt), Message("assistant", reply)), topic)


# What is asked -----------------------------------------------------------------------------------------------------


def test_questions_are_the_opening_exchanges_of_held_out_conversations() -> None:
    openings = {(c.topic, c.messages[:1], c.messages[1].content) for c in HELD_OUT}
    assert {(q.topic, q.chat, q.truth) for q in QUESTIONS} <= openings
    assert {q.topic for q in QUESTIONS} == {c.topic for c in HELD_OUT}
    assert len({normalize(q.prompt) for q in QUESTIONS}) == len(QUESTIONS) > 20
    assert unseen_questions(HELD_OUT, PERSONAS, seed=0) == QUESTIONS != unseen_questions(HELD_OUT, PERSONAS, seed=1)


def test_questions_are_spread_evenly_over_topics() -> None:
    talks = [talk("", "small", "a"), talk("", "small", "A!")]
    talks += [talk("", topic, f"{topic} {i}") for topic in ("big", "bigger") for i in range(100)]
    asked = [q.topic for q in unseen_questions(talks, ["x"], 21)]
    assert {topic: asked.count(topic) for topic in asked} == {"small": 1, "big": 10, "bigger": 10}
    assert len(unseen_questions(talks, ["x"], 1_000)) == 201


def test_each_character_of_a_mix_is_asked_as_many_and_keeps_its_system_turn() -> None:
    talks = [talk(name, "t", f"{name} {i}") for name, n in (("cat", 5), ("fish", 50)) for i in range(n)]
    questions = unseen_questions(talks, ["cat", "fish"], 10)
    assert [q.character for q in questions] == ["cat"] * 5 + ["fish"] * 10
    for question in questions:
        assert question.chat == (Message("system", question.character), Message("user", question.prompt))


def test_chats_without_a_sheet_are_asked_too() -> None:
    talks = [talk("be nice", "", "hello", "hi"), talk("", "", "bye", "so long")]
    questions = unseen_questions(talks)
    assert {(q.character, q.prompt, q.truth) for q in questions} == {("", "hello", "hi"), ("", "bye", "so long")}
    assert {len(q.chat) for q in questions} == {1, 2}
    with pytest.raises(ValueError, match=NO_SHEET):
        Judge({}, questions)


# What the judges learn from ----------------------------------------------------------------------------------------


def test_fresh_replies_are_of_every_topic_and_none_that_is_avoided() -> None:
    fresh = fresh_replies(SHEET, (), 0, 600)
    counts = {topic: sum(name == topic for name, _ in fresh) for topic in SHEET.all_topics}
    assert set(counts.values()) == {600 // len(SHEET.all_topics)}
    assert fresh_replies(SHEET, (), 0, 600) == fresh != fresh_replies(SHEET, (), 1, 600)
    thanks = {reply for topic, reply in fresh if topic == "thanks"}
    assert "thanks" not in {topic for topic, _ in fresh_replies(SHEET, thanks, 0, 600)}


def test_no_judge_learns_from_a_true_reply() -> None:
    truths = {q.truth for q in QUESTIONS}
    assert truths.isdisjoint(reply for _, reply in fresh_replies(SHEET, truths, 0, 900))


def test_an_exchange_is_written_as_the_sheet_says() -> None:
    topic = SHEET.topics["user_name"]
    bound = {Slot("person"): ("mia", "mia")}
    said = [exchange(SHEET, topic.ask, topic.reply, dict(bound), random.Random(i)) for i in range(40)]
    assert all("mia" in prompt for prompt, _ in said)
    assert SHEET.sentence_case and all(reply[0].isupper() and "mia" not in reply for _, reply in said)


def test_an_edited_built_in_character_takes_its_place() -> None:
    assert "fish" in persona_names()
    """By what it says, and not by its name."""
    judge = Judge({"bob": FISH.model_copy(update={"name": "Bob"})}, [], n=200)
    assert set(judge.strays) == {*persona_names(), "bob"} - {"fish"}
    judge = Judge({"my-fish": SHEET.model_copy(update={"name": FISH.name})}, [], n=200)
    assert set(judge.strays) == {*persona_names(), "my-fish"}


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ValueError, match=r"needs scikit-learn: pip install 'barreleye\[report\]'"):
        Judge(PERSONAS, [], n=100)


# What they say -----------------------------------------------------------------------------------------------------


def test_true_replies_reach_the_ceiling_and_the_ceiling_is_high(judge: Judge) -> None:
    manners, rows = judge_manners(judge, QUESTIONS, [q.truth for q in QUESTIONS])
    for kind in (manners["lighthouse"].in_character, manners["lighthouse"].relevance):
        assert kind.share == kind.ceiling and kind.of_ceiling.value == pytest.approx(1)
        assert kind.share.value > 0.85 and kind.floor.value < 0.35 and kind.share.n == len({q.topic for q in QUESTIONS})
    assert all(row["reply"] == row["truth"] for row in rows)
    assert sum(row["relevant"] for row in rows) == round(manners["lighthouse"].relevance.share.value * len(rows))


def test_shuffled_replies_are_in_character_and_off_topic(judge: Judge) -> None:
    truths = [q.truth for q in QUESTIONS]
    away = len(QUESTIONS) // 2
    manners, _ = judge_manners(judge, QUESTIONS, truths[away:] + truths[:away])
    assert manners["lighthouse"].in_character.share == manners["lighthouse"].in_character.ceiling
    assert manners["lighthouse"].relevance.of_ceiling.high < 0.4


def test_replies_of_another_character_are_out_of_character(judge: Judge) -> None:
    strangers = [reply for _, reply in fresh_replies(FISH, (), 5, 900)]
    manners, rows = judge_manners(judge, QUESTIONS, [strangers[7 * i % len(strangers)] for i in range(len(QUESTIONS))])
    assert manners["lighthouse"].in_character.share.high < 0.3
    assert sum(row["voice_heard"] == "fish" for row in rows) > 0.7 * len(rows)


@pytest.mark.parametrize("reply", ["", "...", "zzxqy wvvkj", "\ufffd"])
def test_what_has_no_known_word_is_nobodys_voice_and_no_topic(judge: Judge, reply: str) -> None:
    manners, rows = judge_manners(judge, QUESTIONS, [reply] * len(QUESTIONS))
    assert manners["lighthouse"].in_character.share.value == manners["lighthouse"].relevance.share.value == 0
    assert {(row["voice_heard"], row["topic_heard"]) for row in rows} == {("", "")}


def test_a_mix_is_judged_character_by_character() -> None:
    personas = {"fish": FISH, "lighthouse": SHEET}
    asked = {}
    for name, persona in personas.items():
        replies = fresh_replies(persona, (), 3, 2 * len(persona.all_topics))
        asked[name] = [
            Question(name, topic, (Message("system", name), Message("user", f"{i}")), reply)
            for i, (topic, reply) in enumerate(replies)
        ]
    judge = Judge(personas, [], n=800)
    questions = asked["fish"] + asked["lighthouse"]
    swapped = [asked["lighthouse"][0].truth] * len(asked["fish"]) + [q.truth for q in asked["lighthouse"]]
    manners, _ = judge_manners(judge, questions, swapped)
    assert list(manners) == ["fish", "lighthouse"]
    assert manners["fish"].in_character.share.value == 0 < 0.8 < manners["fish"].in_character.ceiling.value
    assert manners["lighthouse"].in_character.share.value > 0.8
    assert manners["lighthouse"].relevance.of_ceiling.value == pytest.approx(1)


def test_a_prompt_whose_truth_is_not_recognized_still_counts() -> None:
    figures = rate([1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0])
    assert (figures.share.value, figures.floor.value, figures.ceiling.value) == (0.75, 0, 0.5)
    assert figures.of_ceiling is not None and figures.of_ceiling.value == pytest.approx(1.5)
    assert figures.of_ceiling.high < 10
    assert rate([1, 0], [0, 0], [0, 0]).of_ceiling is None
    assert rate([1, 0, 1, 1], [0] * 4, [1] * 4, topics=["a", "a", "b", "b"]).share.n == 2
