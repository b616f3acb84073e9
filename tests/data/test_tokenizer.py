import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from barreleye.data import tokenizer as tokenizer_module
from barreleye.data.bpe import BYTE_LETTERS, PRE_TOKENIZER, count_words
from barreleye.data.pre_tokenizer import KNOWN, SPLITS, house_of
from barreleye.data.tokenizer import Tokenizer, learn_bpe, learn_characters, parse

SPECIAL = ("<|im_start|>", "<|im_end|>")
SYLLABLES = ["blub", "fi", "sh", "wa", "ter", "glas", "s", " ", " ", " ", "?", "!", "'s", "é", "🐟", "\n", "12", "oo"]


def chatter(seed: int, n: int = 400) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 30))) for _ in range(n)]


BPE = learn_bpe(chatter(1), 600, SPECIAL)
CHARACTERS = learn_characters("".join(SYLLABLES) + "<|im_end|>", SPECIAL)
ODD_ASCII = st.text("aBz09 \n\t\r\x0b\x0c\x1c\x1f\x00\x7f'stmdlvre_-<|>.", max_size=40)
BOTH = pytest.mark.parametrize("tokenizer", [BPE, CHARACTERS], ids=["bpe", "characters"])


def train_with_library(
    texts: Sequence[str], vocab_size: int, special_tokens: Sequence[str] = ()
) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    return library


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("special_tokens", [(), SPECIAL], ids=["plain", "chat"])
@pytest.mark.parametrize("vocab_size", [259, 400, 100_000])
def test_learns_what_the_tokenizers_library_learns(
    tmp_path: Path, seed: int, special_tokens: Sequence[str], vocab_size: int
) -> None:
    texts = chatter(seed)
    theirs = train_with_library(texts, vocab_size, special_tokens)
    ours = learn_bpe(iter(texts), vocab_size, special_tokens)
    ours.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    learned = json.loads(theirs.to_str())
    assert saved["model"]["merges"] == learned["model"]["merges"]
    assert saved["model"]["vocab"] == learned["model"]["vocab"]
    assert saved["added_tokens"] == learned["added_tokens"]
    unseen = chatter(seed + 100, 50)
    assert ours.encode_batch(unseen) == [row.ids for row in theirs.encode_batch(unseen)]


def test_bpe_ids_are_special_tokens_then_bytes_then_merges() -> None:
    assert [BPE.id_of(token) for token in SPECIAL] == [0, 1]
    assert BPE.special_ids == {0, 1}
    assert sorted(BPE.token_bytes(i) for i in range(2, 258)) == sorted(bytes([byte]) for byte in range(256))
    assert all(len(BPE.token_bytes(i)) > 1 for i in range(258, BPE.vocab_size))


def test_bpe_pads_no_rows_in_and_needs_room_for_the_bytes() -> None:
    assert learn_bpe([]).vocab_size == 256
    assert learn_bpe(["ab ab"], 4096).vocab_size == 257
    assert learn_bpe(["ab ab"], 256).vocab_size == 256
    with pytest.raises(ValueError, match="vocab_size 257 is too small; bytes and special tokens take 258"):
        learn_bpe(["a"], 257, SPECIAL)


@given(ODD_ASCII, st.text(max_size=10) | st.text("aé🐟\u0301\u2028\u3000\x85\xa0\u200b \n\x1f'sß١", max_size=20))
def test_words_are_cut_and_looked_up_as_the_library_merges_them(ascii_text: str, any_text: str) -> None:
    for text in (ascii_text, any_text, ascii_text + any_text):
        assert BPE.encode(text) == BPE._library.encode(text, add_special_tokens=False).ids
    texts = [ascii_text, any_text, ascii_text]
    assert BPE.encode_batch(texts) == [*map(BPE.encode, texts)]
    assert count_words([ascii_text]) == Counter(word for word, _ in PRE_TOKENIZER.pre_tokenize_str(ascii_text))


