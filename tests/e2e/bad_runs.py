"""Runs that are damaged, cannot go on, or are in the way."""

import os
import shutil
from pathlib import Path

from bad_inputs import Case, cut, each, edit, flip, remove, sparse, write


def hold_lock(folder: Path) -> None:
    """As a training in another process would; the handle, and the lock with it, is open as long as this process."""
    import fcntl

    fcntl.flock(os.open(folder / "runs" / "stopped" / "lock", os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)


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
    (("n_layers = 1", "n_layers = 100"), "runs/text/model/model.safetensors: the weights lack"),
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
    Case("train --text text.txt --from text --d-model 16", "--from keeps the earlier run's shape and tokenizer"),
    Case("train --text text.txt --from text --vocab 300", "leave out vocab"),
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
    Case("train --resume stopped", "tokenizer.json: there is", remove("runs/stopped/model/tokenizer.json")),
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

CASES = [*RUNS, *RESUMES, *OUTS]
