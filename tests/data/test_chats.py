"""Chats in every shape that is read, and what is said of rows that do not fit."""

import json
import os
import subprocess
import sys
from dataclasses import fields

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from barreleye.config import DataConfig
from barreleye.data.chat_format import Conversation, Message
from barreleye.data.chats import FORMATS, chat_line, left_out_line, read_chat_lines, read_chats

OK = {"prompt": "hi", "response": "hello"}


def chat(*texts, topic=""):
    """A conversation of prompts and replies in turn."""
    return Conversation(
        tuple(Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts)), topic
    )


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads what is written to a file: its conversations, and (line, reason) of the rows left out."""
    monkeypatch.chdir(tmp_path)

    def read(data, name="x.jsonl", chat_format="auto"):
        data = data if isinstance(data, str | bytes) else "".join(json.dumps(row) + "\n" for row in data)
        (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
        chats = read_chats([name], chat_format)
        assert {row.file for row in chats.left_out} <= {name}
        return chats.conversations, [(row.line, row.reason) for row in chats.left_out]

    return read


# Shapes ------------------------------------------------------------------------------------------------------------

SHAPES = {
    "messages": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
    "prompt": OK,
    "instruction": {"instruction": "hi", "output": "hello"},
    "input": {"input": "hi", "output": "hello"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_told_by_its_keys_or_named(read, shape):
    assert read([SHAPES[shape]]) == ([chat("hi", "hello")], [])
    assert read([SHAPES[shape]], chat_format=shape) == ([chat("hi", "hello")], [])
    other = "prompt" if shape != "prompt" else "messages"
    with pytest.raises(ValueError, match=rf"^x.jsonl:1: has no .* \(it has {', '.join(SHAPES[shape])}\)$"):
        read([SHAPES[shape]], chat_format=other)


def test_the_knob_names_every_shape():
    knob = next(knob for knob in fields(DataConfig) if knob.name == "chat_format")
    assert set(knob.metadata["choices"]) == {"auto", *FORMATS} == {"auto", *SHAPES}


def test_one_file_may_hold_several_shapes(read):
    assert read(SHAPES.values()) == ([chat("hi", "hello")] * len(SHAPES), [])


def test_system_turns_and_several_exchanges(read):
    sharegpt = [("system", "be a fish"), ("user", "hi"), ("assistant", "hello"), ("human", "bye"), ("gpt", "no")]
    [conversation], _ = read([{"conversations": [{"from": who, "value": text} for who, text in sharegpt]}])
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert [(m.role, m.content) for m in conversation.messages] == [
        (role, text) for role, (_, text) in zip(roles, sharegpt, strict=True)
    ]


@pytest.mark.parametrize(("context", "asked"), [("1 2", "add\n\n1 2"), ("", "add"), (None, "add")])
def test_an_instruction_may_have_an_input(read, context, asked):
    assert read([{"instruction": "add", "input": context, "output": "3"}]) == ([chat(asked, "3")], [])


def test_bom_crlf_empty_lines_topics_and_other_keys_are_taken_as_they_come(read):
    rows = [
        OK,
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
    (first, second), left_out = read(f"\ufeff{lines}\r\n")
    assert (first, left_out) == (chat("hi", "hello"), [])
    assert second.topic == "why"
    assert second.messages[1:] == (Message("user", "why?\u2028\nreally"), Message("assistant", "so", shared=True))


# Rows that do not fit ------------------------------------------------------------------------------------------------

BAD_LINES = [
    ("hello", "is not JSON"),
    ('{"messages": [', "is not JSON"),
    ("5", "a chat is a JSON object, not int"),
    ("null", "a chat is a JSON object, not NoneType"),
    ("{}", "(it has nothing)"),
    ('{"prompt": "hi"}', "(it has prompt)"),
    ('{"prompt": "hi", "response": null}', "(it has prompt)"),
    ('{"messages": []}', '"messages" must be a list of objects'),
    ('{"messages": "hi"}', '"messages" must be a list of objects, not hi'),
    ('{"messages": ["hi"]}', '"messages" must be a list of objects'),
    ('{"messages": [{"role": "cat", "content": "x"}]}', 'a message needs a "role" (system, user, assistant), not cat'),
    ('{"messages": [{"role": ["user"], "content": "x"}]}', "a message needs a"),
    ('{"conversations": [{"from": ["gpt"], "value": "x"}]}', 'a turn needs a "from"'),
    ('{"conversations": [{"from": "tool", "value": "x"}]}', "not tool"),
    ('{"conversations": [{"from": "human"}]}', "the content of a message is text, not null"),
    ('{"prompt": "hi", "response": 5}', "the content of a message is text, not 5"),
    ('{"instruction": 1, "output": "x"}', "the content of a message is text, not 1"),
    ('{"prompt": "hi", "response": " "}', "an empty message of the assistant"),
    ('{"messages": [{"role": "user", "content": "x"}]}', "one of the assistant"),
    (r'{"prompt": "\udc00", "response": "x"}', "half a character"),
    ('{"a":' * 100_000, "is nested too deeply"),
    ('{"prompt": ' + "1" * 5000 + "}", "digits"),
]


@pytest.mark.parametrize(("line", "says"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_row_that_does_not_fit_is_left_out_with_its_line_and_reason(read, line, says):
    ok = json.dumps(OK)
    conversations, [(number, reason)] = read(f"{ok}\n\n{line}\n{ok}\n")
    assert conversations == [chat("hi", "hello")] * 2
    assert number == 3 and says in reason and "\n" not in reason
    with pytest.raises(ValueError) as error:
        read(f"\n{line}\n{line}\n")
    assert str(error.value) == f"x.jsonl:2: {reason}", "where nothing fits, the first reason is the error"


def test_of_several_files_each_must_have_a_row_that_fits(read, tmp_path):
    read([OK], "a.jsonl")
    read("prompt,response\nho,hello\n,nothing asked\n", "b.csv")
    chats = read_chats(["a.jsonl", "b.csv"])
    assert chats.conversations == [chat("hi", "hello"), chat("ho", "hello")]
    assert [str(row) for row in chats.left_out] == [
        "b.csv:3: an empty message of the user; fill it in, or remove the chat"
    ]
    (tmp_path / "c.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"^c.jsonl:1: has no"):
        read_chats(["a.jsonl", "b.csv", "c.jsonl"])


def test_the_report_lists_the_first_rows_and_counts_the_rest(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps(OK) + "\n" + "{\n" * 500)
    report = read_chats([tmp_path / "x.jsonl"]).report()
    assert (report["rows"], report["rows_left_out_count"], len(report["rows_left_out"])) == (501, 500, 100)
    assert report["rows_left_out"][0]["line"] == 2
    line = left_out_line(report)
    assert line.startswith(f"500 of 501 rows left out: {tmp_path}/x.jsonl:2 (is not JSON")
    assert line.endswith("and 497 more") and "\n" not in line
    assert left_out_line(report | {"rows_left_out_count": 0}) == left_out_line({}) == ""


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("x.jsonl", b"", "x.jsonl: is empty"),
        ("x.jsonl", b'{"a": 1}\n\xff\n', "x.jsonl:2: is not UTF-8"),
        ("x.json", b"[\n", "x.json:2: is not JSON"),
        ("x.json", b"[]", "x.json: has no rows"),
        ("x.json", b"[]\n[]\n", "x.json:1: is not JSON (the array"),
        ("x.json", b'[\n{"a": 1}\n{"a": 1}]', "x.json:3: is not JSON (the array must go on with a comma"),
        ("x.json", b'[{"a": 1}] more', "x.json:1: is not JSON (the array"),
        ("x.json", b"[" * 100_000, "x.json:1: is nested too deeply"),
        ("x.json", b"[\n" + b"1" * 5000 + b"]", "x.json:2: Exceeds the limit"),
        ("x.csv", b"", "x.csv: is empty"),
        ("x.csv", b"prompt,response\n", "x.csv: has no rows"),
        ("x.csv", b"a,b\n1,2\n", "x.csv:2: has no "),
        ("x.csv", b'prompt,response\nhi,"hello\n', "x.csv:2: is not CSV"),
        ("x.csv", b"prompt,response,Prompt\nhi,hello,hi\n", "x.csv:1: two columns are called 'prompt'"),
        ("x.csv", b'prompt,"resp"onse\nhi,hello\n', "x.csv:1: is not CSV"),
        ("x.csv", b'prompt,response\nhi,hello\nhi,"hello\n' + b"ho,hello\n" * 2000, "x.csv:3: is not CSV"),
        ("x.parquet", b"", "x.parquet: is not whole Parquet"),
        ("x.parquet", b"PAR1 and no more", "x.parquet: is not whole Parquet"),
    ],
)
def test_a_file_that_is_not_in_its_format_is_refused(read, name, data, says):
    with pytest.raises(ValueError) as error:
        read(data, name)
    assert str(error.value).startswith(says)


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet", "x/y.parquet", "x"])
def test_a_file_that_is_not_there_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{name}: there is no such file; check its name$"):
        read_chats([name])
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"^{name}: is a folder; name a file$"):
        read_chats([name])


# Files of other kinds ------------------------------------------------------------------------------------------------


def test_a_json_array_is_read_with_the_line_of_each_row(read):
    rows = [OK, {"prompt": 'a [b] \\ "c", d'}, 5, {"input": "\n", "output": "x"}, {"input": "i", "output": "o"}]
    conversations, left_out = read("\n \n" + json.dumps(rows, indent=1) + "\n", "x.json")
    assert conversations == [chat("hi", "hello"), chat("i", "o")]
    assert [line for line, _ in left_out] == [8, 11, 12]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1))
def test_an_array_is_read_as_python_reads_it(tmp_path_factory, texts):
    rows = [{"prompt": f"?{text}", "response": f"!{text}"} for text in texts]
    file = tmp_path_factory.mktemp("array") / "x.json"
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=len(texts) % 3 or None), encoding="utf-8", newline="\n")
    assert read_chats([file]).conversations == [chat(row["prompt"], row["response"]) for row in rows]


def test_csv_is_read_by_the_names_of_its_header(read):
    lines = [
        "Id, Prompt ,RESPONSE,,",  # as spreadsheets end their lines
        '1,"hi, ""you""",hello',
        '2,two,"lines',
        "",
        'of it"',
        "3,one",
        "",
        "4,a,b,,,c",
        '"4" a,b,c',
        "5,x\u2028,y",
    ]
    conversations, left_out = read("\ufeff" + "\r\n".join(lines), "x.CSV")
    assert conversations == [chat('hi, "you"', "hello"), chat("two", "lines\n\nof it"), chat("x\u2028", "y")]
    assert [line for line, _ in left_out] == [6, 8, 9]
    assert "it has id, prompt" in left_out[0][1] and "more cells than the header" in left_out[1][1]
    assert left_out[2][1].startswith("is not CSV ")


