"""Composing conversations: distinct, seeded, with what was said before, and two sides that share no prompt."""

import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import barreleye.data
from barreleye.data.chat_format import Conversation, Message
from barreleye.data.dress import normalize
from barreleye.data.persona import EXTRA_SHARE, Sides, compose, converse
from barreleye.data.sheet import Persona
from barreleye.data.sheet_file import load_persona
from barreleye.data.split import overlap, scored_prompts

SHEET = """\
name: Pip
description: a test fish
style: short
slots:
  food: [snow, krill, plankton, "{size} jelly"]
  size: [tiny, soft, round]
  person: [ann, bo, cy, dee, eli, fay, gus, hal, ida, jo, kit, lou, max, ned, ora, pia, ray, sue, tom, una]
  body: [my head, my eyes]
plurals: [my eyes]
proper: [person]
topics:
  greeting:
    ask: [hello, hi there, good morning, hey you, "(well|oh) hello"]
    reply: [hello., the water is good today., you are back.]
  user_name:
    ask: ["my name is {person}", "i am {person}", "call me {person}"]
    reply: ["hello {person}.", "{person}. i will remember."]
    follow_ups:
      - later: true
        ask: ["what is my name?", "who am i?"]
        reply: ["you are {person}."]
      - ask: ["do you like it?"]
        reply: ["{person} is a good name."]
  unknown_name:
    ask: ["what is my name?", "who am i?"]
    reply: [nobody told me., you did not say.]
  eating:
    ask: ["do you like {food}?", "do you like plankton?", "is {food} better than {food#2}?", "what do you eat?"]
    reply: ["{food}. not {food#2}.", "i like {food}."]
  body:
    ask: ["how are you?", "how are {body}?", "are you cold?"]
    reply: ["{body} {body.is} cold.", "well, {body} {body.has} hope."]
  lonely:
    ask: ["are you lonely?"]
    reply: [there is the dark.]
follow_ups:
  - ask: ["why?", "how come?"]
    reply: [i do not know., it is the sea.]
  - ask: ["what did i say?"]
    reply: ["you said: {said}."]
confused:
  ask: ["what is a car?", asdf, "...", hola, "is it monday?"]
  reply: [i do not know that., "is it food?"]
unseen: [body]
"""


@pytest.fixture(scope="module")
def persona(tmp_path_factory: pytest.TempPathFactory) -> Persona:
    path = tmp_path_factory.mktemp("sheet") / "pip.yaml"
    path.write_text(SHEET)
    return load_persona(path)


@pytest.fixture(scope="module")
def many(persona: Persona) -> list[Conversation]:
    return converse(persona, n=4000, seed=1)


def key(conversation: Conversation) -> tuple[str, ...]:
    return tuple(normalize(message.content) for message in conversation.messages)


def pairs(conversation: Conversation) -> list[tuple[Message, Message]]:
    return list(zip(conversation.messages[::2], conversation.messages[1::2], strict=True))


def grow(persona: Persona, n: int, seed: int = 0) -> Sides:
    return compose({"pip": (persona, n)}, seed)


# Conversations -------------------------------------------------------------------------------------------------------


def test_conversations_are_distinct_and_as_many_as_asked(persona, many):
    assert len({key(conversation) for conversation in many}) == len(many) == 4000
    assert converse(persona, n=0) == []
    assert all(
        message.content.strip() and message.role == role
        for conversation in many
        for pair in pairs(conversation)
        for message, role in zip(pair, ("user", "assistant"), strict=True)
    )


