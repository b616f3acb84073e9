"""Prompts changed as people change them, and what is lost: nothing where replies stay, all where they go wrong."""

import random
from pathlib import Path

import pytest
import torch

import barreleye.data
import barreleye.evaluation.robustness as room
from barreleye.config import ModelConfig, Sampling
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, Message
from barreleye.data.persona import compose
from barreleye.data.sheet_file import load_persona
from barreleye.data.tokenizer import Tokenizer, learn_bpe, learn_characters
from barreleye.evaluation.character import Judge, Question, unseen_questions
from barreleye.evaluation.recall import PER_NAME, Recall, compose_recalls, remembers
from barreleye.evaluation.replies import reply_all
from barreleye.evaluation.robustness import (
    CHANGES,
    NOT_MENDED,
    NOTHING,
    TYPO,
    change_question,
    change_recall,
    drop,
    drop_punctuation,
    measure_drops,
    robustness,
)
from barreleye.model.transformer import Transformer

SHEET = load_persona(Path(barreleye.data.__file__).with_name("new_sheet.yaml"))
PERSONAS = {"lighthouse": SHEET}
SIDES = compose({"lighthouse": (SHEET, 1_000)}, 1, 0.1)
QUESTIONS = unseen_questions(SIDES.held_out, PERSONAS)
RECALLS = compose_recalls(PERSONAS, SIDES.unseen_fillers, SIDES.train)
NAMES = [r for r in RECALLS if r.distance == 2 and r.known]
TRUTHS, NAMED = [q.truth for q in QUESTIONS], [r.truth for r in NAMES]

every_change = pytest.mark.parametrize("name", CHANGES)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(PERSONAS, QUESTIONS, n=600)


# The changes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("ALL CAPS", {"WHAT'S YOUR NAME, FISH?"}),
        ("no punctuation", {"whats your name fish"}),
    ],
)
def test_a_change_that_leaves_no_choice(name: str, changed: set[str]) -> None:
    assert {CHANGES[name]("what's your name, fish?", random.Random(seed)) for seed in range(5)} == changed


@pytest.mark.parametrize("name", ["an emoji", "another script"])
def test_a_change_that_adds(name: str) -> None:
    texts = {CHANGES[name]("who are you?", random.Random(seed)) for seed in range(50)}
    assert len(texts) > 5 and all(text.startswith("who are you? ") and not text.isascii() for text in texts)


def test_one_typo_is_one_and_can_be_seen() -> None:
    assert "hello" not in {CHANGES["one typo"]("hello", random.Random(seed)) for seed in range(50)}
    assert CHANGES["one typo"]("hi", random.Random(0)) == "hi"
    text = "what is your name?"
    texts = {CHANGES["one typo"](text, random.Random(seed)) for seed in range(50)}
    assert len(texts) > 20 and all(abs(len(changed) - len(text)) <= 1 for changed in texts)


@pytest.mark.parametrize("text", ["?", "...", "?!"])
def test_a_prompt_of_punctuation_stays(text: str) -> None:
    assert drop_punctuation(text) == text


@every_change
def test_only_what_the_user_says_is_changed(name: str) -> None:
    chat = (Message("system", "pip"), Message("user", "hello, you there?"))
    question = Question("pip", "greeting", chat, "hello.")
    changed = change_question(question, CHANGES[name], random.Random(1))
    assert changed.chat[0] == chat[0] and changed.prompt != question.prompt
    assert (changed.character, changed.topic, changed.truth) == ("pip", "greeting", "hello.")
    recall = NAMES[0]
    again = change_recall(recall, CHANGES[name], random.Random(1))
    for before, after in zip(recall.chat, again.chat, strict=True):
        assert before.role == after.role and (before == after or before.role == "user")
    assert again.chat != recall.chat


@every_change
def test_what_is_told_stays_legible(name: str) -> None:
    """A name of the whole message's letters is hit by almost every typo; then there is none."""
    short = Recall("pip", "person", "mia-noor", True, 1, (Message("user", "mia-noor"), Message("user", "who?")), "mia")
    for seed in range(20):
        for recall in (short, *NAMES[:3]):
            changed = change_recall(recall, CHANGES[name], random.Random(seed))
            assert remembers(changed.chat[0].content, recall.filler)


# What is lost ------------------------------------------------------------------------------------------------------


def test_nothing_is_lost_where_replies_stay(judge: Judge) -> None:
    drops = measure_drops(judge, QUESTIONS, TRUTHS, TRUTHS, NAMES, NAMED, NAMED)["lighthouse"]
    assert drops.recall is not None and drops.recall.share.value == 1
    for lost in (drops.in_character, drops.relevance, drops.recall):
        assert lost.points.value == lost.points.low == lost.points.high == 0 and lost.share.value > 0.85


