import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import barreleye.data
from barreleye.data.chat_format import Conversation, Message
from barreleye.data.persona import (
    Persona,
    check,
    converse,
    grow_conversations,
    load_persona,
    normalize,
    overlap,
    persona_names,
    split_prompts,
)
from barreleye.data.template import expansions

SHEET = """\
name: Pip
description: a test fish
style: short
slots:
  food: [snow, krill, plankton, "{size} jelly"]
  size: [tiny, soft, round]
  person: [ann, bo, cy, dee]
  spare: [never said]
topics:
  greeting:
    ask: [hello, hi there, good morning, hey you, "(well|oh) hello"]
    reply: [hello., the water is good today., you are back.]
  your_name:
    ask: ["my name is {person}", "i am {person}", "call me {person}"]
    reply: ["hello {person}.", "{person}. i will remember."]
    follow_ups:
      - ask: ["what is my name?", "who am i?"]
        reply: ["you are {person}."]
  eating:
    ask: ["do you like {food}?", "do you like plankton?", "is {food} better than {food#2}?", "what do you eat?"]
    reply: ["{food}. not {food#2}.", "i like {food}."]
  lonely:
    ask: ["are you lonely?"]
    reply: [there is the dark.]
follow_ups:
  - ask: ["why?", "how come?"]
    reply: [i do not know., it is the sea.]
confused:
  ask: ["what is a car?", asdf, "...", hola, "is it monday?"]
  reply: [i do not know that., "is it food?"]
"""


@pytest.fixture(scope="module")
def persona(tmp_path_factory: pytest.TempPathFactory) -> Persona:
    path = tmp_path_factory.mktemp("sheet") / "pip.yaml"
    path.write_text(SHEET)
    return load_persona(path)


def everything(persona: Persona) -> dict[str, tuple[str, ...]]:
    return {name: topic.ask for name, topic in persona.all_topics.items()}


def key(conversation: Conversation) -> tuple[str, ...]:
    return tuple(normalize(message.content) for message in conversation.messages)


def pairs(conversation: Conversation) -> list[tuple[Message, Message]]:
    return list(zip(conversation.messages[::2], conversation.messages[1::2], strict=True))


# Splitting


def test_every_topic_with_two_asks_has_one_on_each_side(persona):
    for seed in range(20):
        training, held_out = split_prompts(persona, seed)
        for name, topic in persona.all_topics.items():
            assert sorted(training[name] + held_out.get(name, ())) == sorted(topic.ask)
            assert training[name]
            assert len(held_out.get(name, ())) == (0 if name == "lonely" else 1)


