import math

import numpy as np
import pytest
import torch

from barreleye.config import ModelConfig, TrainConfig
from barreleye.data.batches import ChatBatches, TextBatches
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, Conversation, Message, Part, chat_texts, encode_chat
from barreleye.data.tokenizer import Tokenizer, learn_bpe, learn_characters
from barreleye.model.transformer import Transformer
from barreleye.training.held_out import HeldOut, Score, byte_lengths, held_out_loss

CPU = TrainConfig(device="cpu", precision="float32")
CHATS = [
    Conversation((Message("user", f"hello {word}"), Message("assistant", f"blub {word} é🐟"), Message("user", "why?"),
                  Message("assistant", "no one knows", shared=True)))
    for word in ("sun", "moon", "water", "a stone", "light and snow")
]  # fmt: skip
BPE = learn_bpe(chat_texts(CHATS), 300, CHAT_SPECIAL_TOKENS)
TEXT = "the fish swam up. é🐟 the fish swam down.\n" * 9


def build(tokenizer: Tokenizer, context: int) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(
        n_layers=1,
        n_heads=2,
        d_model=16,
        d_ff=32,
        context_length=context,
        vocab_size=tokenizer.vocab_size,
        init_std=0.5,
        embed_std=0.5,
    )
    return Transformer(config)


@torch.no_grad()
def nats_of(model: Transformer, ids: list[int]) -> list[float]:
    """Each target's loss, one prefix at a time."""
    context = model.config.context_length
    losses = []
    for cut in range(0, len(ids) - 1, context):
        for end in range(cut + 1, min(cut + context, len(ids) - 1) + 1):
            logits = model(torch.tensor([ids[cut:end]]))[0, -1].double()
            losses.append(float(logits.logsumexp(0) - logits[ids[end]]))
    return losses


@pytest.mark.parametrize("tokenizer", [learn_characters(TEXT), learn_bpe([TEXT], 280)], ids=["characters", "bpe"])
def test_bits_per_byte_of_a_text(tokenizer: Tokenizer) -> None:
    model, ids = build(tokenizer, 13), tokenizer.encode(TEXT)
    batches = TextBatches(np.array(ids, np.int32), 13, 40)
    score = held_out_loss(model, batches.held_out(), byte_lengths(tokenizer), CPU)
    nats = nats_of(model.eval(), ids)
    spelled = len(TEXT.encode()) - len(tokenizer.token_bytes(ids[0]))  # all but the first token are predicted
    assert score.all.tokens == len(nats) == len(ids) - 1
    assert score.all.loss == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert score.all.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / spelled, rel=1e-5)
    assert score.all.perplexity == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-5)
    assert score.replies is None


@pytest.mark.parametrize("context", [200, 16])
def test_bits_per_byte_of_replies_to_unseen_prompts(context: int) -> None:
    model = build(BPE, context)
    score = held_out_loss(model, ChatBatches(CHATS, BPE, context, 500).held_out(), byte_lengths(BPE), CPU)
    nats, reply_nats, spelled = [], [], 0
    for conversation in CHATS:
        ids, parts = encode_chat(conversation.messages, BPE)
        losses = nats_of(model.eval(), ids)
        nats += losses
        reply_nats += [loss for loss, part in zip(losses, parts[1:], strict=True) if part == Part.REPLY]
        spelled += len(conversation.messages[1].content.encode())  # <|im_end|> is predicted, and spells nothing
    assert score.replies is not None
    assert score.all.loss == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert score.replies.tokens == len(reply_nats)
    assert score.replies.loss == pytest.approx(sum(reply_nats) / len(reply_nats), rel=1e-5)
    assert score.replies.bits_per_byte == pytest.approx(sum(reply_nats) / math.log(2) / spelled, rel=1e-5)


def test_a_model_that_knows_nothing_needs_its_vocabularys_logarithm() -> None:
    model = build(BPE, 200)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    score = held_out_loss(model, ChatBatches(CHATS, BPE, 200, 500).held_out(), byte_lengths(BPE), CPU)
    assert score.all.loss == pytest.approx(math.log(BPE.vocab_size))


def test_special_tokens_spell_no_bytes() -> None:
    lengths = byte_lengths(BPE)
    assert [int(lengths[i]) for i in BPE.special_ids] == [0, 0]
    assert int(lengths[BPE.encode("🐟 fish")].sum()) == len("🐟 fish".encode())


def test_scoring_is_without_dropout_and_changes_nothing() -> None:
    model = build(BPE, 200).train()
    model.dropout.p = 0.5
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    scores = [
        held_out_loss(model, ChatBatches(CHATS, BPE, 200, 500).held_out(), byte_lengths(BPE), CPU) for _ in range(2)
    ]
    assert scores[0] == scores[1] and isinstance(scores[0], HeldOut) and isinstance(scores[0].all, Score)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