def test_everything_is_lost_where_nothing_is_said(judge: Judge) -> None:
    silence = [""] * len(QUESTIONS)
    drops = measure_drops(judge, QUESTIONS, TRUTHS, silence, NAMES, NAMED, [""] * len(NAMES))["lighthouse"]
    assert drops.recall is not None and drops.recall.points.value == 100
    assert drops.in_character.share.value == drops.relevance.share.value == 0
    assert drops.in_character.points.value > 85 and drops.in_character.points.low > 75


def test_without_memories_there_is_no_recall(judge: Judge) -> None:
    assert measure_drops(judge, QUESTIONS, TRUTHS, TRUTHS)["lighthouse"].recall is None


def test_a_drop_is_in_points_and_paired() -> None:
    """Two of ten are lost. That they are the same prompts narrows the interval."""
    before, after = [True] * 9 + [False], [True] * 7 + [False] * 3
    lost = drop(before, after)
    assert lost.points.value == pytest.approx(20) and lost.share.value == 0.7
    assert lost.points.low >= 0 and drop(after, before).points.value == pytest.approx(-20)


# A whole pass ------------------------------------------------------------------------------------------------------


def build(tokenizer: Tokenizer) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        ModelConfig(
            n_layers=1,
            n_heads=1,
            d_model=8,
            d_ff=8,
            context_length=128,
            vocab_size=tokenizer.vocab_size,
            init_std=0.3,
            embed_std=0.3,
        )
    )


def test_a_whole_pass(judge: Judge) -> None:
    tokenizer = learn_bpe(TRUTHS, 300, CHAT_SPECIAL_TOKENS)
    given = build(tokenizer), tokenizer, judge, QUESTIONS[:5], TRUTHS[:5], RECALLS, Sampling(seed=1)
    drops, rows = robustness(*given)
    assert list(drops) == list(CHANGES)
    for lost in drops.values():
        own = lost["lighthouse"]
        assert own.in_character.share.n == 5 and own.recall is not None and own.recall.share.value == 0
    assert [row["change"] for row in rows] == [name for name in CHANGES for _ in range(5 + PER_NAME)]
    assert (drops, rows) == robustness(*given)


def test_what_changes_nothing_loses_nothing(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by luck either: at a temperature, each reply is compared with one that had the same random numbers."""
    monkeypatch.setattr(room, "CHANGES", {"nothing": lambda text, rng: text})
    tokenizer = learn_bpe(TRUTHS, 300, CHAT_SPECIAL_TOKENS)
    model, questions, sampling = build(tokenizer), QUESTIONS[:5], Sampling(seed=1, temperature=1.5)
    before = reply_all(model, tokenizer, [question.chat for question in questions], sampling)
    _, rows = robustness(model, tokenizer, judge, questions, before, RECALLS, sampling)
    said = [row["reply"] for row in rows]
    assert said[:5] == before and said[5:] == reply_all(model, tokenizer, [name.chat for name in NAMES], sampling)


def test_a_change_that_the_tokenizer_cannot_read_is_left_out(judge: Judge) -> None:
    letters = "".join(chr(code) for code in range(32, 127)) + "\n"
    tokenizer = learn_characters(letters, CHAT_SPECIAL_TOKENS)
    drops, rows = robustness(build(tokenizer), tokenizer, judge, QUESTIONS[:3], TRUTHS[:3], [], Sampling(seed=1))
    assert set(drops) == set(CHANGES) - {"an emoji", "another script"}
    assert len(rows) == 3 * len(drops) and all(lost["lighthouse"].recall is None for lost in drops.values())


def test_what_a_typo_costs_is_measured_mended_and_not(judge: Judge) -> None:
    """Mended by one who knows the clean prompts, a typo costs nothing."""
    tokenizer = learn_bpe(TRUTHS, 300, CHAT_SPECIAL_TOKENS)
    questions, asked = QUESTIONS[:5], []

    def read(text: str) -> str:
        asked.append(text)
        return questions[(len(asked) - 1) % len(questions)].prompt

    given = build(tokenizer), tokenizer, judge, questions
    sampling = Sampling(seed=1)
    before = reply_all(*given[:2], [question.chat for question in questions], sampling)
    drops, _ = robustness(*given, before, [], sampling, read=read)
    assert list(drops) == [*CHANGES, NOTHING + NOT_MENDED, TYPO + NOT_MENDED]
    assert all(lost["lighthouse"].relevance.points.value == 0 for name, lost in drops.items() if name in CHANGES)
    assert len(asked) == len(questions) * len(CHANGES)
