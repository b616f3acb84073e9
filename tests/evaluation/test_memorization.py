import random

import pytest
import torch

from barreleye.config import ModelConfig, TrainConfig
from barreleye.data.batches import ChatBatches
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, Conversation, Message, chat_texts
from barreleye.data.dress import normalize
from barreleye.data.tokenizer import Tokenizer, learn_bpe
from barreleye.evaluation.figures import Figure
from barreleye.evaluation.memorization import _halves, extraction, originality, replies_of
from barreleye.model.transformer import Transformer
from barreleye.training.loop import train

TRAINING = [
    "I swim in the deep dark sea all day.",
    "No.",
    "Ask the crab, it knows where all of the plankton went last night.",
]


def talk(prompt: str, *turns: str) -> Conversation:
    return Conversation(tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate((prompt, *turns))))


# Verbatim, and new -------------------------------------------------------------------------------------------------


def test_a_planted_reply_is_found() -> None:
    replies = {"generated": [TRAINING[0], "NO!", "yes", "maybe so"], "held-out": ["a", "b"]}
    found, raw = originality(replies, TRAINING)
    assert (found["generated"].exact.value, found["generated"].normalized.value) == (0.25, 0.5)
    assert (found["held-out"].exact.value, found["held-out"].normalized.value) == (0, 0)
    assert [(line["group"], line["exact"], line["normalized"]) for line in raw] == [
        ("generated", True, True),
        ("generated", False, True),
        ("generated", False, False),
        ("generated", False, False),
        ("held-out", False, False),
        ("held-out", False, False),
    ]


@pytest.mark.parametrize("n", [4, 8])
def test_new_ngrams_by_an_obvious_count(n: int) -> None:
    replies = [
        "i SWIM in the deep dark sea, and i eat in the deep dark sea all day",
        "ask the crab it knows where all of the fish went",
        "no",
    ]
    new = total = 0
    for words in (normalize(reply).split() for reply in replies):
        for i in range(len(words) - n + 1):
            total += 1
            new += not any(f" {' '.join(words[i : i + n])} " in f" {normalize(known)} " for known in TRAINING)
    found, raw = originality({"all": replies}, TRAINING)
    assert 0 < new < total and found["all"].new_ngrams[str(n)].value == pytest.approx(new / total)
    assert sum(line["ngrams"][n] for line in raw) == total


def test_replies_too_short_for_an_order_leave_it_out() -> None:
    found, _ = originality({"all": ["one two three four five", "no"]}, TRAINING)
    assert list(found["all"].new_ngrams) == ["4"] and found["all"].new_ngrams["4"].n == 1


def test_replies_are_what_the_assistant_says() -> None:
    assert replies_of([talk("hello", " blub ", "who?", "me"), talk("hi", "no")]) == ["blub", "me", "no"]


# Extraction --------------------------------------------------------------------------------------------------------

WORDS = "alga bream coral dory eel fin gull hake isle jelly krill limpet moray newt orca perch".split()


def jumble(n: int) -> str:
    return " ".join(random.Random(n).choices(WORDS, k=6))


ONCE = [talk(f"say {n}", jumble(n)) for n in range(8)]
THRICE = [talk(f"tell {n} {word}", jumble(20 + n)) for n in range(3) for word in ("now", "then", "soon")]
HELD_OUT = [talk(f"sing {n}", jumble(n)) for n in range(40, 46)] + [talk("sing to me", jumble(20))]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn_bpe(chat_texts([*ONCE, *THRICE]), 400, CHAT_SPECIAL_TOKENS)


@pytest.fixture(scope="module")
def parrot(tokenizer: Tokenizer) -> Transformer:
    """A model that has its training by heart."""
    torch.manual_seed(0)
    shape = dict(n_layers=2, n_heads=2, d_model=48, d_ff=96, context_length=64, vocab_size=tokenizer.vocab_size)
    model = Transformer(ModelConfig(**shape))  # type: ignore[arg-type]
    batches = ChatBatches([*ONCE, *THRICE], tokenizer, 64, 1000)
    config = TrainConfig(steps=120, warmup_steps=10, learning_rate=0.01, device="cpu", precision="float32", threads=1)
    train(model, batches, config, lambda step: False)
    return model.eval()


def test_what_is_known_by_heart_is_extracted(parrot: Transformer, tokenizer: Tokenizer) -> None:
    found = extraction(parrot, tokenizer, [*ONCE, *THRICE], HELD_OUT)
    assert found.training == {"1": Figure(1, 1, 1, 8), "2-4": Figure(1, 1, 1, 3)}  # of as many distinct replies
    assert list(found.held_out) == ["0", "2-4"] and found.held_out["0"].value == 0
    assert [line["side"] for line in found.raw] == ["training"] * 17 + ["held_out"] * 7
    for line in found.raw:
        assert line["reply"].startswith(line["given"]) and line["continued"].startswith(line["given"])
        assert 0 < len(line["given"]) < len(line["reply"])
        assert line["extracted"] == (line["continued"] == line["reply"])


def test_the_true_beginning_of_a_longer_reply_does_not_count(parrot: Transformer, tokenizer: Tokenizer) -> None:
    cut = [talk(c.messages[0].content, c.messages[1].content.rsplit(" ", 1)[0]) for c in ONCE]
    found = extraction(parrot, tokenizer, cut, HELD_OUT)
    assert found.training["1"].value == 0
    assert all(line["continued"].startswith(line["reply"]) for line in found.raw[:8])


def test_some_of_each_group_the_same_each_time(parrot: Transformer, tokenizer: Tokenizer) -> None:
    once, again = (extraction(parrot, tokenizer, [*ONCE, *THRICE], HELD_OUT, per_group=2, seed=3) for _ in range(2))
    assert once == again
    assert [line["repeats"] for line in once.raw] == ["1", "1", "2-4", "2-4", "0", "0", "2-4"]


def test_only_the_first_reply_is_asked_for(parrot: Transformer, tokenizer: Tokenizer) -> None:
    rows = [talk("say 1", jumble(1), "say 2", jumble(2)), talk("say 3", "a")]  # the second has no halves
    found = extraction(parrot, tokenizer, rows, HELD_OUT)
    assert [line["prompt"] for line in found.raw if line["side"] == "training"] == ["say 1"]


def test_a_reply_is_cut_between_characters(tokenizer: Tokenizer) -> None:
    assert _halves("🐟🐟", tokenizer) == ("🐟", 4)
    assert _halves("x🐟", tokenizer) == ("x", 4)
    assert _halves("🐟", tokenizer) is None  # all cuts go through it
    assert _halves("x", tokenizer) is None
