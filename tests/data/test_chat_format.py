import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from barreleye.data.chat_format import (
    CHAT_SPECIAL_TOKENS,
    IM_END,
    IM_START,
    ROLES,
    Conversation,
    Message,
    Part,
    chat_texts,
    encode_chat,
    encode_chats,
)
from barreleye.data.chat_template import CHAT_TEMPLATE
from barreleye.data.tokenizer import Tokenizer, learn_bpe, learn_characters

CHAT = (
    Message("system", "you are a fish"),
    Message("user", "hello fish"),
    Message("assistant", "blub hello"),
    Message("user", "why?", shared=True),
    Message("assistant", "i am a fish", shared=True),
)
BPE = learn_bpe(list(chat_texts([Conversation(CHAT)])) * 3, 400, CHAT_SPECIAL_TOKENS)
CHARACTERS = learn_characters("".join(chat_texts([Conversation(CHAT)])), CHAT_SPECIAL_TOKENS)
BOTH = pytest.mark.parametrize("tokenizer", [BPE, CHARACTERS], ids=["bpe", "characters"])

# Hugging Face parses a special token that is typed; hypothesis finds the names of ours in the source and types them.
CONTENTS = (st.text() | st.text(" \n\r\t\x1c\x85\xa0\u2028\u3000\u200bab'.5", max_size=12)).filter(
    lambda text: not any(token in text for token in CHAT_SPECIAL_TOKENS)
)
MESSAGES = st.lists(st.builds(Message, st.sampled_from(ROLES), CONTENTS, st.booleans()), max_size=4)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("model")
    BPE.save(folder)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    theirs.chat_template = CHAT_TEMPLATE
    return theirs


@BOTH
def test_format(tokenizer: Tokenizer) -> None:
    ids, _ = encode_chat(CHAT[1:3], tokenizer, add_generation_prompt=True)
    assert tokenizer.decode(ids) == (
        "<|im_start|>user\nhello fish<|im_end|>\n<|im_start|>assistant\nblub hello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [tokenizer.decode([i]) for i in ids if i in tokenizer.special_ids] == [
        IM_START, IM_END, IM_START, IM_END, IM_START,
    ]  # fmt: skip


@BOTH
def test_parts(tokenizer: Tokenizer) -> None:
    ids, parts = encode_chat(CHAT, tokenizer)
    assert len(ids) == len(parts)

    def text_of(wanted: Part) -> str:
        return tokenizer.decode(i for i, part in zip(ids, parts, strict=True) if part == wanted)

    assert text_of(Part.REPLY) == "blub hello<|im_end|>"
    assert text_of(Part.SHARED_REPLY) == "i am a fish<|im_end|>"
    scored_by_a_loss_on_replies = np.array(parts, np.int8) > 0
    assert tokenizer.decode(np.array(ids)[scored_by_a_loss_on_replies]) == "blub hello<|im_end|>i am a fish<|im_end|>"


@given(MESSAGES.filter(bool), st.booleans())
@example([Message("user", "\n\nhi"), Message("assistant", "  \n ")], True)
@example([Message("assistant", "")], False)
def test_transformers_renders_the_same_ids(
    hugging_face: PreTrainedTokenizerFast, messages: list[Message], add_generation_prompt: bool
) -> None:
    ids, _ = encode_chat(messages, BPE, add_generation_prompt)
    theirs = hugging_face.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        add_generation_prompt=add_generation_prompt,
        tokenize=True,
        return_dict=False,
    )
    assert list(theirs) == ids


@given(MESSAGES)
def test_a_reply_continues_its_prompt(messages: list[Message]) -> None:
    whole = encode_chat([*messages, Message("assistant", "blub")], BPE)[0]
    prompt = encode_chat(messages, BPE, add_generation_prompt=True)[0]
    assert whole == prompt + BPE.encode("blub") + [BPE.id_of(IM_END)] + BPE.encode("\n")


@given(st.text("<|im_endstar>\n user", max_size=20), st.sampled_from(CHAT_SPECIAL_TOKENS))
def test_what_is_typed_is_never_a_special_token(text: str, typed: str) -> None:
    ids, _ = encode_chat([Message("user", text + typed + text)], BPE)
    assert [i for i in ids if i in BPE.special_ids] == [BPE.id_of(IM_START), BPE.id_of(IM_END)]


@BOTH
def test_many_at_once_are_the_same_as_one_by_one(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    conversations = [Conversation(tuple(rng.choices(CHAT, k=rng.randint(0, 5)))) for _ in range(50)]
    assert list(encode_chats(conversations, tokenizer)) == [encode_chat(c.messages, tokenizer) for c in conversations]


def test_nothing_said_is_nothing_encoded() -> None:
    assert list(encode_chats([Conversation(())], BPE)) == [([], [])]


def test_whitespace_around_a_message_is_dropped() -> None:
    assert encode_chat([Message("user", "\n hello fish ")], BPE) == encode_chat([Message("user", "hello fish")], BPE)


def test_headers_are_learned_as_words() -> None:
    assert [BPE.token_text(i) for i in encode_chat([], BPE, True)[0]] == [IM_START, "assistant", "↵"]


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot have the role 'gpt'; roles are system, user, assistant"):
        Message("gpt", "hello")


def test_a_tokenizer_of_plain_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no special token <\|im_start\|> \(it has none\)"):
        encode_chat(CHAT, learn_bpe(["hello"], 300))
