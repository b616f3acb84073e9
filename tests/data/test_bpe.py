from collections import Counter
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from barreleye.data.bpe import BYTE_LETTERS, Merge, count_words, join_pair, learn_merges, letters_to_bytes


def test_byte_letters_are_gpt2s() -> None:
    for code_point in range(0x110000):
        if 0xD800 <= code_point < 0xE000 or (code_point > 0x1000 and code_point % 97):
            continue
        character = chr(code_point)
        words = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(character)
        assert [BYTE_LETTERS[byte] for byte in character.encode()] == list(words[0][0])
    assert sorted(BYTE_LETTERS) == sorted(ByteLevel.alphabet())


def test_letters_to_bytes() -> None:
    assert letters_to_bytes("Ġcat") == b" cat"
    assert letters_to_bytes("".join(BYTE_LETTERS)) == bytes(range(256))


def test_count_words_counts_repeated_texts_each_time() -> None:
    assert count_words(["a cat, a dog", "a cat, a dog", "cat"]) == {
        "a": 2, "Ġcat": 2, ",": 2, "Ġa": 2, "Ġdog": 2, "cat": 1,
    }  # fmt: skip


def test_merges_by_hand() -> None:
    # h+u and u+g tie at 20 before "hug" decides: u+g has 10+5+5 = 20, p+u 17, u+n 16, h+u 15, g+s 5.
    words = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
    assert list(islice(learn_merges(words), 3)) == [Merge("u", "g", 20), Merge("u", "n", 16), Merge("h", "ug", 15)]


def test_ties_go_to_the_pair_of_older_tokens() -> None:
    assert [merge.token for merge in islice(learn_merges({"zy": 2, "ba": 2, "ab": 2}), 3)] == ["ab", "ba", "zy"]


def test_a_pair_seen_once_is_not_merged() -> None:
    assert list(learn_merges({"cat": 1, "dog": 1})) == []
    assert list(learn_merges({})) == []


@pytest.mark.parametrize(
    ("word", "after"),
    [([1, 1, 1], [9, 1]), ([1, 1, 1, 1], [9, 9]), ([2, 1, 1], [2, 9]), ([1], [1]), ([1, 2], [1, 2])],
)
def test_join_pair_goes_left_to_right(word: list[int], after: list[int]) -> None:
    assert join_pair(word, (1, 1), 9) == after


@given(st.dictionaries(st.text("abc", min_size=1, max_size=8), st.integers(1, 9), max_size=12))
def test_incremental_counts_equal_counting_all_again(word_counts: dict[str, int]) -> None:
    words = {word: list(word) for word in word_counts}
    for merge in learn_merges(word_counts):
        counts: Counter[tuple[str, str]] = Counter()
        for word, tokens in words.items():
            for pair in pairwise(tokens):
                counts[pair] += word_counts[word]
        assert merge.count == counts[merge.left, merge.right] == max(counts.values())
        for word, tokens in words.items():
            joined: list[str] = []
            for token in tokens:
                if joined and (joined[-1], token) == (merge.left, merge.right):
                    joined[-1] = merge.token + "!"  # marked, so that it joins nothing more in this pass
                else:
                    joined.append(token)
            words[word] = [token.removesuffix("!") for token in joined]
    assert all(
        sum(word_counts[w] * list(pairwise(words[w])).count(pair) for w in words) < 2
        for tokens in words.values()
        for pair in pairwise(tokens)
    )