def test_lengths_and_topics_are_balanced(persona):
    made = converse(persona, n=200)
    lengths = Counter(len(conversation.messages) // 2 for conversation in made)
    assert set(lengths) == {1, 2, 3, 4, 5}
    assert 0.2 < 1 - lengths[1] / 200 < 0.4
    topics = Counter(conversation.topic for conversation in made)
    assert 8 <= topics["confused"] <= 40
    assert min(topics[name] for name in ("greeting", "user_name", "eating")) > 15


def test_the_first_topic_is_that_of_the_conversation(persona, many):
    alone = {topic: {normalize(m) for m in persona.all_topics[topic].reply} for topic in ("greeting", "lonely")}
    for conversation in many:
        if conversation.topic in alone:
            assert normalize(conversation.messages[1].content) in alone[conversation.topic]


def test_bindings_carry_into_replies_and_follow_ups(persona):
    made = converse(persona, {"user_name": persona.topics["user_name"].ask}, 300, seed=0)
    name, followed = re.compile(rf"\b({'|'.join(persona.slots['person'])})\b"), 0
    for conversation in made:
        people = [set(name.findall(reply.content)) for _, reply in pairs(conversation)]
        assert len(set.union(*people)) == 1
        followed += any(prompt.shared for prompt, _ in pairs(conversation))
    assert followed > 50


def test_the_second_filler_differs(persona):
    made = converse(persona, {"eating": persona.topics["eating"].ask}, 300, seed=0)
    answers = [re.fullmatch(r"(.+)\. not (.+)\.", m.content) for c in made for m in c.messages if m.role == "assistant"]
    found = [answer for answer in answers if answer]
    assert len(found) > 50
    assert all(answer[1] != answer[2] for answer in found)


def test_verbs_agree_with_what_their_slot_stands_for(many):
    said = {m.content for c in many for m in c.messages if m.role == "assistant"}
    assert {"my head is cold.", "my eyes are cold.", "well, my eyes have hope."} <= said
    assert not any("eyes is" in text or "eyes has" in text or "head are" in text for text in said)


def test_follow_ups_are_shared_and_come_only_after_their_topic(persona, many):
    liked = {f"{person} is a good name.": person for person in persona.slots["person"]}
    seen_after = set()
    for conversation in many:
        exchanges = pairs(conversation)
        assert not exchanges[0][0].shared
        for (_, before), (prompt, reply) in pairwise(exchanges):
            assert prompt.shared == reply.shared
            if reply.content in liked:
                assert reply.shared and liked[reply.content] in before.content
            seen_after.add((reply.shared, reply.content in liked))
    assert seen_after == {(True, True), (True, False), (False, False)}


def test_what_was_told_is_asked_for_any_number_of_turns_later(persona, many):
    distances = Counter()
    for conversation in many:
        told = None
        for turn, (prompt, reply) in enumerate(pairs(conversation)):
            if reply.content.startswith("hello ") or reply.content.endswith("i will remember."):
                told = turn, reply.content
            elif reply.content.startswith("you are ") and prompt.shared:
                assert told and reply.content[len("you are ") : -1] in told[1]
                distances[turn - told[0]] += 1
    assert set(distances) == {1, 2, 3, 4}


def test_what_was_told_is_never_asked_for_as_unknown(many):
    unknown = {"nobody told me.", "you did not say."}
    seen = 0
    for conversation in many:
        replies = [reply.content for _, reply in pairs(conversation)]
        asked = [i for i, reply in enumerate(replies) if reply in unknown]
        told = [i for i, reply in enumerate(replies) if "i will remember" in reply or reply.startswith("hello ")]
        seen += len(asked)
        assert not (asked and told) or max(asked) < min(told)
    assert seen > 100


def test_a_follow_up_can_repeat_what_the_person_said(many):
    repeated = 0
    for conversation in many:
        for (before, _), (_, reply) in pairwise(pairs(conversation)):
            if reply.content.startswith("you said: "):
                repeated += 1
                said = reply.content.removeprefix("you said: ")[:-1]
                assert said == re.sub(r"[\W_]+$", "", before.content) or said == before.content
    assert repeated > 100


def test_follow_up_prompts_are_dressed_and_replies_are_not(persona, many):
    asked = {m.content for c in many for m in c.messages if m.role == "user" and m.shared}
    assert {"why?", "why", "why??", "why!!"} <= asked
    said = {m.content for c in many for m in c.messages if m.role == "assistant" and m.shared}
    people = persona.slots["person"]
    assert {text for text in said if not text.startswith("you said")} == {
        *("i do not know.", "it is the sea."),
        *(f"you are {person}." for person in people),
        *(f"{person} is a good name." for person in people),
    }


def test_sentence_case_is_of_replies_alone(persona):
    capital = persona.model_copy(update={"sentence_case": True})
    made = converse(capital, n=1000)
    replies = {m.content for c in made for m in c.messages if m.role == "assistant"}
    assert {"I do not know.", "It is the sea.", "You are back."} <= replies
    assert all(reply[0].isupper() for reply in replies if not reply.startswith("You said"))
    assert any("Ann" in reply for reply in replies) and not any(re.search(r"\bann\b", reply) for reply in replies)
    assert any(m.content[0].islower() for c in made for m in c.messages if m.role == "user")


def test_a_sheet_that_cannot_make_that_many_says_how_many_it_made(monkeypatch):
    monkeypatch.setattr("barreleye.data.dress.ADDRESS_RATE", 0)
    topic = {"ask": ["hi"], "reply": ["yo."]}
    tiny = Persona(
        name="Tiny", description="d", style="s", topics={"a": topic}, confused={"ask": ["x"], "reply": ["y"]}
    )
    assert len(converse(tiny, n=4)) == 4
    with pytest.raises(ValueError, match=r"'Tiny' makes 4 distinct conversations, 5 were asked for; ask for fewer"):
        converse(tiny, n=5)
    with pytest.raises(ValueError, match="makes 0 distinct"):
        converse(tiny, {}, 1)


# All sides -----------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 800), seed=st.integers())
def test_no_held_out_prompt_is_in_training(persona, n, seed):
    sides = grow(persona, n, seed)
    assert len(sides.train) == n
    assert len(sides.held_out) == max(1, round(n * 0.05))
    assert len(sides.unseen_topics) == max(1, round(n * EXTRA_SHARE))
    assert len(sides.unseen_rows) == round(n * EXTRA_SHARE)
    assert overlap(sides.train, sides.held_out) == overlap(sides.train, sides.unseen_topics) == []
    assert len({key(conversation) for conversation in (*sides.train, *sides.unseen_rows)}) == n + len(sides.unseen_rows)


def test_an_unseen_topic_is_seen_nowhere_else(persona):
    sides = grow(persona, 1000)
    assert {c.topic for c in sides.unseen_topics} == {"body"}
    assert {c.topic for c in (*sides.train, *sides.unseen_rows)} == set(persona.all_topics) - {"body"}
    assert "body" not in {c.topic for c in sides.held_out}
    assert not any("cold" in m.content for c in (*sides.train, *sides.unseen_rows) for m in c.messages)


def test_what_is_held_back_is_told_nowhere(persona):
    sides = grow(persona, 1000)
    held = sides.unseen_fillers["pip"]["person"]
    assert len(held) == 2 and set(held) < set(persona.slots["person"])
    everything = (*sides.train, *sides.held_out, *sides.unseen_topics, *sides.unseen_rows)
    said = {word for c in everything for m in c.messages for word in normalize(m.content).split()}
    assert said.isdisjoint(held) and len(said.intersection(persona.slots["person"])) == 18


def test_a_mix_names_its_character_first(persona):
    other = persona.model_copy(update={"name": "Pop"})
    sides = compose({"pip": (persona, 300), "pop": (other, 100)}, seed=0)
    everything = (*sides.train, *sides.held_out, *sides.unseen_topics, *sides.unseen_rows)
    assert all(c.messages[0].role == "system" and c.messages[1].role == "user" for c in everything)
    assert Counter(c.messages[0].content for c in sides.train) == {"pip": 300, "pop": 100}
    assert len({c.messages[0].content for c in sides.train[:50]}) == 2, "shuffled"
    assert {c.messages[0].content for c in sides.held_out} == {"pip", "pop"}
    assert overlap(sides.train, sides.held_out) == []
    assert all(c.messages[0].role == "user" for c in grow(persona, 10).train)


def test_a_sheet_with_nothing_to_hold_out_trains_on_all_of_it():
    topic = {"ask": ["hi (a|b|c) {x}"], "reply": ["yo.", "hey {x}."]}
    slots = {"x": ["1", "2", "3", "4", "5", "6"]}
    confused = {"ask": ["x"], "reply": ["y"]}
    one = Persona(name="One", description="d", style="s", slots=slots, topics={"a": topic}, confused=confused)
    sides = grow(one, 20)
    assert sides.held_out == sides.unseen_topics == [] and len(sides.train) == 20


def test_a_small_held_out_side_gives_what_it_can(persona):
    digit = "(1|2|3|4|5|6|7|8|9)"
    sheet = persona.model_dump()
    sheet["topics"] = {"a": {"ask": [f"ho {digit} {digit} {digit}", "hi"], "reply": ["."]}}
    sheet["confused"] = {"ask": ["x"], "reply": ["y."]}
    sheet["follow_ups"] = [{"ask": ["ho 1 1 1"], "reply": ["."]}]  # keeps "ho ..." in training
    sheet["unseen"] = []
    sheet["name"] = "Ho"
    sides = grow(Persona.model_validate(sheet), 600)
    assert len(sides.train) == 600
    said = {tuple(text.replace("ho hi", "hi").replace("hi ho", "hi") for text in key(c)) for c in sides.held_out}
    assert said == {("hi", "."), ("hi", ".", "ho 1 1 1", ".")}


@pytest.mark.parametrize("prompt", [str, str.upper, "  {}?! ".format])
def test_one_planted_row_is_seen_in_any_dress(persona, prompt):
    sides = grow(persona, 200)
    first = scored_prompts(sides.held_out[0])[0]
    planted = Conversation((Message("user", prompt(first)), Message("assistant", "so.")))
    assert len(overlap([*sides.train, planted], sides.held_out)) == 1


def test_the_same_seed_gives_the_same_rows_in_any_process(persona, tmp_path):
    path = tmp_path / "pip.yaml"
    path.write_text(SHEET)
    code = (
        "import hashlib, sys; from barreleye.data.persona import compose\n"
        "from barreleye.data.sheet_file import load_persona\n"
        "sides = compose({'pip': (load_persona(sys.argv[1]), 500)}, 3)\n"
        "print(hashlib.sha256(repr(sides).encode()).hexdigest())"
    )
    source = Path(barreleye.data.__file__).parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(source)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("0", "1", "2")
    }
    here = hashlib.sha256(repr(grow(persona, 500, 3)).encode()).hexdigest()
    assert digests == {here}
    assert grow(persona, 500, 4) != grow(persona, 500, 3)


def test_drawing_leaves_the_global_random_state_alone(persona):
    random.seed(0)
    state = random.getstate()
    grow(persona, 100)
    assert random.getstate() == state
