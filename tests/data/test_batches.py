import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from barreleye.data import batches as batches_module
from barreleye.data.batches import IGNORE, ChatBatches, TextBatches, batch_edges, encode_text, map_if_large
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, Conversation, Message, Part, chat_texts, encode_chat
from barreleye.data.tokenizer import learn_bpe, learn_characters

WORDS = "blub fish water deep dark glass eye snow krill light why where you me is the a not".split()


def chats(n: int, seed: int = 0, longest: int = 30) -> list[Conversation]:
    rng = random.Random(seed)

    def say() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, longest)))

    made = []
    for _ in range(n):
        turns = []
        for exchange in range(rng.randint(1, 3)):
            turns += [Message("user", say(), exchange > 0), Message("assistant", say(), exchange > 0)]
        made.append(Conversation(tuple(turns)))
    return made


CHATS = chats(300)
TOKENIZER = learn_bpe(chat_texts(CHATS), 300, CHAT_SPECIAL_TOKENS)


def rows_of(batch: tuple[Tensor, Tensor]) -> list[tuple[int, ...]]:
    """The ids of each row: what is read, and the last target. Only the end of a row may be padding."""
    rows = []
    for tokens, targets in zip(*batch, strict=True):
        there = targets != IGNORE
        n = int(there.sum())
        assert there[:n].all() and torch.equal(tokens[1:n], targets[: n - 1])
        rows.append((*tokens[:n].tolist(), int(targets[n - 1])))
    return rows


def whole(conversation: Conversation) -> tuple[int, ...]:
    return tuple(encode_chat(conversation.messages, TOKENIZER)[0])


def text_rows(batches: TextBatches, epoch: int) -> list[tuple[int, ...]]:
    first = epoch * batches.per_epoch
    return [row for n in range(first, first + batches.per_epoch) for row in rows_of(batches(n))]


# Chats -------------------------------------------------------------------------------------------------------------


def test_every_chat_is_read_once_an_epoch_in_an_order_of_its_own() -> None:
    batches = ChatBatches(CHATS, TOKENIZER, context=400, batch_tokens=1024, seed=3)
    epochs = []
    for epoch in range(3):
        first = epoch * batches.per_epoch
        epochs.append([row for n in range(first, first + batches.per_epoch) for row in rows_of(batches(n))])
        assert Counter(epochs[-1]) == Counter(map(whole, CHATS))
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("kind", ["chats", "text"])
def test_a_batch_is_a_function_of_seed_and_number_alone(kind: str) -> None:
    def make() -> ChatBatches | TextBatches:
        if kind == "chats":
            return ChatBatches(CHATS[:60], TOKENIZER, 64, 512, seed=7)
        return TextBatches(np.arange(500, dtype=np.int32), 16, 64, seed=7)

    in_order, asked = make(), make()
    expected = [in_order(n) for n in range(4 * in_order.per_epoch)]
    numbers = random.Random(0).choices(range(len(expected)), k=3 * len(expected))
    for n in numbers:
        assert all(torch.equal(a, b) for a, b in zip(asked(n), expected[n], strict=True))


def test_another_seed_another_order() -> None:
    one, two = (ChatBatches(CHATS, TOKENIZER, 400, 1024, seed) for seed in (1, 2))
    assert [one(n)[0].tolist() for n in range(5)] != [two(n)[0].tolist() for n in range(5)]


@pytest.mark.parametrize("batch_tokens", [300, 1024, 4096])
def test_a_batch_keeps_its_size_and_almost_nothing_is_padding(batch_tokens: int) -> None:
    many = chats(2000, seed=1)
    batches = ChatBatches(many, TOKENIZER, context=256, batch_tokens=batch_tokens)
    read = padding = 0
    for n in range(batches.per_epoch):
        tokens, targets = batches(n)
        assert tokens.numel() <= batch_tokens and tokens.shape == targets.shape
        assert tokens.dtype == targets.dtype == torch.int64
        read += tokens.numel()
        padding += int((targets == IGNORE).sum())
    assert padding / read < 0.03
    assert read / batches.per_epoch > 0.9 * batch_tokens - 256  # and no batch is needlessly small


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 120))
def test_edges_cut_at_the_last_row_that_fits(lengths: list[int], batch_tokens: int) -> None:
    lengths = sorted(lengths)
    edges = batch_edges(np.array(lengths), batch_tokens).tolist()
    assert edges[0] == 0 and edges[-1] == len(lengths) and edges == sorted(set(edges))
    for left, right in pairwise(edges):
        assert right - left == 1 or (right - left) * lengths[right - 1] <= batch_tokens
        if right < len(lengths):
            assert (right + 1 - left) * lengths[right] > batch_tokens


