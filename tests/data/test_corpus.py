"""Words in, two sides out: what is read, how it is parted, and what is said of what cannot be read."""

import hashlib
import http.server
import json
import threading

import pytest

from barreleye.config import DataConfig
from barreleye.data import corpus
from barreleye.data.chat_format import Conversation, Message
from barreleye.data.corpus import (
    Corpus,
    cache_folder,
    chat_line,
    prepare,
    read_chats,
    read_shakespeare,
    read_text,
    split_chats,
    split_text,
)
from barreleye.data.dress import normalize


def chat(*texts, topic=""):
    """A conversation of prompts and replies in turn."""
    return Conversation(
        tuple(Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts)), topic
    )


def prompts(side):
    return {normalize(m.content) for c in side for m in c.messages if m.role == "user"}


MANY = [chat(f"question {n}", f"answer {n}") for n in range(100)]

# Text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "held_out"), [(1000, 100), (1009, 100), (20, 2), (10, 2), (4, 2)])
def test_the_last_tenth_of_a_text_is_held_out_in_order(length, held_out):
    text = "".join(chr(ord("a") + n % 26) for n in range(length))
    split = split_text(text)
    assert split.train + split.held_out == text
    assert len(split.held_out) == held_out
    assert split.report["train_characters"] == length - held_out
    assert split.report["held_out_characters"] == held_out
    assert split.texts() == [split.train], "a tokenizer learns from the training side alone"


@pytest.mark.parametrize("text", ["", "a", "abc"])
def test_a_text_too_short_to_split_is_refused(text):
    with pytest.raises(ValueError, match=f"a text of {len(text)} characters is too short to split; give it 4 or more"):
        split_text(text)


def test_a_text_is_read_without_its_bom_and_with_plain_line_ends(tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes("\ufeffone\r\ntwo\rthree\ntwo \ufeff marks\r\n\u2028four".encode())
    assert read_text(file) == "one\ntwo\rthree\ntwo \ufeff marks\n\u2028four"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "x.txt: is empty; name a file with text in it"),
        (b" \n\t\n", "x.txt: is empty"),
        (b"a\nb\n\xff\n", "x.txt:3: is not UTF-8 (byte 0xff); save it as UTF-8"),
        (b"a\r\n\0", "x.txt:2: has a NUL byte; this is not a text file"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, data, says):
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(ValueError) as error:
        read_text(tmp_path / "x.txt")
    assert str(error.value).startswith(f"{tmp_path}/{says}")


def test_a_line_and_a_file_may_be_so_long_and_no_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_LINE_BYTES", 8)
    file = tmp_path / "x.txt"
    file.write_bytes(b"one\n1234567\n")
    assert read_text(file) == "one\n1234567\n"
    file.write_bytes(b"one\n123456789\n")
    with pytest.raises(ValueError, match=r"x.txt:2: a line of 10 bytes"):
        read_text(file)
    monkeypatch.setattr(corpus, "MAX_BYTES", 13)
    with pytest.raises(ValueError, match=r"x.txt: is larger than"):
        read_text(file)


# Chats -------------------------------------------------------------------------------------------------------------


def test_chats_are_read_in_both_shapes_with_bom_crlf_and_empty_lines(tmp_path):
    rows = [
        {"prompt": "hi", "response": "hello"},
        {
            "messages": [
                {"role": "system", "content": ""},
                {"role": "user", "content": "why?\u2028\nreally"},
                {"role": "assistant", "content": "so", "shared": True},
            ],
            "topic": "why",
            "anything": ["else"],
        },
    ]
    lines = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "x.jsonl").write_bytes(f"\ufeff{lines}\r\n".encode())
    first, second = read_chats(tmp_path / "x.jsonl")
    assert first == chat("hi", "hello")
    assert second.topic == "why"
    assert second.messages[1:] == (Message("user", "why?\u2028\nreally"), Message("assistant", "so", shared=True))


def test_a_chat_line_is_read_back_as_it_was(tmp_path):
    chats = [
        chat("caf\u00e9 \u2028 \U0001f41f", 'so "said" \\ he\n', topic="food"),
        Conversation((Message("user", "why?", shared=True), Message("assistant", "why not?", shared=True))),
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(chat_line, chats)), encoding="utf-8")
    assert read_chats(tmp_path / "x.jsonl") == chats


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("hello", "is not JSON"),
        ("[]", "a chat is a JSON object, not list"),
        ("{}", 'has no "messages"'),
        ('{"messages": [{"role": "cat", "content": "x"}]}', "a message needs a"),
        ('{"prompt": "hi", "response": " "}', "an empty message of the assistant"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "one of the assistant"),
        (r'{"prompt": "\udc00", "response": "x"}', "half a character"),
        ("[" * 100_000, "is nested too deeply"),
    ],
)
def test_a_bad_line_of_chats_is_named(tmp_path, line, says):
    (tmp_path / "x.jsonl").write_text(chat_line(MANY[0]) + "\n\n" + line + "\n")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/x.jsonl:3: .*{says}"):
        read_chats(tmp_path / "x.jsonl")


