"""Files and folders that are not what they should be."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bad_inputs import CHAT, CHATS, SHEET, Case

Prepare = Callable[[Path], object]
MESSAGES = '{{"messages": [{}]}}\n'
USER, ASSISTANT = '{"role": "user", "content": "hi"}', '{"role": "assistant", "content": "hello"}'


def write(name: str, data: str | bytes) -> Prepare:
    """Put a file there, instead of the one that was."""

    def prepare(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return prepare


def edit(name: str, old: str, new: str) -> Prepare:
    def prepare(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text, f"{name} has no {old!r}"
        (folder / name).write_text(text.replace(old, new, 1))

    return prepare


def remove(name: str) -> Prepare:
    def prepare(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return prepare


def cut(name: str, share: float) -> Prepare:
    return lambda folder: os.truncate(folder / name, int((folder / name).stat().st_size * share))


def flip(name: str) -> Prepare:
    """Change one byte in the middle, as a bad disk does."""

    def prepare(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 0xFF
        (folder / name).write_bytes(data)

    return prepare


def sparse(name: str, size: int) -> Prepare:
    """A file of NUL bytes that takes no room."""

    def prepare(folder: Path) -> None:
        (folder / name).touch()
        os.truncate(folder / name, size)

    return prepare


def long_line(name: str, size: int) -> Prepare:
    return write(name, b"a line\n" + b"x" * size)


def each(*steps: Prepare) -> Prepare:
    return lambda folder: [step(folder) for step in steps]


def hold_lock(folder: Path) -> None:
    """As a training in another process would; the handle, and the lock with it, is open as long as this process."""
    import fcntl

    fcntl.flock(os.open(folder / "runs" / "stopped" / "lock", os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)

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
    Case("train --text x.txt --tokenizer bpe TINY", "x.txt: a text of 1 tokens is too short to learn from", write("x.txt", "ab" * 10)),
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
    (CHATS.encode() + b'{"messages": [', "x.jsonl:13: is not JSON"),
    (b"[1, 2]\n", "x.jsonl:1: a chat is a JSON object, not list"),
    (b'"hi"\n', "x.jsonl:1: a chat is a JSON object, not str"),
    (b"null\n", "x.jsonl:1: a chat is a JSON object, not NoneType"),
    (b"{}\n", 'x.jsonl:1: has no "messages"'),
    (b'{"messages": []}\n', 'x.jsonl:1: has no "messages"'),
    (b'{"messages": "hi"}\n', 'x.jsonl:1: has no "messages"'),
    (b'{"prompt": "hi"}\n', 'x.jsonl:1: has no "messages"'),
    (b'{"prompt": "hi", "response": 5}\n', 'x.jsonl:1: a message needs a "role"'),
    (b'{"prompt": "hi", "response": " "}\n', "x.jsonl:1: an empty message of the assistant"),
    (MESSAGES.format('"hi"').encode(), 'x.jsonl:1: a message needs a "role"'),
    (MESSAGES.format('{"content": "hi"}').encode(), 'x.jsonl:1: a message needs a "role"'),
    (MESSAGES.format('{"role": "fish", "content": "hi"}').encode(), 'x.jsonl:1: a message needs a "role"'),
    (MESSAGES.format('{"role": ["user"], "content": "hi"}').encode(), 'x.jsonl:1: a message needs a "role"'),
    (MESSAGES.format('{"role": "user"}').encode(), 'x.jsonl:1: a message needs a "role"'),
    (MESSAGES.format('{"role": "user", "content": null}').encode(), 'x.jsonl:1: a message needs a "role"'),
    (MESSAGES.format('{"role": "user", "content": ""}').encode(), "x.jsonl:1: an empty message of the user"),
    (MESSAGES.format(USER).encode(), "x.jsonl:1: a chat needs a message of the user and one of the assistant"),
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
    (b"x" * (17 * 2**20), "x.jsonl:1: a line of"),
]
CHAT_CASES = [
    *(Case("train --chats x.jsonl TINY", says, write("x.jsonl", data)) for data, says in CHAT_FILES),
    Case("train --chats missing.jsonl", "missing.jsonl: there is no such file"),
    Case("train --chats runs", "runs: is a folder"),
    Case("train --chats text.txt", "text.txt:1: is not JSON"),
]

CONFIGS = [
    (("[data]", "[data"), "runs/text/config.toml: "),
    (("[data]", "\x00"), "runs/text/config.toml: "),
    (("[data]", "[fish]"), "unknown section [fish]; a config has data, model, train"),
    (("[data]", "data = 1\n[data]"), "runs/text/config.toml: "),
    (("[model]", "[[model]]"), "[model] must be a table"),
    (("[model]", "[data]"), "runs/text/config.toml: "),
    (("d_model = ", "d_modle = "), "[model] has no knob 'd_modle'; did you mean 'd_model'?"),
    (("d_model = 8", 'd_model = "8"'), "d_model must be int, not '8'"),
    (("d_model = 8", "d_model = 8.5"), "d_model must be int, not 8.5"),
    (("d_model = 8", "d_model = true"), "d_model must be int, not True"),
    (("d_model = 8", "d_model = [8]"), "d_model must be int, not [8]"),
    (("d_model = 8", "d_model = -8"), "d_model must be at least 1, not -8"),
    (("d_model = 8", "d_model = 9"), "n_heads 2 does not divide d_model 9"),
    (("d_model = 8", "d_model = 16"), "runs/text/model/model.safetensors: "),
    (("n_layers = 1", "n_layers = 2"), "runs/text/model/model.safetensors: the weights lack"),
    (("n_layers = 1", "n_layers = 0"), "n_layers must be at least 1, not 0"),
    (("n_layers = 1", "n_layers = 1000"), "runs/text/model/model.safetensors: the weights lack"),
    (("d_model = 8", "d_model = 100000"), "runs/text/model/model.safetensors: "),
    (("context_length = 32", "context_length = 1000000"), "runs/text/model/model.safetensors: "),
    (("dropout = 0.0", "dropout = nan"), "dropout must be a finite number, not nan"),
    (("dropout = 0.0", "dropout = inf"), "dropout must be a finite number, not inf"),
    (("dropout = 0.0", "dropout = 1.5"), "dropout must be at most 0.99, not 1.5"),
    (("bias = true", "bias = 1"), "bias must be bool, not 1"),
    (('activation = "gelu"', 'activation = "gleu"'), "activation cannot be 'gleu'; did you mean 'gelu'?"),
    (('norm = "layernorm"', 'norm = "rmsnorm"'), "runs/text/model/model.safetensors: "),
    (('optimizer = "muon"', 'optimizer = "sgd"'), "optimizer cannot be 'sgd'; choose one of: muon, adamw"),
    (("steps = 2", "steps = 1e3"), "steps must be int, not 1000.0"),
    (("steps = 2", "steps = "), "runs/text/config.toml: "),
    (("steps = 2", "steps = 2\nsteps = 3"), "runs/text/config.toml: "),
    (("steps = 2", f"steps = {'[' * 5000}"), "runs/text/config.toml: "),
]
RUNS = [
    *(Case("generate text", says, edit("runs/text/config.toml", *change)) for change, says in CONFIGS),
    Case("generate text", "runs/text/config.toml: ", write("runs/text/config.toml", b"\xff\xfe")),
    Case("generate text", "tokens, the model 0 (vocab_size in config.toml)", write("runs/text/config.toml", "")),
    Case("chat nobody", "there is no run at 'nobody' (runs here: "),
    Case("chat ''", "there is no run at ''"),
    Case("chat text.txt", "there is no run at 'text.txt'"),
    Case("chat nobody", "none yet; `barreleye train` grows one", remove("runs")),
    Case(f"chat {'x' * 300}", "File name too long"),
    Case("chat 'x\udcff'", r"there is no run at 'x\udcff'"),
    Case("generate x", "there is no run at 'x'", lambda folder: (folder / "runs" / "x").mkdir()),
    Case("generate text", "model.safetensors: there is no such file", remove("runs/text/model/model.safetensors")),
    Case("generate text", "there is no such file; a model folder holds", remove("runs/text/model")),
    Case("generate text", "is not a whole safetensors file", cut("runs/text/model/model.safetensors", 0.5)),
    Case("generate text", "is not a whole safetensors file", cut("runs/text/model/model.safetensors", 0)),
    Case("generate text", "is not a whole safetensors file", write("runs/text/model/model.safetensors", b"\xff" * 99)),
    Case("generate text", "is larger than any model of ours", sparse("runs/text/model/model.safetensors", 2**40)),
    Case(
        "generate text",
        "model.safetensors: ",
        lambda folder: shutil.copy(folder / "runs/chat/model/model.safetensors", folder / "runs/text/model"),
    ),
    Case("generate text", "tokenizer.json: there is no such file", remove("runs/text/model/tokenizer.json")),
    Case("generate text", "tokenizer.json: not a tokenizer.json", cut("runs/text/model/tokenizer.json", 0.5)),
    Case("generate text", "tokenizer.json: not a tokenizer.json", write("runs/text/model/tokenizer.json", "")),
    Case("generate text", "tokenizer.json: not a tokenizer.json", write("runs/text/model/tokenizer.json", "[" * 10**5)),
    Case("generate text", "tokenizer.json: ", write("runs/text/model/tokenizer.json", b"\xff")),
    Case("generate text", "tokenizer.json: too large", sparse("runs/text/model/tokenizer.json", 2**40)),
    Case("generate text", "tokenizer.json: token ids", edit("runs/text/model/tokenizer.json", '": 3', '": 300')),
    Case(
        "generate text",
        "tokenizer.json: has 260 tokens, the model ",
        lambda folder: shutil.copy(folder / "runs/chat/model/tokenizer.json", folder / "runs/text/model"),
    ),
    Case("chat text", "text learned text, not chats; try: barreleye generate text"),
    Case("train --from nobody", "there is no run at 'nobody'"),
    Case("train --from text", "--from needs data of the run's own kind"),
    Case("train --text text.txt --from chat", "--from needs data of the run's own kind"),
    Case("train --text text.txt --from text --d-model 16", "--from keeps the earlier run's shape; leave out d_model"),
    Case("train --text x.txt --from text --steps 1", "has not seen '\u00e9'", write("x.txt", "caf\u00e9 " * 9)),
    Case(
        "train --text text.txt --from text --steps 1",
        "model.safetensors: there is no such file",
        remove("runs/text/model/model.safetensors"),
    ),
    Case("runs nowhere", "there is no folder nowhere"),
    Case("runs text.txt", "text.txt"),
    Case("runs", "there is no folder runs", remove("runs")),
]

STATE = "runs/stopped/state/2"
RESUMES = [
    Case("train --resume nobody", "there is no run at 'nobody'"),
    Case("train --resume text", "runs/text has learned 2 steps already; `--steps 4` goes on"),
    Case("train --resume text --steps 1", "runs/text has learned 2 steps already"),
    Case("train --resume stopped --steps 0", "runs/stopped has learned 2 steps already"),
    Case("train --resume stopped --d-model 16", "--resume cannot change d_model"),
    Case("train --resume stopped --learning-rate 1", "--resume cannot change learning_rate"),
    Case("train --resume stopped --seed 2", "--resume cannot change seed"),
    Case("train --resume stopped --steps -1", "steps must be at least 0"),
    Case("train fish --resume stopped", "--resume goes on with a run as it was: leave out a character"),
    Case("train --resume stopped --text text.txt", "leave out --text"),
    Case("train --resume stopped --chats chats.jsonl", "leave out --chats"),
    Case("train --resume stopped --preset tiny", "leave out --preset"),
    Case("train --resume stopped --out new", "leave out --out"),
    Case("train --resume stopped --from chat", "leave out --from"),
    Case("train --resume stopped", "another training is writing here", hold_lock),
    Case("train --resume stopped", "no saved state to resume from: there is none", remove("runs/stopped/state")),
    Case(
        "train --resume stopped",
        "is damaged (its SHA-256 differs from the manifest)",
        each(flip(f"{STATE}/state.safetensors"), remove("runs/stopped/state/0")),
    ),
    Case(
        "train --resume stopped",
        "no saved state to resume from",
        each(cut(f"{STATE}/state.safetensors", 0.9), cut("runs/stopped/state/0/state.safetensors", 0)),
    ),
    Case(
        "train --resume stopped",
        "its manifest or a file of it is missing or damaged",
        each(remove(f"{STATE}/manifest.json"), remove("runs/stopped/state/0/manifest.json")),
    ),
    Case(
        "train --resume stopped",
        "its manifest or a file of it is missing or damaged",
        each(remove(f"{STATE}/state.safetensors"), write("runs/stopped/state/0/manifest.json", "[1")),
    ),
    Case(
        "train --resume stopped",
        "its manifest or a file of it is missing or damaged",
        each(write(f"{STATE}/manifest.json", "[" * 10**5), write("runs/stopped/state/0/manifest.json", "5")),
    ),
    *(
        Case("train --resume stopped", f"was made with {old.split()[0]} = ", edit("runs/stopped/config.toml", old, new))
        for old, new in (
            ("d_model = 8", "d_model = 16"),
            ("n_layers = 1", "n_layers = 2"),
            ("learning_rate = 0.003", "learning_rate = 0.1"),
            ("batch_tokens = 128", "batch_tokens = 64"),
            ('optimizer = "muon"', 'optimizer = "adamw"'),
        )
    ),
    Case("train --resume stopped", "train.jsonl:1: is not JSON", write("runs/stopped/data/train.jsonl", "hello\n")),
    Case("train --resume stopped", "there is no such file", remove("runs/stopped/data/train.jsonl")),
    Case("train --resume stopped", "report.json", remove("runs/stopped/data/report.json")),
    Case("train --resume stopped", "report.json", write("runs/stopped/data/report.json", "{")),
    Case("train --resume stopped", "tokenizer.json: there is no such file", remove("runs/stopped/model/tokenizer.json")),
]  # fmt: skip

OUTS = [
    Case("train --text text.txt --out runs/text TINY", "runs/text already holds a run; `--resume runs/text` goes on"),
    Case("train --text text.txt --out runs/chat --quiet TINY", "runs/chat already holds a run"),
    Case("train --text text.txt --out text.txt TINY", "text.txt is a file; choose another --out"),
    Case("train --text text.txt --out text.txt/run TINY", "Not a directory"),
    Case("train --text text.txt --out . TINY", ". is not empty (chats.jsonl), and holds no run; choose another --out"),
    Case("train --text text.txt --out runs TINY", "runs is not empty (chat), and holds no run"),
    Case("train --text text.txt --out /proc/run TINY", "/proc/run"),
    Case("train --text text.txt --out /dev/null/run TINY", "/dev/null/run"),
    Case(f"train --text text.txt --out {'x' * 300} TINY", "File name too long"),
    Case("train --text text.txt TINY", "runs", each(remove("runs"), write("runs", "a file in the way"))),
]

CASES = [*TEXTS, *SHEETS, *CHAT_CASES, *RUNS, *RESUMES, *OUTS]


