"""Texts, character sheets and chats that are not what they should be."""

from bad_inputs import CHAT, CHATS, SHEET, Case, edit, long_line, sparse, write

MESSAGES = '{{"messages": [{}]}}\n'
USER, ASSISTANT = '{"role": "user", "content": "hi"}', '{"role": "assistant", "content": "hello"}'
CONFUSED = SHEET[SHEET.index("confused:") :]
SMALL_SHEET = """\
name: P
description: d
style: s
topics: {a: {ask: [hi, yo], reply: [x]}}
confused: {ask: [ok, ha], reply: [y]}
"""
TEXTS = [
    Case("train --text x.txt", "x.txt: is empty", write("x.txt", "")),
    Case("train --text x.txt", "x.txt: is empty", write("x.txt", " \n\t\r\n ")),
    Case("train --text x.txt", "x.txt: a text of 0 characters", write("x.txt", b"\xef\xbb\xbf")),
    Case("train --text x.txt", "x.txt: a text of 1 characters is too short", write("x.txt", "a")),
    Case("train --text x.txt", "x.txt: a text of 3 characters is too short", write("x.txt", "abc")),
    Case("train --text x.txt", "x.txt:2: is not UTF-8 (byte 0xff)", write("x.txt", b"fine\nnot \xff fine\n")),
    Case("train --text x.txt", "x.txt:1: is not UTF-8", write("x.txt", "caf\u00e9\n".encode("latin-1") * 9)),
    Case("train --text x.txt", "x.txt:1: has a NUL byte", write("x.txt", "some text".encode("utf-16"))),
    Case("train --text x.txt", "x.txt:1: is not UTF-8", write("x.txt", b"\xed\xa0\x80 is half a character")),
    Case("train --text x.txt", "x.txt:3: has a NUL byte", write("x.txt", b"a\nb\nc\0d\n")),
    Case("train --text x.txt", "x.txt:1: has a NUL byte", sparse("x.txt", 100 * 2**20)),
    Case("train --text x.txt", "x.txt: is larger than 4 GiB", sparse("x.txt", 2**40)),
    Case("train --text x.txt", "x.txt:2: a line of 104,857,600 bytes", long_line("x.txt", 100 * 2**20)),
    Case("train --text missing.txt", "missing.txt: there is no such file"),
    Case("train --text runs", "runs: is a folder; name a file"),
    Case("train --text ''", ".: is a folder; name a file"),
    Case("train --text text.txt/x", "text.txt/x: cannot be read (Not a directory)"),
    Case(f"train --text {'x' * 300}", "File name too long"),
    Case("train --text /dev/zero", "/dev/zero: is a device"),
    Case("train --text 'x\udcff'", r"the name 'x\udcff' is not UTF-8"),
    Case(
        "train --text x.txt --tokenizer bpe TINY", "x.txt: a text of 1 tokens is too short", write("x.txt", "ab" * 10)
    ),
]

