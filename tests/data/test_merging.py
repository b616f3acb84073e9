import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barreleye.data.merging import merge_moves
from barreleye.data.tokenizer import learn_bpe, learn_characters

TEXT = "the sea, the fish: the deep sea is dark, and the fishes' eyes see it. café über 日本 🐟 " * 3
BPE = learn_bpe([TEXT], 300)


@given(st.text(st.sampled_from("the sea fishdé🐟\n'") | st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=200, deadline=None)
def test_the_last_move_leaves_the_tokens(text):
    first, moves = merge_moves(BPE, text)
    assert len(first) == len(text.encode())
    assert (moves[-1].pieces if moves else first) == [BPE.token_text(i) for i in BPE.encode(text)]


def test_moves_go_in_the_order_of_learning():
    first, moves = merge_moves(BPE, "the the")
    assert first == [*"the␣the"]
    assert (moves[0].left, moves[0].right) == ("t", "h") or (moves[0].left, moves[0].right) == ("h", "e")
    word = [move.rank for move in merge_moves(BPE, "the")[1]]
    assert word == sorted(word)
    assert moves[-1].pieces == ["the", "␣the"]


def test_characters_do_not_merge_and_the_unseen_is_refused():
    characters = learn_characters("abc ")
    assert merge_moves(characters, "a b") == (["a", "␣", "b"], [])
    with pytest.raises(ValueError, match="has not seen"):
        merge_moves(characters, "x")