def test_the_held_out_share_and_seed_matter(persona):
    assert len({str(split_prompts(persona, seed)) for seed in range(10)}) > 3
    _, half = split_prompts(persona, 0, held_out=0.5)
    assert len(half["greeting"]) == 2 and len(half["confused"]) == 2
    for share in (0, 1, -0.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            split_prompts(persona, 0, held_out=share)


def test_templates_that_can_say_the_same_stay_together(persona):
    for seed in range(30):
        training, held_out = split_prompts(persona, seed, held_out=0.4)
        prompts = [
            {normalize(text) for asks in side.values() for ask in asks for text in expansions(ask, persona.slots)}
            for side in (training, held_out)
        ]
        assert prompts[0].isdisjoint(prompts[1])


def test_templates_that_collide_across_topics_stay_together(persona):
    topics = {
        "a": {"ask": ["(do|would) you swim", "are you wet", "is it cold"], "reply": ["yes."]},
        "b": {"ask": ["would you swim", "can you fly", "can you sing"], "reply": ["no."]},
    }
    both = Persona.model_validate({**persona.model_dump(), "topics": topics})
    sides = set()
    for seed in range(30):
        _, held_out = split_prompts(both, seed, held_out=0.4)
        assert 1 <= len(held_out["a"]) <= 2 and 1 <= len(held_out["b"]) <= 2
        assert ("(do|would) you swim" in held_out["a"]) == ("would you swim" in held_out["b"])
        sides.add("would you swim" in held_out["b"])
    assert False in sides


def test_an_ask_that_is_also_a_follow_up_is_never_held_out(persona):
    sheet = persona.model_dump()
    sheet["confused"]["ask"] = ["why", "who am i", "what is a car?"]
    also = Persona.model_validate(sheet)
    for seed in range(20):
        assert split_prompts(also, seed)[1]["confused"] == ("what is a car?",)


# Conversations


def test_conversations_are_distinct_and_as_many_as_asked(persona):
    made = converse(persona, everything(persona), 3000, seed=1)
    assert len({key(conversation) for conversation in made}) == len(made) == 3000
    assert converse(persona, everything(persona), 0, seed=1) == []
    assert all(
        message.content.strip() and message.role == role
        for conversation in made
        for pair in pairs(conversation)
        for message, role in zip(pair, ("user", "assistant"), strict=True)
    )


def test_lengths_and_topics_are_balanced(persona):
    made = converse(persona, everything(persona), 200, seed=1)
    lengths = Counter(len(conversation.messages) // 2 for conversation in made)
    assert set(lengths) == {1, 2, 3, 4}
    assert 0.2 < 1 - lengths[1] / 200 < 0.45
    topics = Counter(conversation.topic for conversation in made)
    assert 8 <= topics["confused"] <= 40
    assert min(topics[name] for name in ("greeting", "your_name", "eating")) > 25


def test_bindings_carry_into_replies_and_follow_ups(persona):
    made = converse(persona, {"your_name": persona.topics["your_name"].ask}, 100, seed=0)
    followed = 0
    for conversation in made:
        texts = [message.content for message in conversation.messages]
        people = [set(re.findall(r"\b(?:ann|bo|cy|dee)\b", text)) for text in texts]
        assert len(set.union(*people[1::2])) == 1
        for prompt, reply in pairs(conversation):
            followed += prompt.shared and reply.content.startswith("you are")
    assert followed > 5


def test_the_second_filler_differs(persona):
    made = converse(persona, {"eating": persona.topics["eating"].ask}, 300, seed=0)
    answers = [re.fullmatch(r"(.+)\. not (.+)\.", m.content) for c in made for m in c.messages if m.role == "assistant"]
    found = [answer for answer in answers if answer]
    assert len(found) > 50
    assert all(answer[1] != answer[2] for answer in found)


def test_follow_ups_are_shared_and_come_only_after_their_topic(persona):
    made = converse(persona, everything(persona), 2000, seed=0)
    own_replies = {f"you are {person}." for person in persona.slots["person"]}
    seen_after = set()
    for conversation in made:
        exchanges = pairs(conversation)
        assert not exchanges[0][0].shared
        for (_, before), (prompt, reply) in pairwise(exchanges):
            assert prompt.shared == reply.shared
            if reply.content in own_replies:
                assert reply.shared and not before.shared
                assert reply.content[8:-1] in before.content
            seen_after.add((reply.shared, reply.content in own_replies))
    assert seen_after == {(True, True), (True, False), (False, False)}


def test_follow_up_prompts_are_dressed_and_replies_are_not(persona):
    made = converse(persona, everything(persona), 2000, seed=0)
    asked = {m.content for c in made for m in c.messages if m.role == "user" and m.shared}
    assert {"why?", "WHY?", "Why", "why??"} <= asked
    said = {m.content for c in made for m in c.messages if m.role == "assistant" and m.shared}
    assert said == {"i do not know.", "it is the sea."} | {f"you are {p}." for p in persona.slots["person"]}


def test_avoided_prompts_do_not_occur(persona):
    avoid = frozenset({"hello", "why", "hola"})
    made = converse(persona, everything(persona), 1000, seed=0, avoid=avoid)
    assert not avoid & {normalize(m.content) for c in made for m in c.messages if m.role == "user"}


def test_a_sheet_that_cannot_make_that_many_says_how_many_it_made():
    topic = {"ask": ["hi"], "reply": ["yo."]}
    tiny = Persona(
        name="Tiny", description="d", style="s", topics={"a": topic}, confused={"ask": ["x"], "reply": ["y"]}
    )
    assert len(converse(tiny, {"a": ("hi",), "confused": ("x",)}, 4, seed=0)) == 4
    with pytest.raises(ValueError, match=r"'Tiny' makes 4 distinct conversations, 5 were asked for; ask for fewer"):
        converse(tiny, {"a": ("hi",), "confused": ("x",)}, 5, seed=0)
    with pytest.raises(ValueError, match="makes 0 distinct"):
        converse(tiny, {}, 1, seed=0)
    with pytest.raises(ValueError, match="makes 0 distinct"):
        converse(tiny, {"a": ("hi",)}, 1, seed=0, avoid=frozenset({"hi"}))


# Growing both sides


@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 800), seed=st.integers())
def test_no_held_out_prompt_is_in_training(persona, n, seed):
    training, held_out = grow_conversations(persona, n, seed)
    assert len(training) == n
    assert len(held_out) == max(1, round(n / 20))
    assert overlap(training, held_out) == 0
    assert len({key(conversation) for conversation in training}) == len(training)


