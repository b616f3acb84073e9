import pytest

from barreleye.data.chat_format import Conversation, Message
from barreleye.data.dress import normalize
from barreleye.data.sheet import Persona
from barreleye.data.split import (
    EXPANSION_CAP,
    FEWEST_TO_HOLD_BACK,
    check_split,
    clean_texts,
    follow_up_asks,
    hold_back,
    overlap,
    remembered,
    scored_prompts,
    split_prompts,
)
from barreleye.data.template import Slot, expansions

PEOPLE = [f"person {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
SHEET = {
    "name": "Pip",
    "description": "a test fish",
    "style": "short",
    "slots": {
        "food": ["snow", "krill", "plankton", "{size} jelly"],
        "size": ["tiny", "soft", "round"],
        "person": PEOPLE,
        "toy": ["ball", "ring"],
    },
    "topics": {
        "greeting": {"ask": ["hello", "hi there", "good morning", "hey you", "(well|oh) hello"], "reply": ["hello."]},
        "your_name": {
            "ask": ["my name is {person}", "i am {person}", "call me {person}"],
            "reply": ["hello {person}."],
            "follow_ups": [
                {"later": True, "ask": ["what is my name?", "who am i?"], "reply": ["you are {person}, {size}."]},
                {"ask": ["do you like it?"], "reply": ["{person} is a good name."]},
            ],
        },
        "eating": {
            "ask": ["do you like {food}?", "do you like plankton?", "{food} or {food#2}?", "what do you eat?"],
            "reply": ["i like {food}."],
        },
        "toys": {
            "ask": ["i play with {a:toy}", "my toy is {toy}"],
            "reply": ["nice {toy}."],
            "follow_ups": [{"later": True, "ask": ["what is my toy?"], "reply": ["{a:toy}."]}],
        },
        "lonely": {"ask": ["are you lonely?"], "reply": ["there is the dark."]},
    },
    "follow_ups": [{"ask": ["why?", "how come?"], "reply": ["it is the sea."]}],
    "confused": {"ask": ["what is a car?", "asdf", "...", "hola", "is it monday?"], "reply": ["i do not know that."]},
}


@pytest.fixture(scope="module")
def persona() -> Persona:
    return Persona.model_validate(SHEET)


# Prompts -------------------------------------------------------------------------------------------------------------


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


def test_the_follow_ups_asks_are_those_of_every_kind(persona):
    assert follow_up_asks(persona) == [
        *("what is my name?", "who am i?", "do you like it?", "what is my toy?", "why?", "how come?")
    ]


def test_clean_texts_are_normalized_in_order_and_capped(persona):
    assert list(clean_texts(persona, ["Hi (there|)!", "hi", "is it {size}?"])) == [
        *("hi there", "hi", "is it tiny", "is it soft", "is it round")
    ]
    assert len(clean_texts(persona, ["{person} {person#2} {person#3}"])) == EXPANSION_CAP


# Fillers -------------------------------------------------------------------------------------------------------------


def test_what_is_remembered_is_told_and_asked_for(persona):
    assert remembered(persona) == {"your_name": {Slot("person")}, "toys": {Slot("toy")}}


def test_some_of_what_is_remembered_is_held_back(persona):
    known, held = hold_back(persona, seed=1)
    assert set(held) == {"person"}, "toys are too few to miss one"
    assert len(PEOPLE) >= FEWEST_TO_HOLD_BACK and len(held["person"]) == 2
    assert sorted((*known.slots["person"], *held["person"])) == sorted(PEOPLE)
    assert known.slots["food"] == persona.slots["food"] and known.topics == persona.topics
    assert hold_back(persona, seed=1) == (known, held)
    assert len({hold_back(persona, seed)[1]["person"] for seed in range(10)}) > 5


# Overlap -------------------------------------------------------------------------------------------------------------


def test_overlap_does_not_score_what_held_out_shares():
    why = Conversation((Message("user", "why?", shared=True), Message("assistant", "because.", shared=True)))
    assert overlap([why], [why]) == []


def exchange(prompt, shared=False):
    return Conversation((Message("user", prompt, shared), Message("assistant", "so.", shared)))


def test_scored_prompts_are_those_that_belong_to_no_follow_up():
    assert scored_prompts(Conversation((*exchange("Hello!").messages, *exchange("why?", True).messages))) == ["hello"]


@pytest.mark.parametrize("planted", ["what do you eat?", "WHAT DO YOU EAT", "What do you, eat?!", " what do you  eat"])
@pytest.mark.parametrize("shared", [False, True])
def test_overlap_sees_one_planted_prompt_in_any_dress(planted, shared):
    train = [exchange(f"question {n}") for n in range(50)]
    held_out = [exchange(f"unseen {n}") for n in range(50)] + [exchange("what do you eat?")]
    assert overlap(train, held_out) == []
    later = Conversation((*train[0].messages, *exchange(planted, shared).messages))
    assert overlap([*train, later], held_out) == ["what do you eat"]
    check_split(train, held_out)
    with pytest.raises(ValueError, match="1 held-out prompt stands in training too, such as 'what do you eat'"):
        check_split([*train, later], held_out)