@given(st.text())
def test_bpe_round_trips_any_text(text: str) -> None:
    ids = BPE.encode(text)
    assert BPE.decode(ids) == text
    assert bool(ids) == bool(text)
    assert not BPE.special_ids & set(ids)


@given(st.lists(st.text(SYLLABLES[0] + "é🐟\n <|im_end|>")))
def test_characters_round_trip(texts: list[str]) -> None:
    learned = learn_characters("".join(texts) + "x")
    assert [learned.decode(ids) for ids in learned.encode_batch(texts)] == texts
    assert [len(ids) for ids in learned.encode_batch(texts)] == [len(text) for text in texts]


def test_characters_are_numbered_in_the_order_of_unicode() -> None:
    learned = learn_characters("hello\n🐟")
    assert (learned.kind, learned.vocab_size, learned.special_ids) == ("characters", 6, frozenset())
    assert [learned.decode([i]) for i in range(6)] == ["\n", "e", "h", "l", "o", "🐟"]
    assert [CHARACTERS.id_of(token) for token in SPECIAL] == [CHARACTERS.vocab_size - 2, CHARACTERS.vocab_size - 1]


def test_an_unseen_character_is_refused_by_name() -> None:
    learned = learn_characters("cafe")
    with pytest.raises(ValueError, match=r"has not seen 'é' \(LATIN SMALL LETTER E WITH ACUTE\), at character 4"):
        learned.encode("café")
    with pytest.raises(ValueError, match=r"has not seen '\\x00' \(U\+0000\)"):
        learned.encode("\0")
    with pytest.raises(ValueError, match="no text"):
        learn_characters("")


@pytest.mark.parametrize(
    "use",
    [
        BPE.encode,
        CHARACTERS.encode,
        learn_characters,
        lambda text: learn_bpe([text]),
        lambda t: BPE.encode_batch(["a", t]),
    ],
)
def test_a_lone_surrogate_is_refused(use) -> None:
    with pytest.raises(ValueError, match=r"'\\ud800' \(U\+D800\), at character 3") as refusal:
        use("hi\ud800")
    assert "\n" not in str(refusal.value)


@BOTH
@given(text=st.text("<|im_end>start", max_size=12), typed=st.sampled_from(SPECIAL))
def test_typing_a_special_token_gives_ordinary_text(tokenizer: Tokenizer, text: str, typed: str) -> None:
    if tokenizer.kind == "characters":
        text, typed = "", "<|im_end|>"
    ids = tokenizer.encode(text + typed + text)
    assert not tokenizer.special_ids & set(ids)
    assert tokenizer.decode(ids) == text + typed + text


@pytest.mark.parametrize("word", ["user", "a", " the", "🐟"])
def test_a_special_token_that_could_be_typed_is_refused(word: str) -> None:
    for learn in (lambda: learn_bpe(["user user"], 300, [word]), lambda: learn_characters("user", [word])):
        with pytest.raises(ValueError, match="could be typed"):
            learn()


@BOTH
def test_special_tokens_are_asked_for_by_name(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.id_of("<|im_end|>")]) == "<|im_end|>"
    with pytest.raises(ValueError, match=r"no special token <\|pad\|> \(it has <\|im_start\|>, <\|im_end\|>\)"):
        tokenizer.id_of("<|pad|>")
    with pytest.raises(ValueError, match="it has none"):
        learn_characters("abc").id_of("a")


@BOTH
@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, token_id: int) -> None:
    for use in (tokenizer.token_text, tokenizer.stream().feed, lambda i: tokenizer.decode([0, i])):
        with pytest.raises(ValueError, match=f"there is no token {token_id}"):
            use(token_id)


