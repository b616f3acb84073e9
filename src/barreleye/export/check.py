"""Does an export compute what the run computes? Each format is written, and its program asked in a process of its own.

All read the same texts, drawn from the model itself, and tokenize the same strings; what they say is put beside what
torch says. Greedy tokens are compared after as many tokens as COMPARED, near ties left out: there, rounding decides.

B batch, T time (position), V vocabulary; N tokens that are compared.
"""

import dataclasses
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from barreleye.data.tokenizer import Tokenizer
from barreleye.export import peers
from barreleye.export.gguf import export_gguf
from barreleye.export.huggingface import model_folder
from barreleye.export.onnx import export_onnx
from barreleye.export.own_text import own_text
from barreleye.export.plain import export_plain
from barreleye.run import Run

COMPARED, STRINGS = 1000, 1000
NEAR_TIE = 1e-2  # between the two best logits
LONGEST = 256  # tokens of a text
PATIENCE = 600  # seconds
SEED = 1
# What tokenizers stumble over.
PIECES = (
    "fish§ Fish§FISH'S§don't§we'll§ 'tis§1984§ 3.14§  §\n§\n\n§\t§ \n §...§?!§(a)§<|im_end|>§<|im_start|>§é§ü§ naïve§ß§"
    "<|endoftext|>§日本語§ Привет§مرحبا§नमस्ते§한국어§🐟§👩‍🚀§ ½§²§Ⅷ§٣§_§a_b§€§–§\r\n§ﬁ§"
    "\u00a0§\u2009§\u3000§\u200b§e\u0301"
).split("§")


@dataclass(frozen=True)
class Asked:
    """What every program is asked, and what torch and our tokenizer say to it."""

    tokens_BT: Any
    logits_BTV: Any
    strings: list[str]
    ids: list[list[int]]


@dataclass(frozen=True)
class Parity:
    """A line of the table. `problem`: why there are no figures."""

    format: str
    program: str
    problem: str = ""
    difference: float = 0.0  # largest, of logits
    agreement: float = 0.0  # share of the same greedy tokens
    compared: int = 0
    same_ids: float | None = None  # share of strings; None where the program reads no text
    size: int = 0  # bytes, of all that a user would carry
    load_seconds: float = 0.0
    tokens_per_second: float = 0.0  # one text, token by token, on one thread


