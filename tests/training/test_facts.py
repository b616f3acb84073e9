import math
from typing import Any

import numpy as np
import pytest

from barreleye.data.batches import ChatBatches, TextBatches, encode_text
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, Conversation, Message, chat_texts
from barreleye.data.corpus import Corpus
from barreleye.data.tokenizer import learn_bpe, learn_characters
from barreleye.training.facts import WINDOW, data_facts, entropies, unused, windows

RNG = np.random.default_rng(0)


def test_independent_targets_leave_a_bigram_nothing_to_know() -> None:
    p = np.array([0.5, 0.25, 0.125, 0.125])
    tokens, targets = (RNG.choice(4, 50_000, p=p) for _ in range(2))
    unigram, bigram = entropies(tokens, targets, 4)
    assert unigram == pytest.approx(1.75 * math.log(2), rel=0.01) and bigram == pytest.approx(unigram, rel=0.002)


def test_a_markov_chain_is_known_to_a_bigram() -> None:
    """Each token is followed by one of two: half a unigram's entropy is left, and no more than one bit."""
    tokens = RNG.integers(0, 4, 50_000)
    unigram, bigram = entropies(tokens, (tokens + RNG.integers(1, 3, 50_000)) % 4, 4)
    assert unigram == pytest.approx(math.log(4), rel=0.01) and bigram == pytest.approx(math.log(2), rel=0.01)


def test_a_bigram_of_much_vocabulary_and_little_data_is_no_better_than_it_is() -> None:
    tokens, targets = RNG.integers(0, 2000, (2, 20_000))
    unigram, bigram = entropies(tokens, targets, 2000)
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


def facts_of_text(train: str, held_out: str) -> dict[str, Any]:
    tokenizer = learn_characters(train + held_out)
    return data_facts(
        TextBatches(encode_text(train, tokenizer), 32, 256), Corpus(train, held_out, {}), tokenizer
    )  # fmt: skip


def random_text(n: int) -> str:
    return "".join(RNG.choice(list("abcdefghij "), n))


def test_text_that_repeats_and_text_that_leaks() -> None:
    one, other = random_text(3000), random_text(1000)
    clean = facts_of_text(one, other)
    assert clean["repeated"] == clean["leaked"] == 0.0 and clean["unused"] == 0.0
    assert facts_of_text(one * 4, other)["repeated"] == pytest.approx(0.75, abs=0.01)
    half = facts_of_text(one, one[:500] + other[:500])
    assert half["repeated"] == 0.0 and half["leaked"] == pytest.approx(0.5, abs=0.1)


def test_of_little_data_nothing_is_said_of_pairs() -> None:
    assert "bigram" not in facts_of_text("abc " * 10, "abc")


def test_chats_count_what_was_dropped_and_rows_that_nothing_reads() -> None:
    def chats(*words: str) -> list[Conversation]:
        return [Conversation((Message("user", w * 3), Message("assistant", w))) for w in words]

    heard, unheard = chats("blub blub", "glug glug"), chats("xyzzy xyzzy xyzzy")
    tokenizer = learn_bpe(chat_texts([*heard, *unheard] * 5), 280, CHAT_SPECIAL_TOKENS)
    batches = ChatBatches(heard, tokenizer, 32, 256)
    facts = data_facts(batches, Corpus(heard, [], {"duplicates_dropped": 6, "overlap": 0}), tokenizer)
    assert facts["repeated"] == 0.75 and facts["leaked"] == 0.0
    learned = [i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids]
    merges = {i for i in learned if len(tokenizer.token_bytes(i)) > 1}
    assert facts["unused"] == pytest.approx(len(merges - set(batches.tokens.tolist())) / len(merges), abs=1e-5)
    assert 0 < facts["unused"] < 1


def test_bytes_that_stand_by_are_no_dead_rows() -> None:
    tokenizer = learn_bpe(["ab"], 260, CHAT_SPECIAL_TOKENS)
    assert unused(np.array(tokenizer.encode("ab")), tokenizer) in (None, 0.0)
