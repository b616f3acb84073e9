"""Bad inputs, each driven through the real command line: what a case is, the folder it runs in, and how it is judged.

The cases stand in bad_data.py, bad_runs.py and bad_options.py; the test beside them and a benchmark run the same table.
"""

import contextlib
import hashlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from barreleye.cli import main

SOURCE = Path(__file__).parents[2] / "src"
SECONDS = 10  # a case that takes longer counts as one that hangs
LARGE = 2**20  # files beyond it were made by a case, and are not part of what must be kept

SHEET = """\
name: Pip
description: a small crab
style: few words
slots:
  food: [kelp, plankton, snails]
topics:
  greeting:
    ask: [hello, hi there, good day, hey you, good morning]
    reply: [click., hello from the sand., i wave a claw.]
  hunger:
    ask: ["do you like {food}?", are you hungry, what is for dinner, when do you eat, feed me]
    reply: ["i like {food}.", "{food} is dinner."]
confused:
  ask: [what is tax, add two and two, tell me the news, who won the game]
  reply: [i only know sand., that is above the water.]
"""
CHAT = '{{"messages": [{{"role": "user", "content": "{}"}}, {{"role": "assistant", "content": "{}"}}]}}\n'
WORDS = "one two three four five six seven eight nine ten eleven twelve".split()
CHATS = "".join(CHAT.format(f"say {word}", f"{word}, {word}.") for word in WORDS)
TEXT = "".join(f"the {word} fish swims by the {other} crab\n" for word in WORDS for other in WORDS[:3])
TINY = (
    "--n-layers 1 --n-heads 2 --d-model 8 --d-ff 16 --context-length 32 --vocab 260 --conversations 40 "
    "--steps 2 --batch-tokens 128 --threads 1 --device cpu --precision float32"
)


Prepare = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A command line, what was done to the folder before, and what the one line must say."""

    command: str
    says: str
    prepare: Prepare = lambda folder: None
    stdin: bytes = b""
    leaves_a_run: bool = False  # refused only once a training runs: what it made stays, and may be looked at

    @property
    def argv(self) -> list[str]:
        """The words of the command, as a shell splits them; `TINY` stands for the options of a tiny training."""
        return shlex.split(self.command.replace("TINY", TINY))


@dataclass(frozen=True)
class Outcome:
    code: int | str | None
    stderr: str
    seconds: float  # of the processor, which does not count what others do on the machine


# What may be done to the folder before ------------------------------------------------------------------------------


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
    return lambda folder: (folder / name).write_bytes(b"a line\n" + b"x" * size)


def each(*steps: Prepare) -> Prepare:
    return lambda folder: [step(folder) for step in steps]


# Running and judging --------------------------------------------------------------------------------------------------


def build_world(folder: Path) -> None:
    """What every case finds: a sheet, a text, chats, a finished run of each kind, and one that was stopped."""
    (folder / "sheet.yaml").write_text(SHEET)
    (folder / "text.txt").write_text(TEXT)
    (folder / "chats.jsonl").write_text(CHATS)
    for command in (
        "train --text text.txt --out runs/text --quiet TINY",
        "train --chats chats.jsonl --out runs/chat --quiet TINY",
        "train --chats chats.jsonl --out runs/stopped --quiet TINY",
    ):
        outcome = run_here(Case(command, ""), folder)
        assert outcome.code == 0, outcome.stderr
    for page in folder.glob("runs/*/reports"):
        shutil.rmtree(page)  # megabytes that no case looks at
    config = folder / "runs" / "stopped" / "config.toml"
    config.write_text(config.read_text().replace("\nsteps = 2\n", "\nsteps = 4\n"))


def run_here(case: Case, folder: Path) -> Outcome:
    """Run a case in this process, through the function that the `barreleye` command calls."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace") for _ in range(2))
    stdin = io.TextIOWrapper(io.BytesIO(case.stdin), "utf-8")
    began, code = time.process_time(), None
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        mock.patch.object(sys, "argv", ["barreleye", *case.argv]),
        mock.patch.object(sys, "stdin", stdin),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except Exception as error:  # what a person would see as a traceback
            code = repr(error)
    stderr.flush()
    return Outcome(code, stderr.buffer.getvalue().decode(), time.process_time() - began)


COMMAND = [sys.executable, "-c", "from barreleye.cli import main; main()"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}


def run_apart(case: Case, folder: Path) -> Outcome:
    """Run a case in a process of its own."""
    done = subprocess.run(
        [*COMMAND, *case.argv], cwd=folder, env=ENVIRONMENT, input=case.stdin, capture_output=True, timeout=120
    )
    return Outcome(done.returncode, done.stderr.decode(), 0.0)


def files_of(folder: Path) -> dict[str, str]:
    """Every file below a folder and what it holds, as a hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size < LARGE
    }


def problems(case: Case, folder: Path, run: Callable[[Case, Path], Outcome] = run_here) -> Iterator[str]:
    """Run a case in a folder that holds the world, and name everything about it that is not as promised."""
    case.prepare(folder)
    before = files_of(folder)
    outcome = run(case, folder)
    after = files_of(folder)
    lines = outcome.stderr.splitlines()
    if outcome.code != 2:
        yield f"the exit code is {outcome.code}, not 2"
    if len(lines) != 1 or not outcome.stderr.endswith("\n"):
        yield f"{len(lines)} lines on standard error: {outcome.stderr!r}"
    elif not lines[0].startswith("barreleye: "):
        yield f"the line begins otherwise: {lines[0]!r}"
    elif case.says not in lines[0]:
        yield f"the line does not say {case.says!r}: {lines[0]!r}"
    changed = [name for name in before if after.get(name) != before[name]]
    if changed:
        yield f"files changed: {changed}"
    new = [name for name in after if name not in before]
    if new and not case.leaves_a_run:
        yield f"files were left behind: {new}"
    if any(name.endswith(".partial") for name in after):
        yield f"half a file was left behind: {new}"
    if outcome.seconds > SECONDS:
        yield f"it took {outcome.seconds:.0f} seconds"
