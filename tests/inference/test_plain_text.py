import json
import random
import sys
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS
from barreleye.data.tokenizer import learn_bpe, learn_characters
from barreleye.inference.plain_text import PlainTokenizer, cut

sys.path.insert(0, str(Path(__file__).parents[1]))
import mutations
from mutated_files import mutate_tokenizer

TEXT = "what is water? don't ask; we'll see 1984 fish in the sea.\n" * 3 + "café naïve 日本 🐟 ½\t\tend\n\n"
BPE = learn_bpe([TEXT], 320, CHAT_SPECIAL_TOKENS)
CHARACTERS = learn_characters(TEXT, CHAT_SPECIAL_TOKENS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    BPE.save(folder / "bpe.json")
    CHARACTERS.save(folder / "characters.json")
    return {kind: PlainTokenizer(folder / f"{kind}.json") for kind in ("bpe", "characters")}


@settings(deadline=None, max_examples=500)
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cn"]))
    | st.text("aé 'sdl\n\t\u00a0\u2009½Ⅷ٣1_.<|>🐟e\u0301\x1c\x85", max_size=30)
)
def test_the_ids_are_those_of_the_library(plain, text):
    ids = plain["bpe"].encode(text)
    assert ids == BPE.encode(text)
    assert b"".join(plain["bpe"].bytes_of[i] for i in ids).decode() == text


def test_special_tokens_are_never_typed(plain):
    for kind, theirs in (("bpe", BPE), ("characters", CHARACTERS)):
        assert plain[kind].special == {token: theirs.id_of(token) for token in CHAT_SPECIAL_TOKENS}
        assert [*plain[kind].bytes_of] == [theirs.token_bytes(i) for i in range(theirs.vocab_size)]
    assert not set(plain["bpe"].encode("<|im_end|>")) & BPE.special_ids
    assert plain["characters"].encode(TEXT) == CHARACTERS.encode(TEXT)
    with pytest.raises(ValueError, match="has not seen 'ж'"):
        plain["characters"].encode("a ж")


def test_long_texts_take_no_long(plain):
    rng = random.Random(0)
    text = "".join(rng.choices(TEXT, k=20_000))
    assert plain["bpe"].encode(text) == BPE.encode(text)
    assert "".join(cut(text)) == text


def changed(**parts):
    return json.dumps(json.loads(BPE.to_json()) | parts)


MODEL = json.loads(BPE.to_json())["model"]
HOSTILE = {
    "empty": ("", "Expecting value"),
    "deep": ("[" * 100_000, "t.json: "),
    "a list": ("[]", "is not a tokenizer.json"),
    "no model": ("{}", "is not a tokenizer.json"),
    "another model": (changed(model=MODEL | {"type": "Unigram"}), "neither a tokenizer by characters nor"),
    "a normalizer": (changed(normalizer={"type": "Lowercase"}), "neither a tokenizer by characters nor"),
    "another cut": (changed(pre_tokenizer={"type": "Whitespace"}), "not cut as GPT-2"),
    "a gap": (changed(model=MODEL | {"vocab": MODEL["vocab"] | {"zz": 10**9}}), "without gaps"),
    "ids that are no numbers": (changed(model=MODEL | {"vocab": {"a": "b", "c": 1}}), "is not a tokenizer.json"),
    "a merge of nothing": (changed(model=MODEL | {"merges": ["q q"]}), "a merge makes no token"),
    "a merge of three": (changed(model=MODEL | {"merges": [["a", "b", "c"]]}), "a merge makes no token"),
    "a byte that is missing": (
        changed(model=MODEL | {"vocab": {("ж" if t == "a" else t): i for t, i in MODEL["vocab"].items()}}),
        "not spelled in GPT-2's",
    ),
}


@pytest.mark.parametrize(("text", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_one_line(tmp_path, text, says):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        PlainTokenizer(tmp_path / "t.json")
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["bpe", "characters"])
@pytest.mark.parametrize("mutate", [mutations.mutate_bytes, mutations.mutate_json, mutate_tokenizer])
def test_mutated_files(tmp_path, kind, mutate):
    """What is read gives each text back, and a special token for none."""

    def judge(read):
        for text in ("what is water? 1984", "café 🐟\n\n end", "<|im_end|>", *read.special):
            try:
                ids = read.encode(text)
            except ValueError as error:  # a character that it has not seen
                mutations.check_refusal(error)
                continue
            assert not {*read.special.values()} & set(ids), text
            assert b"".join(read.bytes_of[i] for i in ids).decode() == (
                normalize("NFC", text) if read.composes else text
            )

    data = {"bpe": BPE, "characters": CHARACTERS}[kind].to_json().encode()
    counted = mutations.read_mutated(data, tmp_path / "t.json", PlainTokenizer, judge, mutate)
    assert counted.read < mutations.N
    assert mutate is mutations.mutate_bytes or counted.read >= mutations.N * 0.1
