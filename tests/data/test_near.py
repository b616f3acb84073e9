import random
import sys
from itertools import combinations

import pytest

from barreleye.data.near import near_across, near_duplicates

WORDS = "crumb snow linda shadow dark fish lamp whale jelly doris kevin eat look swim hide count sing".split()


def exact(texts, threshold):
    """All pairs, one by one."""
    sets = [{text[i : i + 3] for i in range(len(text) - 2)} for text in texts]
    found = []
    for i, j in combinations(range(len(texts)), 2):
        likeness = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
        if likeness >= threshold:
            found.append((i, j, likeness))
    return found


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8])
def test_it_finds_what_comparing_all_pairs_finds(threshold):
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=8)) for _ in range(150)]
    for text in texts[:60]:  # the same with a word changed, a word added
        words = text.split()
        words[rng.randrange(8)] = "bubble"
        texts += [" ".join(words), f"{text} again"]
    expected = exact(texts, threshold)
    found = near_duplicates(texts, threshold)
    assert set(found) <= set(expected) and found == sorted(found)
    assert len(found) > 0.97 * len(expected) > 10


def test_case_and_punctuation_make_no_difference():
    texts = ["What do you eat?", "hello", "what do you eat", "HELLO!!", "what do i eat", "ab", "a b", "ab."]
    assert near_duplicates(texts) == [(0, 2, 1.0), (1, 3, 1.0), (5, 7, 1.0)]


def test_the_threshold_is_the_least_likeness():
    texts = ["abcdef", "abcdefg"]  # 4 shingles of 5
    assert near_duplicates(texts, 0.8) == [(0, 1, 0.8)]
    assert near_duplicates(texts, 0.81) == []


def test_across_two_sets_each_text_meets_the_one_most_like_it():
    others = ["tell me about the great big sea", "What is a fish", "tell me about the great big seas"]
    texts = ["a lamp", "TELL me about the great big sea!", "tell me about the great big sear", "what is a fish?"]
    found = near_across(texts, others)
    assert [(i, j) for i, j, _ in found] == [(1, 0), (2, 0), (3, 1)]
    assert found[0][2] == found[2][2] == 1.0 > found[1][2] > 0.8
    assert near_across(texts, []) == near_across([], others) == []


def test_nothing_is_like_nothing():
    assert near_duplicates([]) == near_duplicates(["alone"]) == []


def test_without_datasketch_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(ImportError):
        near_duplicates(["a", "b"])