def test_chats_are_parted_by_normalized_first_prompt():
    planted = [chat("QUESTION 7!!", "in capitals"), chat("question 8", "another answer"), chat("  Question  9 ", "x")]
    split = split_chats([*MANY, *planted], 0.1)
    assert prompts(split.train).isdisjoint(prompts(split.held_out))
    assert prompts(split.train) | prompts(split.held_out) == prompts(MANY)
    assert len(prompts(split.held_out)) == 10
    assert len(split.train) + len(split.held_out) == len(MANY) + len(planted)
    assert split.report["train"] == len(split.train) and split.report["held_out"] == len(split.held_out)
    assert (split.report["overlap"], split.report["held_out_dropped"], split.report["duplicates_dropped"]) == (0, 0, 0)
    for side in (split.train, split.held_out):
        assert [c for c in [*MANY, *planted] if c in set(side)] == list(side), "the order is kept"


def test_every_planted_prompt_stays_on_the_side_of_its_twin():
    for n in range(100):
        split = split_chats([*MANY, chat(f"QUESTION {n}!", "planted")], 0.3)
        twins = [c for c in split.train if c.messages[0].content.lower() in (f"question {n}", f"question {n}!")]
        assert len(twins) in (0, 2)


def test_a_held_out_chat_that_repeats_a_training_prompt_later_is_dropped_and_counted():
    held_out = split_chats(MANY, 0.1).held_out[0].messages[0].content
    in_training = split_chats(MANY, 0.1).train[0].messages[0].content
    leak = chat(held_out, "hm", in_training.upper() + "?", "hm")
    split = split_chats([*MANY, leak], 0.1)
    assert leak not in split.train and leak not in split.held_out
    assert split.report["held_out_dropped"] == 1
    assert split.report["held_out"] == len(split.held_out) == 10
    assert prompts(split.train).isdisjoint(prompts(split.held_out))


def test_the_same_chat_twice_counts_once():
    split = split_chats([*MANY, *MANY[:30]], 0.1)
    assert len(split.train) + len(split.held_out) == 100
    assert split.report["duplicates_dropped"] == 30


def test_the_split_depends_on_no_order_and_one_prompt_more_moves_at_most_one_other():
    before = prompts(split_chats(MANY, 0.1).held_out)
    assert prompts(split_chats(MANY[::-1], 0.1).held_out) == before
    for n in range(50):
        new = f"a new question {n}"
        after = prompts(split_chats([*MANY, chat(new, "x")], 0.1).held_out) - {new}
        assert len(before ^ after) <= 1


@pytest.mark.parametrize(
    ("chats", "says"),
    [
        ([], "fewer than 2 distinct first prompts"),
        ([chat("Hi", "a"), chat("hi!", "b")], "fewer than 2 distinct first prompts"),
        ([chat("a", "x", "b", "y"), chat("b", "x", "a", "y")], "repeats a prompt of the others"),
    ],
)
def test_chats_that_cannot_be_parted_are_refused(chats, says):
    with pytest.raises(ValueError, match=says):
        split_chats(chats, 0.1)


# What a configuration names ------------------------------------------------------------------------------------------

SHEET = """\
name: Pip
description: a small crab
style: few words
topics:
  greeting:
    ask: [hello, hi there, good day]
    reply: [click., i wave a claw.]
confused:
  ask: [what is tax, who won the game]
  reply: [i only know sand.]
"""


def test_a_character_sheet_is_parted_by_clean_prompt_and_by_seed(tmp_path):
    (tmp_path / "pip.yaml").write_text(SHEET)
    config = DataConfig("persona", str(tmp_path / "pip.yaml"), conversations=30)
    split = prepare(config, seed=1)
    assert prompts(split.train).isdisjoint(prompts(split.held_out))
    assert len(split.train) == split.report["train"] == 30
    assert split.held_out and split.report["overlap"] == 0
    assert prepare(config, seed=1) == split
    assert prepare(config, seed=2) != split