def ask(run: Run) -> Asked:
    """Texts, logits, strings and ids: enough for COMPARED tokens, with some to spare for near ties."""
    length = min(LONGEST, run.config.model.context_length)
    tokens_BT, logits_BTV = own_text(run.load_model(), -(-COMPARED * 5 // 4 // length), length)
    tokenizer = run.tokenizer
    strings = some_strings(tokenizer, tokens_BT.tolist())
    return Asked(tokens_BT.numpy(), logits_BTV.numpy(), strings, tokenizer.encode_batch(strings))


def some_strings(tokenizer: Tokenizer, rows: list[list[int]], n: int = STRINGS) -> list[str]:
    """Half of them the model's own text, cut anywhere; half put together of what tokenizers stumble over."""
    rng, strings = random.Random(SEED), list[str]()
    own = "".join(tokenizer.decode(i for i in row if i not in tokenizer.special_ids) for row in rows)
    own = own.replace("\0", "").replace("\ufffd", "") or "a"
    ordinary = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids]
    pieces = [piece for piece in PIECES if can_encode(tokenizer, piece)] if tokenizer.kind == "bpe" else ordinary
    pieces = [piece for piece in pieces if "\0" not in piece]
    while len(strings) < n:
        if len(strings) % 2:
            begin = rng.randrange(len(own))
            strings.append(own[begin : begin + rng.randint(1, 80)])
        else:
            strings.append("".join(rng.choices(pieces, k=rng.randint(1, 12))))
    return strings


def can_encode(tokenizer: Tokenizer, text: str) -> bool:
    """Tokenizers of other houses may lack bytes."""
    try:
        return bool(tokenizer.encode(text))
    except ValueError:
        return False


def exports(run: Run, folder: Path) -> Iterator[tuple[str, str, Callable[[], Path]]]:
    """Format, program, and what writes the file and returns it."""
    yield "huggingface", "transformers", lambda: model_folder(run)
    yield "plain", "numpy", lambda: export_plain(run, folder / "plain")[0].parent
    for kind in ("f32", "f16", "q8_0"):
        yield f"gguf {kind}", "llama.cpp", lambda kind=kind: export_gguf(run, folder / kind, kind)[0]  # type: ignore[misc]
    both: list[Path] = []

    def onnx(name: str) -> Path:
        both[:] = both or export_onnx(run, folder / "onnx", int8=True)
        return folder / "onnx" / "onnx" / name

    yield "onnx", "onnxruntime", lambda: onnx("model.onnx")
    yield "onnx int8", "onnxruntime", lambda: onnx("model_quantized.onnx")


def check(run: Run) -> Iterator[Parity]:
    """A line for each format: what its program computes, or why there is nothing to compare."""
    asked = ask(run)
    with tempfile.TemporaryDirectory() as folder:
        for format_name, program, write in exports(run, Path(folder)):
            try:
                file = write()
            except ImportError as error:
                yield Parity(format_name, program, f"{error.name} is not installed; pip install 'barreleye[export]'")
            except ValueError as error:
                yield Parity(format_name, program, f"not expressible: {error}")
            else:
                yield compare(format_name, program, file, asked, Path(folder))


def compare(
    format_name: str, program: str, file: Path, asked: Asked, folder: Path, python: str = sys.executable
) -> Parity:
    """Ask one program (a name in `peers.PEERS`), in the environment of `python`."""
    given, answer = folder / "asked.npz", folder / "answer.npz"
    np.savez(given, tokens_BT=asked.tokens_BT, strings=np.frombuffer("\0".join(asked.strings).encode(), np.uint8))
    # By its path, as an environment of another program has no Barreleye; -P: the pages beside it are no libraries.
    command = [python, "-P", peers.__file__, program, str(file), str(given), str(answer)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=os.environ | one)
    except subprocess.TimeoutExpired:
        return Parity(format_name, program, f"no answer within {PATIENCE} seconds")
    if done.returncode == peers.NOT_INSTALLED:
        return Parity(format_name, program, "not installed here; pip install 'barreleye[peers]'")
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        return Parity(format_name, program, f"does not load: {said}")
    with np.load(answer) as said_:
        theirs = dict(said_)
    parity = Parity(format_name, f"{program} {theirs['version']}", **figures(asked, theirs))
    return dataclasses.replace(parity, size=size_of(file))


def figures(asked: Asked, theirs: dict[str, Any]) -> dict[str, Any]:
    """What of a program's answer is as torch and our tokenizer have it."""
    second_BT, best_BT = np.moveaxis(np.partition(asked.logits_BTV, -2, -1)[..., -2:], -1, 0)
    clear_BT = best_BT - second_BT > NEAR_TIE
    same_N = (asked.logits_BTV.argmax(-1) == theirs["logits_BTV"].argmax(-1))[clear_BT][:COMPARED]
    ids = np.split(theirs["ids"], theirs["lengths"].cumsum()[:-1]) if len(theirs["lengths"]) else None
    return dict(
        difference=float(np.abs(asked.logits_BTV - theirs["logits_BTV"]).max()),
        agreement=float(same_N.mean()) if len(same_N) else 1.0,
        compared=len(same_N),
        same_ids=None
        if ids is None
        else float(np.mean([a == b.tolist() for a, b in zip(asked.ids, ids, strict=True)])),
        load_seconds=float(theirs["load_seconds"]),
        tokens_per_second=float(theirs["tokens_per_second"]),
    )


def size_of(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )
