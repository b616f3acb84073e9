import itertools
import math
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest

from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, IM_END, Conversation, Message, chat_texts
from barreleye.data.tokenizer import learn_bpe
from barreleye.evaluation.predictors import (
    DISCOUNT,
    ORDER,
    Lookup,
    Neighbours,
    NGram,
    Row,
    Unigram,
    encode_rows,
    scored_tokens,
)

FOODS = ("plankton", "krill", "jelly", "snow", "shrimp", "squid")
HOMES = ("a cave", "the deep", "a reef", "the sand", "a wreck", "a trench")


def talk(*turns: str, system: str = "", shared: int = 0) -> Conversation:
    """User and assistant in turn; the last `shared` messages are shared."""
    first = [Message("system", system)] if system else []
    said = [
        Message(("user", "assistant")[i % 2], text, i >= len(turns) - shared) for i, text in enumerate(turns)
    ]  # fmt: skip
    return Conversation((*first, *said))


EATS = [talk(f"do you eat {food}{mark}", f"i eat {food} all day.") for food in FOODS for mark in ("?", "??")]
LIVES = [talk(f"do you live in {home}{mark}", f"no one lives in {home}.") for home in HOMES for mark in ("?", "!")]
WHYS = [talk("hello", "blub é🐟", "why?", f"because of {food}.", shared=2) for food in FOODS]
CHATS = [*EATS, *LIVES, *WHYS]
ASKS = ("tell me about {}", "what of {}?", "do you know {}?", "{}, really", "is there {} here?", "and {}?", "oh {}!")
SAYS = ("{} is what i like most.", "no, i lost my {} in the dark.", "ask the crab, it owns {}.")
# Several prompts to each reply, so that those like an unseen one answer it.
TOPICS = [talk(ask.format(word), say.format(word)) for word in (*FOODS, "sleep", "war") for ask in ASKS for say in SAYS]
TOKENIZER = learn_bpe(chat_texts(CHATS), 320, CHAT_SPECIAL_TOKENS)
V = TOKENIZER.vocab_size
ROWS = encode_rows(CHATS, TOKENIZER)
TOPIC_ROWS = encode_rows(TOPICS, TOKENIZER)


def ids_of(rows: list[Row]) -> list[np.ndarray]:
    return [row.ids for row in rows]


def text(ids: np.ndarray) -> str:
    return TOKENIZER.decode(ids.tolist())


# Rows --------------------------------------------------------------------------------------------------------------


def test_a_reply_is_its_content_and_the_closing_token() -> None:
    conversation = talk("  hello ", " blub ", "who?", "a fish 🐟", "why?", "because", system="be wet", shared=2)
    (row,) = encode_rows([conversation], TOKENIZER)
    assert [text(reply.ids) for reply in row.replies] == [
        f"{said}{IM_END}" for said in ("blub", "a fish 🐟", "because")
    ]
    for reply in row.replies:
        assert np.array_equal(row.ids[reply.start : reply.start + len(reply.ids)], reply.ids)
    assert [reply.asked for reply in row.replies] == [("be wet", "hello"), ("be wet", "who"), ("be wet", "why")]
    assert [reply.text for reply in row.scored] == ["blub", "a fish 🐟"]
    assert text(scored_tokens([row.ids], [row])) == f"blub{IM_END}a fish 🐟{IM_END}"


def test_replies_that_answer_nothing_or_come_twice() -> None:
    conversation = Conversation(
        (Message("assistant", "hm"), Message("user", "hello"), Message("assistant", "a"), Message("assistant", "b"))
    )
    (row,) = encode_rows([conversation], TOKENIZER)
    assert [(reply.prompt, reply.text) for reply in row.replies] == [("", "hm"), ("hello", "a"), ("hello", "b")]


# Unigram -----------------------------------------------------------------------------------------------------------


def test_the_unigram_counts_what_replies_say() -> None:
    counts = Counter(token for row in ROWS for reply in row.replies for token in reply.ids.tolist())
    every = np.arange(V)
    (nats,) = Unigram(ROWS, V).nats([every])
    assert np.exp(-nats).sum() == pytest.approx(1)
    expected = [(counts[token] + 1) / (counts.total() + V) for token in every.tolist()]
    assert np.exp(-nats) == pytest.approx(expected)


# 5-gram ------------------------------------------------------------------------------------------------------------


class ObviousKneserNey:
    """Chen and Goodman 1999, equation 2.41, read out loud."""

    def __init__(self, rows: list[list[int]], vocab_size: int) -> None:
        self.vocab_size = vocab_size
        padded = [[-1] * (ORDER - 1) + row for row in rows]
        ngrams = {
            n: Counter(tuple(row[i - n : i + 1]) for row in padded for i in range(ORDER - 1, len(row)))
            for n in range(ORDER)
        }
        self.followers: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for n in range(ORDER):
            for ngram in ngrams[n]:
                longer = {other for other in ngrams[n + 1] if other[1:] == ngram} if n < ORDER - 1 else set()
                self.followers[ngram[:-1]][ngram[-1]] = len(longer) if n < ORDER - 1 else ngrams[n][ngram]

    def __call__(self, context: tuple[int, ...], token: int) -> float:
        shorter = self(context[1:], token) if context else 1 / self.vocab_size
        if context not in self.followers:
            return shorter
        counts = self.followers[context]
        return max(counts[token] - DISCOUNT, 0) / counts.total() + DISCOUNT * len(counts) / counts.total() * shorter


WORDS = [[0, 1, 2, 0, 1, 3], [1, 2, 0, 1, 2, 0, 1, 2], [3], [0, 1, 2, 0, 1, 3], [4, 0, 1, 2, 2, 2, 2, 2, 2]]


def test_the_ngram_by_an_obvious_one() -> None:
    obvious = ObviousKneserNey(WORDS, 6)
    fast = NGram([np.array(row) for row in WORDS], 6)
    rng = np.random.default_rng(0)
    asked = [*WORDS, *(rng.integers(6, size=9).tolist() for _ in range(20))]
    for row, nats in zip(asked, fast.nats([np.array(row) for row in asked]), strict=True):
        padded = (*[-1] * (ORDER - 1), *row)
        expected = [obvious(padded[i : i + ORDER - 1], token) for i, token in enumerate(row)]
        assert np.exp(-nats) == pytest.approx(expected)


@pytest.mark.parametrize("context", [[], [0], [0, 1, 2, 0], [5, 5, 5, 5], [5, 5, 0, 1], [1, 3, 0]])
def test_the_probabilities_of_a_next_token_sum_to_one(context: list[int]) -> None:
    ngram = NGram([np.array(row) for row in WORDS], 6)
    last = [nats[-1] for nats in ngram.nats([np.array([*context, token]) for token in range(6)])]
    assert np.exp(-np.array(last)).sum() == pytest.approx(1)


def test_no_ngram_crosses_from_one_row_to_the_next() -> None:
    together, apart = NGram([np.array([0, 1, 2, 3])], 6), NGram([np.array([0, 1]), np.array([2, 3])], 6)
    known = [ngram.probabilities([np.array([0, 1, 2, 3])])[1].tolist() for ngram in (together, apart)]
    assert known == [[True, True, True, True], [True, True, False, False]]
    assert (apart.nats([np.array([2, 3])])[0] < together.nats([np.array([2, 3])])[0]).all()


def test_a_large_vocabulary_does_not_overflow() -> None:
    vocab = 10_000_000
    row = np.array([vocab - 1, vocab - 2] * 50)
    nats = NGram([row], vocab).nats([row, np.array([5])])
    assert nats[0][4:].max() < 0.1 and nats[1][0] > math.log(vocab)


def test_it_has_learned_the_replies_it_read() -> None:
    ngram = NGram(ids_of(ROWS), V)
    known, unknown = encode_rows([EATS[0], talk("do you eat zebras?", "zzz qqq")], TOKENIZER)
    assert scored_tokens(ngram.nats([known.ids]), [known]).mean() < 0.8
    assert scored_tokens(ngram.nats([unknown.ids]), [unknown]).mean() > 4


# Lookup ------------------------------------------------------------------------------------------------------------


def nearest(rows: list[Row], system: str, prompt: str, unseen: bool = False) -> list[tuple[str, ...]]:
    neighbours = Neighbours(rows, V)
    (found,) = neighbours._nearest([(system, prompt)], unseen)
    return [tuple(text(ids).removesuffix(IM_END) for ids in neighbours._said[p]) for p in found]


def test_the_nearest_prompts_are_found_with_all_their_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("barreleye.evaluation.predictors.NEIGHBOURS", 1)
    assert nearest(ROWS, "", "do you eat krill") == [("i eat krill all day.",) * 2]
    assert nearest(ROWS, "", "do u liv in teh wreck") == [("no one lives in a wreck.",) * 2]
    assert set(*nearest(ROWS, "", "why")) == {f"because of {food}." for food in FOODS}


def test_prompts_that_count_as_unseen_are_left_out() -> None:
    replies = set(itertools.chain(*nearest(ROWS, "", "do you eat krill", unseen=True)))
    assert "i eat krill all day." not in replies and "i eat squid all day." in replies
    (only,) = encode_rows([talk("hello", "blub")], TOKENIZER)
    assert nearest([only], "", "hello", unseen=True) == []
    probability, known = Neighbours([only], V).probabilities(only.replies, unseen=True)
    assert not known.any() and len(probability) == len(only.replies[0].ids)


def test_a_character_answers_before_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("barreleye.evaluation.predictors.NEIGHBOURS", 1)
    rows = encode_rows(
        [talk("hello there", "blub", system="fish"), talk("are you sure", "meow", system="cat")], TOKENIZER
    )
    assert nearest(rows, "cat", "hello there") == [("meow",)]
    assert nearest(rows, "bard", "hello there") == [("blub",)]


def test_the_lookup_scores_the_tokens_that_all_score() -> None:
    everything = NGram(ids_of(ROWS), V)
    lookup = Lookup(ROWS, everything)
    rows = encode_rows([*EATS[:2], WHYS[0], talk("what?", "zzz")], TOKENIZER)
    nats = lookup.nats(rows)
    assert nats.shape == scored_tokens(everything.nats(ids_of(rows)), rows).shape
    assert np.isfinite(nats).all() and (nats > 0).all()


def test_the_lookup_is_the_two_ngrams_mixed_where_the_small_one_knows_the_context() -> None:
    everything = NGram(ids_of(TOPIC_ROWS), V)
    lookup = Lookup(TOPIC_ROWS, everything)
    lookup.weight = w = 0.3
    (row,) = encode_rows([talk("tell me of sleep", "i lost my crab in the dark.")], TOKENIZER)
    (nearby,) = lookup.neighbours._nearest([("", "tell me of sleep")], unseen=False)
    small = NGram([ids for p in nearby for ids in lookup.neighbours._said[p]], V)
    local, known = small.probabilities([row.replies[0].ids])
    alone = np.exp(-scored_tokens(everything.nats([row.ids]), [row]))
    mixed = [w * p + (1 - w) * q if knows else q for p, q, knows in zip(local, alone, known, strict=True)]
    assert np.exp(-lookup.nats([row])) == pytest.approx(mixed)
    assert 0 < known.sum() < len(known)


def test_the_weight_is_the_best_for_prompts_that_training_lacks() -> None:
    """Where each reply says its own prompt and nothing else, those of other prompts are worth little."""
    rng = np.random.default_rng(0)
    noise = ["".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(60)]
    own = encode_rows([talk(f"{word}?", word) for word in noise for _ in range(3)], TOKENIZER)
    weights = [Lookup(rows, NGram(ids_of(rows), V)).weight for rows in (own, TOPIC_ROWS)]
    assert weights[0] < 0.2 and weights[1] > 0.5


def test_the_lookup_beats_the_ngram_where_the_prompt_tells() -> None:
    everything = NGram(ids_of(TOPIC_ROWS), V)
    rows = encode_rows([talk("speak to me about squid", "squid is what i like most.")], TOKENIZER)
    alone = scored_tokens(everything.nats(ids_of(rows)), rows).sum()
    assert Lookup(TOPIC_ROWS, everything).nats(rows).sum() < 0.7 * alone


def test_too_little_to_choose_a_weight_on() -> None:
    with pytest.raises(ValueError, match="two training conversations or more"):
        Lookup(ROWS[:1], NGram(ids_of(ROWS), V))
    Lookup(ROWS[:2], NGram(ids_of(ROWS), V))


def test_without_scikit_learn_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ValueError, match=r"needs scikit-learn: pip install 'barreleye\[report\]'"):
        Neighbours(ROWS, V)