SHEETS = [
    Case("persona check x.yaml", "x.yaml:1: the sheet is empty", write("x.yaml", "")),
    Case("persona check x.yaml", "x.yaml:1: the sheet is empty", write("x.yaml", "\n \n# only this\n")),
    Case("persona check x.yaml", "x.yaml:2: not UTF-8", write("x.yaml", b"name: Pip\nstyle: \xff\n")),
    Case("persona check x.yaml", "x.yaml:1: a NUL byte", write("x.yaml", b"na\0me: Pip\n")),
    Case("persona check x.yaml", "x.yaml:1: a NUL byte", sparse("x.yaml", 1000)),
    Case("persona check x.yaml", "x.yaml:1: larger than 2,000,000 bytes", sparse("x.yaml", 2**40)),
    Case("persona check x.yaml", "x.yaml:2: not YAML", write("x.yaml", "name: Pip\n style: [a\n")),
    Case("persona check x.yaml", "x.yaml:1: the sheet needs keys", write("x.yaml", "- a\n- b\n")),
    Case("persona check x.yaml", "x.yaml:1: the sheet needs keys", write("x.yaml", "just words\n")),
    Case("persona check x.yaml", "x.yaml:1: lists nest too deep", write("x.yaml", "[" * 100_000)),
    Case("persona check x.yaml", "a YAML alias or anchor", write("x.yaml", "a: &a [x]\nb: [*a, *a]\n")),
    Case("persona check x.yaml", "a control character", write("x.yaml", "name: a\x07b\n")),
    Case("persona check sheet.yaml", "the key 'name' is missing", edit("sheet.yaml", "name: Pip\n", "")),
    Case("persona check sheet.yaml", "the key 'confused' is missing", edit("sheet.yaml", CONFUSED, "")),
    Case("persona check sheet.yaml", "sheet.yaml:1: unknown key 'nam'", edit("sheet.yaml", "name:", "nam:")),
    Case("persona check sheet.yaml", "sheet.yaml:8: unknown key 'asks'", edit("sheet.yaml", "ask:", "asks:")),
    Case("persona check sheet.yaml", "sheet.yaml:1: YAML reads '12'", edit("sheet.yaml", "name: Pip", "name: 12")),
    Case("persona check sheet.yaml", "YAML reads 'yes'", edit("sheet.yaml", "[hello,", "[yes,")),
    Case("persona check sheet.yaml", "sheet.yaml:8: 'ask' needs a list", edit("sheet.yaml", "[hello,", "hello #")),
    Case("persona check sheet.yaml", "'ask' is empty", edit("sheet.yaml", "ask: [hello,", "ask: [] #")),
    Case("persona check sheet.yaml", "unknown slot {fod}; did you mean 'food'?", edit("sheet.yaml", "{food}", "{fod}")),
    Case("persona check sheet.yaml", "slot cycle food -> food", edit("sheet.yaml", "[kelp,", '["{food}",')),
    Case("persona check sheet.yaml", "sheet.yaml:11: unbalanced", edit("sheet.yaml", "{food}?", "{food?")),
    Case("persona check sheet.yaml", "sheet.yaml:9: unbalanced", edit("sheet.yaml", "[click.", '["(click."')),
    Case("persona check sheet.yaml", "the same line twice", edit("sheet.yaml", "hi there", "Hello!")),
    Case("persona check sheet.yaml", "is asked in two topics", edit("sheet.yaml", "feed me", "hello")),
    Case("persona check sheet.yaml", "is not snake_case", edit("sheet.yaml", "greeting:", "Greeting Me:")),
    Case("persona check sheet.yaml", "the key 'style' twice", edit("sheet.yaml", "style:", "style: x\nstyle:")),
    Case("train sheet.yaml", "sheet.yaml:1: unknown key 'nam'", edit("sheet.yaml", "name:", "nam:")),
    Case("train x.yaml", "persona 'P' makes", write("x.yaml", SMALL_SHEET)),
    Case("persona sample x.yaml -n 100000", "persona 'P' makes", write("x.yaml", SMALL_SHEET)),
    Case(
        "train x.yaml --conversations 3",
        "x.yaml: nothing can be held out",
        write("x.yaml", SMALL_SHEET.replace("[hi, yo]", "[hi]").replace("[ok, ha]", "[ok]")),
    ),
    Case("train whale", "no persona 'whale'; there are"),
    Case("train fsh", "did you mean 'fish'?"),
    Case("persona check whale.yaml", "no persona 'whale.yaml'"),
    Case("persona sample runs", "runs: cannot be read (Is a directory)"),
    Case("persona check /dev/zero", "/dev/zero:1: "),
]  # fmt: skip

