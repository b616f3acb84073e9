"""Replies drawn many at a time are those that come one at a time."""

import pytest
import torch

from barreleye.config import ModelConfig, Sampling
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, IM_END, IM_START, Message, encode_chat
from barreleye.data.tokenizer import learn_bpe
from barreleye.evaluation import replies as room
from barreleye.evaluation.replies import reply_all
from barreleye.inference.generate import generate_tokens
from barreleye.model.transformer import Transformer

WORDS = "the fish swam up and the snow came down in the dark".split()
TOKENIZER = learn_bpe([" ".join(WORDS)] * 3, 280, CHAT_SPECIAL_TOKENS)
STOPS = frozenset({TOKENIZER.id_of(IM_START), TOKENIZER.id_of(IM_END)})
GREEDY = Sampling(temperature=0)
WARM = Sampling(temperature=1.5, top_p=0.95, seed=7)


def build(context: int = 160) -> Transformer:
    """Random weights, with a leaning to end a reply now and then."""
    generator = torch.Generator().manual_seed(1)
    config = ModelConfig(
        n_layers=2, n_heads=2, d_model=32, d_ff=64, context_length=context, vocab_size=TOKENIZER.vocab_size,
        tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
        model.unembed.weight[sorted(STOPS)] *= 2
    return model.eval()


MODEL = build()
CHATS = [[Message("user", " ".join(WORDS[i : i + n]))] for n in (1, 2, 3) for i in range(8)]
CHATS += [[*chat, Message("assistant", "blub"), Message("user", "why?")] for chat in CHATS[:6]]


def one_by_one(chat: list[Message], max_tokens: int = 80, sampling: Sampling = GREEDY, prefix: str = "") -> str:
    prompt = encode_chat(chat, TOKENIZER, add_generation_prompt=True)[0] + TOKENIZER.encode(prefix)
    return prefix + TOKENIZER.decode(generate_tokens(MODEL, prompt, max_tokens, sampling, STOPS))


@pytest.mark.parametrize("largest", [128, 3])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_batch_says_what_each_says_alone(penalty: float, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LARGEST_BATCH", largest)
    sampling = Sampling(temperature=0, repetition_penalty=penalty)
    replies = reply_all(MODEL, TOKENIZER, CHATS, sampling, max_tokens=30)
    assert replies == [one_by_one(chat, 30, sampling) for chat in CHATS]
    sizes = {len(TOKENIZER.encode(reply)) for reply in replies}
    assert len(sizes) > 5 and max(sizes) >= 30 > min(sizes)  # some end early, and leave the others to go on


def test_replies_are_in_the_order_of_the_questions() -> None:
    replies = reply_all(MODEL, TOKENIZER, CHATS, GREEDY, 10)
    assert reply_all(MODEL, TOKENIZER, CHATS[::-1], GREEDY, 10) == replies[::-1]


def test_a_seed_gives_the_same_replies_whatever_else_is_drawn() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    replies = reply_all(MODEL, TOKENIZER, CHATS, WARM, 10)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert reply_all(MODEL, TOKENIZER, CHATS, WARM, 10) == replies
    others = [reply_all(MODEL, TOKENIZER, CHATS, Sampling(temperature=1.5, seed=seed), 10) for seed in (8, -1, -1)]
    assert len({tuple(said) for said in (replies, *others)}) == 4


def test_two_who_ask_the_same_are_answered_apart() -> None:
    assert len(set(reply_all(MODEL, TOKENIZER, [CHATS[0]] * 20, WARM))) > 10


def test_luck_belongs_to_the_place() -> None:
    """What others are asked changes nothing: two calls differ where the questions do."""
    replies = reply_all(MODEL, TOKENIZER, CHATS, WARM, 10)
    changed = [CHATS[0] if i % 2 else chat for i, chat in enumerate(CHATS)]
    again = reply_all(MODEL, TOKENIZER, changed, WARM, 10)
    assert again[::2] == replies[::2] and again[1::2] != replies[1::2]


def test_what_a_person_typed_is_read_first() -> None:
    chats = [[Message("user", "WAHT?"), Message("assistant", "waht"), Message("user", "waht?")]]
    mended = [[Message("user", "what?"), Message("assistant", "waht"), Message("user", "what?")]]
    read = {"WAHT?": "what?", "waht?": "what?"}.__getitem__
    assert reply_all(MODEL, TOKENIZER, chats, GREEDY, read=read) == reply_all(MODEL, TOKENIZER, mended, GREEDY)


def test_one_alone_draws_what_a_chat_draws() -> None:
    assert reply_all(MODEL, TOKENIZER, [CHATS[0]], WARM) == [one_by_one(CHATS[0], sampling=WARM)]


def test_a_reply_goes_on_from_its_prefix() -> None:
    prefixes = ["the fish", "", " snow", "🐟"] * 5
    replies = reply_all(MODEL, TOKENIZER, CHATS[:20], GREEDY, 10, prefixes)
    assert replies == [one_by_one(c, 10, prefix=p) for c, p in zip(CHATS[:20], prefixes, strict=True)]


def test_the_context_is_never_left() -> None:
    """A chat that fits gets the room that is left; of a longer one the end is read."""
    model, long = build(context=48), [Message("user", "dark " * 60)]
    said = reply_all(model, TOKENIZER, [long, CHATS[0]], GREEDY, max_tokens=500)
    ids = encode_chat(long, TOKENIZER, add_generation_prompt=True)[0]
    assert said[0] == TOKENIZER.decode(generate_tokens(model, ids[-36:], 12, GREEDY, STOPS))
    ids = encode_chat(CHATS[0], TOKENIZER, add_generation_prompt=True)[0]
    assert said[1] == TOKENIZER.decode(generate_tokens(model, ids, 48 - len(ids), GREEDY, STOPS))


def test_no_questions_and_no_tokens() -> None:
    assert reply_all(MODEL, TOKENIZER, [], GREEDY) == []
    assert reply_all(MODEL, TOKENIZER, CHATS[:3], GREEDY, max_tokens=0) == ["", "", ""]