def test_only_replies_are_learned_where_that_is_asked() -> None:
    everything = ChatBatches(CHATS, TOKENIZER, 400, 2048)
    replies = ChatBatches(CHATS, TOKENIZER, 400, 2048, loss_on="replies")
    learned: list[int] = []
    for n in range(replies.per_epoch):
        tokens, targets = replies(n)
        assert torch.equal(tokens, everything(n)[0])
        kept = targets != IGNORE
        assert torch.equal(targets[kept], everything(n)[1][kept])
        learned += targets[kept].tolist()
    spoken = [token for c in CHATS for token, part in zip(*encode_chat(c.messages, TOKENIZER), strict=True) if part]
    assert Counter(learned) == Counter(spoken)
    assert learned.count(TOKENIZER.id_of("<|im_end|>")) == sum(len(c.messages) // 2 for c in CHATS)


def test_a_long_chat_is_cut_and_each_of_its_tokens_is_a_target_once() -> None:
    context = 20
    batches = ChatBatches(CHATS, TOKENIZER, context, 400)
    rows = [row for n in range(batches.per_epoch) for row in rows_of(batches(n))]
    assert max(map(len, rows)) == context + 1
    pieces = []
    for chat in map(whole, CHATS):
        pieces += [chat[cut : cut + context + 1] for cut in range(0, len(chat) - 1, context)]
    assert Counter(rows) == Counter(pieces)
    assert sum(len(row) - 1 for row in rows) == sum(len(whole(c)) - 1 for c in CHATS)


def test_the_last_row_is_whole_too() -> None:
    """Padding is cut from the end of the store: the very last chat must not run over it."""
    short, long = chats(1, seed=5, longest=2)[0], chats(1, seed=6)[0]
    batches = ChatBatches([long, short], TOKENIZER, 400, 100_000)
    assert sorted(rows_of(batches(0))) == sorted([whole(long), whole(short)])


def test_held_out_chats_are_scored_once_with_their_parts() -> None:
    batches = ChatBatches(CHATS, TOKENIZER, 64, 512)
    scored: Counter[tuple[int, int]] = Counter()
    for tokens, targets, parts in batches.held_out():
        assert tokens.shape == targets.shape == parts.shape
        there = targets != IGNORE
        assert not parts[~there].any()
        scored.update(zip(targets[there].tolist(), parts[there].tolist(), strict=True))
    expected: Counter[tuple[int, int]] = Counter()
    for c in CHATS:
        ids, kinds = encode_chat(c.messages, TOKENIZER)
        expected.update(zip(ids[1:], map(int, kinds[1:]), strict=True))
    assert scored == expected
    assert {part for _, part in scored} == {Part.OTHER, Part.SHARED_REPLY, Part.REPLY}
    assert [t.shape for t, _, _ in batches.held_out()] == [t.shape for t, _, _ in batches.held_out()]


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="no conversations"):
        ChatBatches([], TOKENIZER, 64, 512)
    with pytest.raises(ValueError, match="1 tokens is too short"):
        TextBatches(np.array([5], np.int32), 64, 512)


# Text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 9, 10, 11, 12, 100, 1001, 1010])
def test_windows_cover_a_text_from_a_new_beginning_each_epoch(size: int) -> None:
    text = np.arange(size, dtype=np.int32)
    batches = TextBatches(text, context=10, batch_tokens=40, seed=1)
    beginnings = set()
    for epoch in range(8):
        rows = sorted(text_rows(batches, epoch))
        assert len(rows) == batches.windows
        joined = [rows[0][0]] + [token for row in rows for token in row[1:]]
        assert joined == list(range(joined[0], joined[0] + len(joined)))  # side by side, none twice
        assert joined[0] <= 10 and joined[-1] < size
        assert len(joined) > size - 2 * 10 - 1
        beginnings.add(joined[0])
    if size > 12:
        assert len(beginnings) > 3


@pytest.mark.parametrize("size", [2, 9, 10, 11, 21, 100, 101, 109])
def test_held_out_text_has_every_target_once_and_in_order(size: int) -> None:
    batches = TextBatches(np.arange(size, dtype=np.int32), context=10, batch_tokens=30)
    targets = [t for _, targets_BT, parts in batches.held_out() for t in targets_BT.flatten().tolist()]
    tokens = [t for tokens_BT, _, _ in batches.held_out() for t in tokens_BT.flatten().tolist()]
    assert targets == list(range(1, size))
    assert tokens == list(range(size - 1))
    assert all(tokens.shape[1] <= 10 and not parts.any() for tokens, _, parts in batches.held_out())


def test_a_text_shorter_than_the_context_is_one_window() -> None:
    batches = TextBatches(np.arange(5, dtype=np.int32), context=100, batch_tokens=2048)
    tokens, targets = batches(7)
    assert tokens.tolist() == [[0, 1, 2, 3]] and targets.tolist() == [[1, 2, 3, 4]]


def test_a_long_text_is_encoded_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "CHUNK_CHARACTERS", 50)
    rng = random.Random(0)
    text = "".join(rng.choice(["fish ", "blub\n", "é", "🐟 ", "x" * 60, "\n\n"]) for _ in range(200))
    for tokenizer in (learn_characters(text), learn_bpe([text], 300)):
        ids = encode_text(text, tokenizer)
        assert ids.dtype == np.int32 and tokenizer.decode(ids.tolist()) == text
    assert encode_text(text, learn_characters(text)).tolist() == learn_characters(text).encode(text)
    assert len(encode_text("", TOKENIZER)) == 0


def test_large_tokens_are_mapped_and_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.arange(1000, dtype=np.int32)
    assert map_if_large(tokens, tmp_path / "a" / "t.npy") is tokens
    monkeypatch.setattr(batches_module, "MAPPED_FROM_BYTES", 100)
    mapped = map_if_large(tokens, tmp_path / "a" / "t.npy")
    assert isinstance(mapped, np.memmap) and np.array_equal(mapped, tokens)
    one, two = TextBatches(tokens, 16, 64), TextBatches(mapped, 16, 64)
    assert all(torch.equal(one(n)[0], two(n)[0]) and torch.equal(one(n)[1], two(n)[1]) for n in range(40))