CHAT_FILES = [
    (b"", "x.jsonl: is empty"),
    (b"\n\n  \n", "x.jsonl: is empty"),
    (b"hello\n", "x.jsonl:1: is not JSON"),
    (b'{"messages": [\n{"messages": [\n', "x.jsonl:1: is not JSON"),
    (b"[1, 2]\n", "x.jsonl:1: a chat is a JSON object, not int"),
    (b"[" + CHATS.encode().replace(b"\n", b",\n")[:-2], "x.jsonl:12: is not JSON (the array must go on"),
    (b'"hi"\n', "x.jsonl:1: a chat is a JSON object, not str"),
    (b"null\n", "x.jsonl:1: a chat is a JSON object, not NoneType"),
    (b"{}\n", 'x.jsonl:1: has no "messages"'),
    (b'{"messages": []}\n', 'x.jsonl:1: "messages" must be a list of objects'),
    (b'{"messages": "hi"}\n', 'x.jsonl:1: "messages" must be a list of objects, not hi'),
    (b'{"conversations": [{"from": "cat", "value": "hi"}]}\n', 'x.jsonl:1: a turn needs a "from" (human, user,'),
    (b'{"prompt": "hi"}\n', 'x.jsonl:1: has no "messages"'),
    (b'{"prompt": "hi", "response": 5}\n', "x.jsonl:1: the content of a message is text, not 5"),
    (b'{"prompt": "hi", "response": " "}\n', "x.jsonl:1: an empty message of the assistant"),
    (MESSAGES.format('"hi"').encode(), 'x.jsonl:1: "messages" must be a list of objects'),
    (MESSAGES.format('{"content": "hi"}').encode(), 'x.jsonl:1: a message needs a "role"'),
    (MESSAGES.format('{"role": "fish", "content": "hi"}').encode(), 'x.jsonl:1: a message needs a "role"'),
    (MESSAGES.format('{"role": ["user"], "content": "hi"}').encode(), 'x.jsonl:1: a message needs a "role"'),
    (MESSAGES.format('{"role": "user"}').encode(), "x.jsonl:1: the content of a message is text, not null"),
    (MESSAGES.format('{"role": "user", "content": null}').encode(), "x.jsonl:1: the content of a message is text"),
    (MESSAGES.format('{"role": "user", "content": ""}').encode(), "x.jsonl:1: an empty message of the user"),
    (MESSAGES.format(USER).encode(), "x.jsonl:1: a chat needs a message of the user and after it one of the assistant"),
    (MESSAGES.format(ASSISTANT).encode(), "x.jsonl:1: a chat needs a message of the user"),
    (CHAT.format("hi", "\\ud800").encode(), "x.jsonl:1: half a character"),
    (b"[" * 100_000 + b"\n", "x.jsonl:1: is nested too deeply"),
    (b'{"a":' * 100_000 + b"\n", "x.jsonl:1: is nested too deeply"),
    (b'{"messages": ' + b"1" * 5000 + b"}\n", "x.jsonl:1: "),
    (CHATS.encode() + b"\xff\n", "x.jsonl:13: is not UTF-8"),
    (CHATS.encode() + b"\0\n", "x.jsonl:13: has a NUL byte"),
    (CHAT.format("hi", "hello").encode(), "x.jsonl: the chats have fewer than 2 distinct first prompts"),
    (CHAT.format("hi", "hello").encode() * 5, "x.jsonl: the chats have fewer than 2 distinct first prompts"),
    ((CHAT.format("Hi", "a") + CHAT.format("hi!", "b")).encode(), "fewer than 2 distinct first prompts"),
]
CHAT_CASES = [
    *(Case("train --chats x.jsonl TINY", says, write("x.jsonl", data)) for data, says in CHAT_FILES),
    Case("train --chats x.jsonl", "x.jsonl:2: a line of 17,825,792 bytes", long_line("x.jsonl", 17 * 2**20)),
    Case("train --chats missing.jsonl", "missing.jsonl: there is no such file"),
    Case("train --chats runs", "runs: is a folder"),
    Case("train --chats text.txt", "text.txt:1: is not JSON"),
    Case("train --chats chats.jsonl --chats missing.csv", "missing.csv: there is no such file"),
    Case("train --chats chats.jsonl --chats text.txt", "text.txt:1: is not JSON"),
    Case("train --chats chats.jsonl --chat-format sharegpt", 'chats.jsonl:1: has no "conversations" (it has messages)'),
    Case("train --chats chats.jsonl --chat-format csv", "chat_format cannot be 'csv'; choose one of: auto, messages"),
    Case("train --chats x.csv", "x.csv:2: has no ", write("x.csv", "a,b\n1,2\n")),
    Case("train --chats x.csv", "x.csv:2: is not CSV", write("x.csv", 'prompt,response\nhi,"hello\nyou\n')),
    Case("train --chats x.csv", "x.csv: has no rows", write("x.csv", "prompt,response\n")),
    Case("train --chats x.csv", "x.csv:2: has more cells than the header", write("x.csv", "input,output\na,b,c\n")),
    Case("train --chats x.parquet", "x.parquet: is not whole Parquet", write("x.parquet", "PAR1, or so they say")),
    Case("data report text", "learned plain text; a data report is of chats"),
    Case("data report missing", "there is no run at 'missing'"),
    Case("data report chat", "train.jsonl:1: is not JSON", write("runs/chat/data/train.jsonl", "hello\n")),
]

CASES = [*TEXTS, *SHEETS, *CHAT_CASES]