def test_parquet_is_read_by_the_names_of_its_columns(tmp_path):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    for name, rows in (("a", [OK, {"prompt": "hi"}, OK]), ("b", [{"messages": messages}, {"messages": messages[:1]}])):
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=1)
    chats = read_chats([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert chats.conversations == [chat("hi", "hello")] * 3
    assert [(row.file, row.line) for row in chats.left_out] == [
        (str(tmp_path / "a.parquet"), 2),
        (str(tmp_path / "b.parquet"), 2),
    ]


# Data sets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def apart(tmp_path):
    """Reads chats in a process of its own, which cannot reach the Hugging Face Hub; what it printed."""

    def read(source):
        code = f"from barreleye.data.chats import read_chats; print(read_chats([{source!r}]))"
        # It reads these when it is imported, and keeps its settings for the whole process.
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        return done.stdout.strip(), done.stderr.strip()

    return read


def test_a_data_set_is_read_by_its_name_with_every_split(tmp_path, apart):
    folder = tmp_path / "sea" / "chats"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(json.dumps(OK) + "\n" + json.dumps({"prompt": "alone"}) + "\n")
    (folder / "test.jsonl").write_text(json.dumps({"prompt": "ho", "response": "hello"}) + "\n")
    printed, errors = apart("sea/chats")
    assert errors == ""
    conversations = [chat("hi", "hello"), chat("ho", "hello")]
    assert printed.startswith(
        f"Chats(conversations={conversations!r}, left_out=[LeftOut(file='sea/chats[train]', line=2"
    )


def test_a_data_set_that_cannot_be_reached_is_one_line(apart):
    printed, errors = apart("no-such-owner/no-such-set")
    assert printed == ""
    assert errors.splitlines()[-1].startswith(
        "ValueError: no-such-owner/no-such-set: is no file, and no data set that can be loaded (Couldn't reach"
    )
    assert errors.startswith("Traceback"), "nothing of each try is told before"


@pytest.mark.parametrize(
    ("package", "source", "says"),
    [
        ("pyarrow", "x.parquet", "x.parquet: Parquet takes packages that are not installed; pip install"),
        ("datasets", "owner/set", "owner/set: there is no such file, and a data set takes packages"),
    ],
)
def test_without_the_extra_it_is_named(tmp_path, monkeypatch, package, source, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=rf"^{says}.*'barreleye\[chats\]'$"):
        read_chats([source])


# Our own files -------------------------------------------------------------------------------------------------------

OURS = [
    chat("caf\u00e9 \u2028 \U0001f41f", 'so "said" \\ he\n', topic="food"),
    Conversation((Message("user", "why?", shared=True), Message("assistant", "why not?", shared=True))),
]


def test_a_chat_line_is_read_back_as_it_was(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n".join(map(chat_line, OURS)), encoding="utf-8")
    assert read_chat_lines(tmp_path / "x.jsonl") == OURS


def test_our_own_file_with_a_row_that_does_not_fit_is_damaged(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text(f"{chat_line(OURS[0])}\n{json.dumps(OK)}\n{chat_line(OURS[1])}\n")
    with pytest.raises(ValueError, match=rf"^{file}:2: has no \"messages\""):
        read_chat_lines(file)
