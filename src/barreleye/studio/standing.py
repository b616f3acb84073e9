"""How a run stands: what can be told of its folder without opening its weights, and what can be asked of it."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from barreleye.config import Config
from barreleye.data.corpus import parse_mix
from barreleye.files import tensor_shapes
from barreleye.run import Run
from barreleye.studio import trainings
from barreleye.studio.names import is_run

TAIL, LONGEST_TAIL = 2**16, 2**22  # bytes of a record that are read to know how far it has come

Table = dict[str, Any]


def config_of(path: Path) -> Config | None:
    """What was asked, or will be; None where it cannot be read."""
    try:
        return Config.from_toml(path / "config.toml") if (path / "config.toml").is_file() else trainings.planned(path)
    except (OSError, ValueError):
        return None


def made_at(path: Path) -> int:
    file = path / "config.toml"
    try:
        return (file if file.is_file() else path / "cache" / trainings.PLAN).stat().st_mtime_ns
    except OSError:
        return 0


def standing(path: Path) -> Table:
    """A line of the list. `asked`: pause or stop, while a training does not yet do it. `doing`: that in words. `ways`:
    what can be asked of it."""
    row: Table = dict.fromkeys(("step", "steps", "kind", "source", "parameters", "loss", "problem"))
    row = {
        "name": path.name.encode("utf-8", "backslashreplace").decode(),
        "state": "corrupt",
        **row,
        "asked": "",
        "doing": "",
        "ways": [],
    }
    try:
        path.name.encode()
        row |= _standing(path)
        row["ways"] = ways(path, row["state"])
    except UnicodeEncodeError:
        row["problem"] = "its name is not UTF-8; rename the folder"
    except (OSError, ValueError, ArithmeticError) as error:
        row["problem"] = printable(str(error).replace(f"{path}/", ""))  # whoever looks knows which run it is
    return row


def _standing(path: Path) -> Table:
    learning, live, complaint = trainings.is_learning(path), trainings.is_live(path), trainings.complaint(path)
    if not (path / "config.toml").is_file():
        config, step, loss, saved = trainings.planned(path) or Config(), 0, None, None
    else:
        opened = Run(path)
        (step, loss), saved = latest(path), opened.step
        config = (trainings.planned(path) if live and not learning else None) or opened.config
        step = step if live else max(step, saved)
    row: Table = {
        "step": step,
        "steps": config.train.steps,
        "kind": "text" if config.data.kind == "text" else "chat",
        "source": printable(", ".join(sources_of(config))),
        "parameters": None if saved is None else parameters(path),
        "loss": loss,
    }
    if config.data.kind == "import":
        return row | {"state": "imported"}
    if saved is not None and not learning and saved >= config.train.steps:
        return row | {"state": "finished"}
    if live:
        asked = trainings.asked(path)
        return row | {"state": "learning", "asked": asked, "doing": doing(learning, saved is None, asked)}
    if saved is None:
        problem = complaint or "it ended before it learned anything (killed, or the machine went down)"
    elif not opened.states():
        if step >= config.train.steps:
            return row | {"state": "finished"}
        problem = complaint or "none of its states is there: it can be looked at, but not gone on with"
    else:
        problem = complaint or abrupt(step, saved)
    stopped = saved is None or not opened.states() or bool(complaint) or trainings.was_stopped(path)
    return row | {"state": "stopped" if stopped else "paused", "problem": printable(problem) or None}


def ways(path: Path, state: str) -> list[str]:
    if state != "stopped":
        return {"learning": ["pause", "stop"], "paused": ["resume", "stop"]}.get(state, [])
    if not is_run(path):
        return ["stop"]  # is not listed any more
    return ["resume"] if Run(path).states() else []


def doing(learning: bool, new: bool, asked: str) -> str:
    if asked:
        return "saving, then it pauses" if asked == "pause" else "saving, then it stops"
    if learning:
        return "learning"
    return "reading what it will learn from" if new else "reading where it left off, or writing its last report"


def abrupt(step: int, saved: int) -> str:
    """An orderly training saves the last step that it records."""
    if step <= saved:
        return ""
    return f"it ended at step {step} without saving (killed, or the machine went down); it goes on from step {saved}"


def parameters(path: Path) -> int:
    """How many the weights' header names. Raises ValueError where the files that every room needs are missing or cut
    short; what is in them is checked when they are opened."""
    if not (path / "model" / "tokenizer.json").is_file():
        raise ValueError(f"{path / 'model' / 'tokenizer.json'}: there is no such file")
    return sum(math.prod(shape) for _, shape in tensor_shapes(path / "model" / "model.safetensors").values())


def latest(path: Path) -> tuple[int, float | None]:
    """The last step of a record and its loss, without reading what is before."""
    file, size = path / "metrics.jsonl", TAIL
    if not file.is_file():
        return 0, None
    while True:
        with file.open("rb") as record:
            length = record.seek(0, 2)
            record.seek(max(0, length - size))
            lines = record.read().split(b"\n")[bool(length > size) :]
        for line in reversed(lines):
            if b'"loss"' in line and b'"grad_norm"' in line:
                with contextlib.suppress(ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
                    found = json.loads(line)
                    return int(found["step"]), finite_number(found["loss"])
        if size >= min(length, LONGEST_TAIL):
            return 0, None
        size *= 8


def finite_number(value: Any) -> float | None:
    """A number that JSON can hold."""
    number = float(value)
    return number if math.isfinite(number) else None


def sources_of(config: Config) -> Iterator[str]:
    """What it learned from, for the eye: a character's name, a file's."""
    for source in parse_mix(config.data.source) if config.data.kind == "mix" else config.data.sources:
        yield Path(source).stem if config.data.kind in ("persona", "mix") else Path(source).name


def printable(text: str) -> str:
    """In one line, and what a page can be sent."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())