def test_token_text_is_readable() -> None:
    raw = learn_bpe([])
    shown = [raw.token_text(token_id) for token_id in raw.encode("a \n\tÿ\x1b")]
    assert shown == ["a", "␣", "↵", "⇥", "\\xc3", "\\xbf", "\\x1b"]
    assert BPE.token_text(0) == "<|im_start|>"
    assert "".join(BPE.token_text(i) for i in BPE.encode("blub fish")) == "blub␣fish"
    assert all(BPE.token_text(i).isprintable() for i in range(BPE.vocab_size))


@given(st.lists(st.integers(0, BPE.vocab_size - 1), max_size=40))
def test_stream_gives_what_decode_gives_and_the_library_too(ids: list[int]) -> None:
    stream = BPE.stream()
    streamed = "".join(stream.feed(token_id) for token_id in ids) + stream.finish()
    assert streamed == BPE.decode(ids)
    assert streamed == BPE._library.decode(ids, skip_special_tokens=False)


def test_stream_holds_back_a_character_until_it_is_whole() -> None:
    tokenizer = learn_bpe([])
    stream = tokenizer.stream()
    assert [stream.feed(token_id) for token_id in tokenizer.encode("a🐟!")] == ["a", "", "", "", "🐟", "!"]
    assert stream.finish() == ""
    stream.feed(tokenizer.encode("🐟")[0])
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


@BOTH
@pytest.mark.parametrize("name", ["", "model", "words.json"])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    tokenizer.save(tmp_path / name)
    loaded = Tokenizer.load(str(tmp_path / name))
    assert loaded == tokenizer
    assert hash(loaded) == hash(tokenizer)
    assert (loaded.kind, loaded.vocab_size, loaded.special_ids) == (
        tokenizer.kind, tokenizer.vocab_size, tokenizer.special_ids,
    )  # fmt: skip
    typed = "blub<|im_end|>\n"
    assert loaded.encode(typed) == tokenizer.encode(typed)
    assert not loaded.special_ids & set(loaded.encode(typed))


def test_equality_is_by_content() -> None:
    assert learn_bpe(["abab"], 260) == learn_bpe(["abab"], 260)
    assert learn_bpe(["abab"], 260) != learn_bpe(["abab"], 260, SPECIAL)
    assert learn_characters("ab") != learn_characters("abc")
    assert learn_characters("ab") != "ab"


@BOTH
def test_transformers_gives_the_same_ids(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert len(theirs) == tokenizer.vocab_size
    for text in chatter(7, 100):
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs("<|im_end|>")["input_ids"] == [tokenizer.id_of("<|im_end|>")]


@given(st.text(min_size=1))
def test_the_library_runs_any_alphabet_of_characters(text: str) -> None:
    learned = learn_characters(text)
    assert learned._library.encode(text).ids == learned.encode(text)
    assert learned._library.decode(learned.encode(text)) == text


def test_the_library_refuses_an_unseen_character_too() -> None:
    with pytest.raises(Exception, match="WordLevel error"):
        learn_characters("abc")._library.encode("abd")


def test_a_byte_level_tokenizer_of_another_house_is_read(tmp_path: Path) -> None:
    library = train_with_library(chatter(1), 300)
    library.add_special_tokens(["<|endoftext|>"])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", library.token_to_id("<|endoftext|>"))]
    )
    library.enable_truncation(3)
    library.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.decode(loaded.encode("blub blub, said the fish")) == "blub blub, said the fish"
    assert loaded.id_of("<|endoftext|>") == loaded.vocab_size - 1


