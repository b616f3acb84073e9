import math
from typing import Any

import numpy as np
import pytest
import torch

from barreleye.data.batches import ChatBatches, TextBatches, encode_text
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, Conversation, Message, chat_texts
from barreleye.data.corpus import Corpus
from barreleye.data.tokenizer import learn_bpe, learn_characters
from barreleye.training.facts import WINDOW, data_facts, entropies, spread, unused, windows

RNG = np.random.default_rng(0)


def test_independent_targets_leave_a_bigram_nothing_to_know() -> None:
    p = np.array([0.5, 0.25, 0.125, 0.125])
    tokens, targets = (RNG.choice(4, 50_000, p=p) for _ in range(2))
    unigram, bigram = entropies([tokens], targets, 4)
    assert unigram == pytest.approx(1.75 * math.log(2), rel=0.01) and bigram == pytest.approx(unigram, rel=0.002)


def test_a_token_that_depends_on_two_is_known_to_a_trigram_alone() -> None:
    before, tokens = RNG.integers(0, 4, (2, 50_000))
    unigram, bigram, trigram = entropies([tokens, before - 1], (tokens + before) % 4, 4)
    assert unigram == pytest.approx(math.log(4), rel=0.01) and bigram > 0.99 * unigram and trigram < 0.01


def test_a_markov_chain_is_known_to_a_bigram() -> None:
    """Each token is followed by one of two: half a unigram's entropy is left, and no more than one bit."""
    tokens = RNG.integers(0, 4, 50_000)
    targets, before = (tokens + RNG.integers(1, 3, 50_000)) % 4, RNG.integers(-1, 4, 50_000)
    unigram, bigram, trigram = entropies([tokens, before], targets, 4)
    assert unigram == pytest.approx(math.log(4), rel=0.01) and bigram == pytest.approx(math.log(2), rel=0.01)
    assert trigram == pytest.approx(bigram, rel=0.01)


def test_a_bigram_of_much_vocabulary_and_little_data_is_no_better_than_it_is() -> None:
    tokens, targets = RNG.integers(0, 2000, (2, 20_000))
    unigram, bigram = entropies([tokens], targets, 2000)
    assert bigram > 0.98 * unigram


def test_windows_are_equal_where_tokens_are() -> None:
    tokens = RNG.integers(0, 50, 500)
    assert len(np.unique(windows(tokens))) == 500 - WINDOW + 1
    twice = windows(np.concatenate([tokens, tokens]))
    assert np.array_equal(twice[: 500 - WINDOW + 1], twice[500:])
    changed = tokens.copy()
    changed[100] += 1
    differ = np.flatnonzero(windows(tokens) != windows(changed))
    assert differ.tolist() == list(range(100 - WINDOW + 1, 101))
    assert len(windows(tokens[: WINDOW - 1])) == 0


def facts_of_text(train: str, held_out: str, kind: type[TextBatches] = TextBatches) -> dict[str, Any]:
    tokenizer = learn_characters(train + held_out)
    return data_facts(kind(encode_text(train, tokenizer), 32, 256), Corpus(train, held_out, {}), tokenizer)


def random_text(n: int) -> str:
    return "".join(RNG.choice(list("abcdefghij "), n))


def test_text_that_repeats_and_text_that_leaks() -> None:
    one, other = random_text(3000), random_text(1000)
    clean = facts_of_text(one, other)
    assert clean["repeated"] == clean["leaked"] == 0.0 and clean["unused"] == 0.0
    assert facts_of_text(one * 4, other)["repeated"] == pytest.approx(0.75, abs=0.01)
    half = facts_of_text(one, one[:500] + other[:500])
    assert half["repeated"] == 0.0 and half["leaked"] == pytest.approx(0.5, abs=0.1)


def test_copies_far_apart_in_a_long_text_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("barreleye.training.facts.MOST_TOKENS", 6400)
    assert sum(map(len, spread("a" * 100_000))) == 6400 and spread("ab") == ["ab"]
    ends = [slices[-1][-1] for slices in (spread("a" * 99_999 + "z"), spread(np.arange(99_999)))]
    assert ends == ["z", 99_998]
    beginning = random_text(10_000)
    late = facts_of_text(beginning + random_text(200) * 450, random_text(1000))
    assert late["repeated"] > 0.5  # the first of it has no copies


class Wrong(TextBatches):
    """Targets of which some are not what comes next, or one batch again and again."""

    share, always = 0.0, False

    def __call__(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens_BT, targets_BT = super().__call__(0 if self.always else n)
        wrong_BT = torch.rand(targets_BT.shape, generator=torch.Generator().manual_seed(n)) < self.share
        return tokens_BT, torch.where(wrong_BT, 0, targets_BT)


def test_targets_follow_their_tokens_and_batches_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    text = random_text(9000)
    right = facts_of_text(text, text[:500])
    assert right["next"] == 1.0 and right["same_batch"] == 0.0 and right["learned"] == pytest.approx(256, abs=10)
    monkeypatch.setattr(Wrong, "share", 0.5)
    assert facts_of_text(text, text[:500], Wrong)["next"] == pytest.approx(0.55, abs=0.03)
    monkeypatch.setattr(Wrong, "share", 0.0)
    monkeypatch.setattr(Wrong, "always", True)
    assert facts_of_text(text, text[:500], Wrong)["same_batch"] > 0.9


def test_of_little_data_nothing_is_said_of_pairs() -> None:
    assert "bigram" not in facts_of_text("abc " * 10, "abc")


def test_chats_count_what_was_dropped_and_rows_that_nothing_reads() -> None:
    def chats(*words: str) -> list[Conversation]:
        return [Conversation((Message("user", w * 3), Message("assistant", w))) for w in words]

    heard, unheard = chats("blub blub", "glug glug"), chats("xyzzy xyzzy xyzzy")
    tokenizer = learn_bpe(chat_texts([*heard, *unheard] * 5), 280, CHAT_SPECIAL_TOKENS)
    batches = ChatBatches(heard, tokenizer, 32, 256)
    facts = data_facts(batches, Corpus(heard, [], {"duplicates_dropped": 6, "overlap": 0}), tokenizer)
    assert facts["left_out"] == 0.75 and "repeated" not in facts and "leaked" not in facts
    assert facts["next"] == 1.0 and facts["same_batch"] == 0.0  # rows of different length: padding is no target
    replies = ChatBatches(heard, tokenizer, 32, 256, loss_on="replies")
    found = data_facts(replies, Corpus(heard, [], {}), tokenizer)
    assert found["next"] == 1.0 and found["learned"] < facts["learned"]  # type: ignore[operator]
    learned = [i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids]
    merges = {i for i in learned if len(tokenizer.token_bytes(i)) > 1}
    assert facts["unused"] == pytest.approx(len(merges - set(batches.tokens.tolist())) / len(merges), abs=1e-5)
    assert 0 < facts["unused"] < 1


def test_bytes_that_stand_by_are_no_dead_rows() -> None:
    tokenizer = learn_bpe(["ab"], 260, CHAT_SPECIAL_TOKENS)
    assert unused(np.array(tokenizer.encode("ab")), tokenizer) in (None, 0.0)