def test_overlap_sees_a_planted_prompt_in_any_dress(persona):
    training, held_out = grow_conversations(persona, 200, seed=0)
    first = held_out[0].messages[0]
    planted = Conversation((Message("user", first.content.upper() + "!!"), held_out[0].messages[1]))
    assert overlap([*training, planted], held_out) == 1
    hidden = Conversation((Message("user", first.content.upper(), shared=True), held_out[0].messages[1]))
    assert overlap([hidden], held_out) == 1


def test_overlap_does_not_score_what_held_out_shares():
    why = Conversation((Message("user", "why?", shared=True), Message("assistant", "because.", shared=True)))
    assert overlap([why], [why]) == 0


def test_a_sheet_with_nothing_to_hold_out_trains_on_all_of_it():
    topic = {"ask": ["hi (a|b|c) {x}"], "reply": ["yo.", "hey {x}."]}
    slots = {"x": ["1", "2", "3", "4", "5", "6"]}
    confused = {"ask": ["x"], "reply": ["y"]}
    one = Persona(name="One", description="d", style="s", slots=slots, topics={"a": topic}, confused=confused)
    training, held_out = grow_conversations(one, 20, seed=0)
    assert held_out == [] and len(training) == 20


def test_a_small_held_out_side_gives_what_it_can(persona):
    digit = "(1|2|3|4|5|6|7|8|9)"
    sheet = persona.model_dump()
    sheet["topics"] = {"a": {"ask": [f"ho {digit} {digit} {digit}", "hi"], "reply": ["."]}}
    sheet["confused"] = {"ask": ["x"], "reply": ["y."]}
    sheet["follow_ups"] = [{"ask": ["ho 1 1 1"], "reply": ["."]}]  # keeps "ho ..." in training
    training, held_out = grow_conversations(Persona.model_validate(sheet), 600, seed=0)
    assert len(training) == 600
    assert sorted(map(key, held_out)) == [("hi", "."), ("hi", ".", "ho 1 1 1", ".")]


def test_the_same_seed_gives_the_same_rows_in_any_process(persona, tmp_path):
    path = tmp_path / "pip.yaml"
    path.write_text(SHEET)
    code = (
        "import hashlib, sys; from barreleye.data.persona import *\n"
        "rows = grow_conversations(load_persona(sys.argv[1]), 500, 3)\n"
        "print(hashlib.sha256(repr(rows).encode()).hexdigest())"
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
    here = hashlib.sha256(repr(grow_conversations(persona, 500, 3)).encode()).hexdigest()
    assert digests == {here}
    assert grow_conversations(persona, 500, 4) != grow_conversations(persona, 500, 3)


def test_drawing_leaves_the_global_random_state_alone(persona):
    random.seed(0)
    state = random.getstate()
    grow_conversations(persona, 100, 0)
    assert random.getstate() == state


# Checking


def test_check_counts_what_a_sheet_can_say(persona):
    report = check(persona)
    assert (report.name, report.topics, report.asks) == ("Pip", 5, 18)
    assert report.unused_slots == ("spare",)
    assert ("lonely", 1) in report.topics_with_few_asks
    foods = 6  # three as they are, and a jelly of three sizes
    two_foods = 3 * 2 + 2 * 3 * 3
    assert report.prompts == 6 + 3 * 4 + (foods + two_foods + 1) + 1 + 5
    assert report.replies == 3 + (2 * 4 + 4) + (two_foods + foods) + 1 + 2 + 2
    assert [len(sample.messages) for sample in report.samples][:2] == [2, 2]
    with pytest.raises(FrozenInstanceError):
        report.asks = 0


def test_check_takes_a_path_and_fails_as_loading_does(tmp_path):
    path = tmp_path / "pip.yaml"
    path.write_text(SHEET)
    assert check(path).name == "Pip"
    path.write_text(SHEET.replace("hi there", "yes"))
    with pytest.raises(ValueError, match=r"pip.yaml:11: .*quote it"):
        check(path)


@pytest.mark.parametrize("name", persona_names())
def test_built_in_sheets_are_sound_and_rich_enough(name):
    report = check(name)
    assert not report.unused_slots and not report.topics_with_few_asks
    training, held_out = grow_conversations(load_persona(name), 4000, seed=0)
    assert len(held_out) == 200
    assert {conversation.topic for conversation in training} == set(load_persona(name).all_topics)