# Each house's way to cut words, put together from the library's own parts.
CUTS = {
    "GPT-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "SmolLM": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
} | {
    house: [
        pre_tokenizers.Split(tokenizers.Regex(split), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    for split, house in SPLITS.items()
    if house != "GPT-2"
}


@cache
def of_house(house: str) -> tuple[tokenizers.Tokenizer, Tokenizer]:
    library = train_with_library(chatter(1), 300)
    library.pre_tokenizer = CUTS[house][0] if len(CUTS[house]) == 1 else pre_tokenizers.Sequence(CUTS[house])
    if house == "Qwen 2":
        library.normalizer = normalizers.NFC()
    library.add_special_tokens(["<|endoftext|>"])
    library.add_tokens(["<tool>"])
    ours = parse(library.to_str())
    library.encode_special_tokens = True
    return library, ours


@pytest.mark.parametrize("house", CUTS)
@given(texts=st.lists(st.text() | st.text("aB1 \n\r\t'sé🐟-./", max_size=20), max_size=5))
def test_tokenizers_of_other_houses_give_the_ids_that_the_library_gives(house: str, texts: list[str]) -> None:
    library, ours = of_house(house)
    texts = [*texts, "I'LL pay 12345 <|endoftext|> <tool>"]
    assert house_of(json.loads(library.to_str())["pre_tokenizer"]) == house
    assert ours.encode_batch(texts) == [library.encode(text, add_special_tokens=False).ids for text in texts]
    assert ours.chat is None and not ours.special_ids & set(ours.encode(texts[-1]))


@cache
def cut_as_gpt2() -> tuple[tokenizers.Tokenizer, Tokenizer]:
    """One that takes a whole word which no merges come to, and is cut by us."""
    library = train_with_library(chatter(1), 300)
    library.normalizer = normalizers.NFC()
    content = json.loads(library.to_str())
    content["model"]["ignore_merges"] = True
    content["model"]["vocab"]["ĠaBBa"] = len(content["model"]["vocab"])
    library = tokenizers.Tokenizer.from_str(json.dumps(content))
    library.add_special_tokens(["<|endoftext|>"])
    ours = parse(library.to_str())
    assert ours._cuts_as_gpt2
    library.encode_special_tokens = True
    return library, ours


@given(st.text() | st.text("aB1 \n\r\t'sé\u0301🐟-./", max_size=20))
def test_words_of_another_house_are_merged_as_the_library_merges_them(text: str) -> None:
    library, ours = cut_as_gpt2()
    text += " aBBa aBBab <|endoftext|>"
    assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids
    assert library.token_to_id("ĠaBBa") in ours.encode(text)


def test_the_cuts_of_houses_differ() -> None:
    text = "I'LL pay helloWorld 12345\n\n now/\n"
    ways = {house: str(pre_tokenizers.Sequence(parts).pre_tokenize_str(text)) for house, parts in CUTS.items()}
    assert set(CUTS) == set(KNOWN) and len(set(ways.values())) == len(KNOWN)


@pytest.mark.parametrize(
    "change",
    [
        dict(pattern={"Regex": "(a+)+$"}),
        dict(pattern={"String": " "}),
        dict(behavior="Removed"),
        dict(invert=True),
        dict(type="Whitespace"),
    ],
)
def test_a_cut_that_is_not_known_is_refused_before_it_is_compiled(change: dict[str, object]) -> None:
    library = train_with_library(chatter(1), 300)
    library.pre_tokenizer = pre_tokenizers.Sequence(CUTS["Llama 3"])
    content = json.loads(library.to_str())
    content["pre_tokenizer"]["pretokenizers"][0] |= change
    with pytest.raises(
        ValueError, match=r"cuts words in a way that is not known \(Sequence\); known are those of GPT-2"
    ):
        parse(json.dumps(content))


def test_a_character_whose_bytes_a_tokenizer_lacks_is_refused_by_name() -> None:
    """As GuppyLM's, whose training knows only the bytes that it met: the library would leave the others out."""
    library = train_with_library(chatter(1), 300)
    content = json.loads(library.to_str())
    kept = [token for token in content["model"]["vocab"] if token not in ("Ī", "Z")]  # the byte 0x88, and a letter
    content["model"]["vocab"] = {token: i for i, token in enumerate(kept)}
    ours = parse(json.dumps(content))
    assert ours.decode(ours.encode("blub é🐟")) == "blub é🐟"
    for text, name in (("aZ", "'Z' .LATIN CAPITAL LETTER Z., at character 2"), ("\u0108", "CIRCUMFLEX")):
        with pytest.raises(ValueError, match=f"has not seen .*{name}"):
            ours.encode_batch(["fine", text])


@pytest.mark.parametrize(
    ("special", "how"),
    [
        ("ab", dict(merges=[["a", "b"]])),
        ("hello", dict(ignore_merges=True)),
        ("Ġthe", dict(ignore_merges=True)),
        ("a", {}),
    ],
)
def test_a_special_token_that_a_text_makes_is_refused(special: str, how: dict[str, object]) -> None:
    """What a person types would end a turn."""
    content = json.loads(BPE._library.to_str())
    words = dict.fromkeys(["<|im_end|>", *sorted(BYTE_LETTERS), special])
    vocab = {word: i for i, word in enumerate(words)}
    content["model"] |= dict(vocab=vocab, merges=[]) | how
    end = content["added_tokens"][0]
    content["added_tokens"] = [end | dict(content=word, id=vocab[word]) for word in ("<|im_end|>", special)]
    library = tokenizers.Tokenizer.from_str(json.dumps(content))
    library.encode_special_tokens = True
    assert library.encode(special.replace("Ġ", " ")).ids == [vocab[special]]  # so it would be
    with pytest.raises(ValueError, match=re.escape(special)) as refusal:
        parse(json.dumps(content))
    assert "\n" not in str(refusal.value)


def foreign_files() -> Iterator[tuple[str, str]]:
    ours = json.loads(BPE._library.to_str())
    characters = json.loads(CHARACTERS._library.to_str())
    unigram = tokenizers.Tokenizer(models.Unigram([("a", 0.0)], unk_id=0))
    words = tokenizers.Tokenizer(models.WordLevel({"hello": 0}, unk_token="hello"))
    words.decoder = decoders.Fuse()
    lower = train_with_library(["ab"], 300)
    lower.normalizer = normalizers.Lowercase()
    prefixed = train_with_library(["ab"], 300)
    prefixed.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    yield "", "not a tokenizer.json"
    yield "{", "not a tokenizer.json"
    yield "[1, 2]", "not a tokenizer.json"
    yield json.dumps(ours)[:-5000], "not a tokenizer.json"
    yield json.dumps({**ours, "model": {**ours["model"], "merges": [["no", "such"]]}}), "not a tokenizer.json"
    yield unigram.to_str(), "neither"
    yield words.to_str(), "not one character"
    yield lower.to_str(), "normalizer"
    yield prefixed.to_str(), "cuts words in a way that is not known"
    yield json.dumps({**ours, "model": {**ours["model"], "vocab": {"a": 0, "b": 2}, "merges": []}}), "without gaps"
    yield json.dumps({**ours, "model": {**ours["model"], "dropout": 0.1}}), "BPE has a dropout"
    yield "[" * 100_000, "nested too deeply"
    far = {**characters["model"]["vocab"], "x": 10**9}
    yield json.dumps({**characters, "model": {**characters["model"], "vocab": far}}), "without gaps"


@pytest.mark.parametrize(("content", "complaint"), list(foreign_files()))
def test_a_foreign_file_is_refused_in_one_line(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=complaint) as refusal:
        Tokenizer.load(file)
    assert str(refusal.value).startswith(f"{file}: ")
    assert "\n" not in str(refusal.value)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(ValueError, match=r"tokenizer\.json: there is no such file"):
            Tokenizer.load(missing)
    file = tmp_path / "tokenizer.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"tokenizer\.json: .*decode"):
        Tokenizer.load(file)
    with pytest.raises(ValueError, match="no such file"):
        Tokenizer.load(file / "deeper")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match=r"folder\.json: cannot be read"):
        Tokenizer.load(tmp_path / "folder.json")
    BPE.save(file)
    monkeypatch.setattr(tokenizer_module, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ValueError, match="too large"):
        Tokenizer.load(file)