def test_a_sheet_that_leaves_nothing_to_hold_out_is_refused(tmp_path):
    sheet = SHEET.replace("[hello, hi there, good day]", "[hello]").replace("[what is tax, who won the game]", "[eh]")
    (tmp_path / "pip.yaml").write_text(sheet)
    with pytest.raises(ValueError, match=r"pip.yaml: nothing can be held out; give topics more asks"):
        prepare(DataConfig("persona", str(tmp_path / "pip.yaml"), conversations=2), seed=1)


def test_a_source_that_cannot_be_parted_is_named(tmp_path):
    (tmp_path / "x.txt").write_text("abc")
    with pytest.raises(ValueError, match=r"x.txt: a text of 3 characters"):
        prepare(DataConfig("text", str(tmp_path / "x.txt")), seed=1)
    (tmp_path / "x.jsonl").write_text(chat_line(MANY[0]))
    with pytest.raises(ValueError, match=r"x.jsonl: the chats have fewer than 2"):
        prepare(DataConfig("chats", str(tmp_path / "x.jsonl")), seed=1)


def test_chats_and_texts_are_prepared(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n".join(map(chat_line, MANY)))
    split = prepare(DataConfig("chats", str(tmp_path / "x.jsonl"), held_out=0.2), seed=1)
    assert (len(split.train), len(split.held_out)) == (80, 20)
    assert "question 1" not in split.texts() or "question 1" in prompts(split.train)
    (tmp_path / "x.txt").write_text("ab" * 50)
    assert prepare(DataConfig("text", str(tmp_path / "x.txt")), seed=1).held_out == "ab" * 5


# Tiny Shakespeare ----------------------------------------------------------------------------------------------------

TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 9


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a `tiny Shakespeare` that is TEXT."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus, "SHAKESPEARE_SHA256", hashlib.sha256(TEXT).hexdigest())
    return tmp_path / "cache" / "barreleye"


@pytest.fixture
def server(monkeypatch):
    """A web server on this machine that answers with `server.answer`; `server.asked` counts."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked += 1
            self.wfile.write(self.server.answer)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.answer = 0, b""
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(corpus, "SHAKESPEARE_URL", f"http://127.0.0.1:{server.server_port}/input.txt")
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def http_answer(body, status="200 OK"):
    return f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_shakespeare_is_fetched_once(cache, server):
    server.answer = http_answer(TEXT)
    assert read_shakespeare() == TEXT.decode()
    assert [file.name for file in cache.iterdir()] == ["tinyshakespeare.txt"]
    assert prepare(DataConfig("text", "shakespeare"), 1).train == split_text(TEXT.decode()).train
    assert server.asked == 1


def test_a_damaged_copy_is_fetched_again(cache, server):
    server.answer = http_answer(TEXT)
    cache.mkdir(parents=True)
    (cache / "tinyshakespeare.txt").write_bytes(TEXT[:100])
    assert read_shakespeare() == TEXT.decode()
    assert (cache / "tinyshakespeare.txt").read_bytes() == TEXT


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (http_answer(TEXT + b"and more"), "is not tiny Shakespeare (its SHA-256 differs)"),
        (http_answer(TEXT)[:-50], "is not tiny Shakespeare"),  # cut short on the way
        (http_answer(b""), "is not tiny Shakespeare"),
        (http_answer(b"gone", "404 Not Found"), "could not be fetched (Not Found)"),
        (b"this is no web server\r\n\r\n", "could not be fetched"),
    ],
)
def test_what_is_not_shakespeare_is_refused_and_not_kept(cache, server, answer, says):
    server.answer = answer
    with pytest.raises(ValueError) as error:
        read_shakespeare()
    assert says in str(error.value)
    assert str(error.value).endswith("--text FILE") and "\n" not in str(error.value)
    assert not cache.exists()


@pytest.mark.parametrize("error", [OSError("no route"), TimeoutError("timed out"), ConnectionResetError("reset")])
def test_without_a_network_the_way_out_is_named(cache, error):
    def fetch(url):
        raise error

    with pytest.raises(ValueError, match=rf"could not be fetched \({error}\); name a file of your own: --text FILE"):
        read_shakespeare(fetch)


def test_the_cache_is_where_this_user_keeps_what_can_be_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "barreleye"
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), lambda: monkeypatch.delenv("XDG_CACHE_HOME")):
        unset()
        assert cache_folder() == tmp_path / ".cache" / "barreleye"


def test_a_tokenizer_learns_from_the_training_side_of_chats_alone():
    texts = Corpus([chat("hello there", "hi")], [chat("unseen", "too")], {}).texts()
    assert "hello there" in texts and "hi" in texts
    assert not any("unseen" in text or "too" in text for text in texts)
