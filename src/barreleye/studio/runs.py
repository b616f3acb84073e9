"""The routes of runs: which there are and how they stand, one of them, and to begin, pause, go on with and stop one."""

import contextlib
import dataclasses
import json
import math
import re
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Request

from barreleye import config as knobs
from barreleye.config import Config, Sampling
from barreleye.data.corpus import parse_mix
from barreleye.data.sheet_file import load_persona, persona_names, sheet_path
from barreleye.export.html import beginning
from barreleye.files import tensor_shapes
from barreleye.run import MAY_CHANGE, MAY_MOVE, Run, check_free
from barreleye.studio import trainings
from barreleye.studio.names import NoSuchRun, entry_named, is_run, run_named
from barreleye.studio.opened import OPENED
from barreleye.training.grow import free_name, plan

NAME = re.compile(r"[^\W_][\w.-]{0,59}")
TAIL, LONGEST_TAIL = 2**16, 2**22  # bytes of a record that are read to know how far it has come
GIVEN = ("persona", "mix", "text", "chats")  # what a training may learn from
HIDDEN = {"kind", "source", "vocab_size", "from_run"}  # no knobs of a form: given by its other fields, or by the data
SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")

router = APIRouter()
_starting = threading.Lock()

Table = dict[str, Any]


# What there is -------------------------------------------------------------------------------------------------------


@router.get("/api/runs")
def runs(request: Request) -> list[Table]:
    """All runs of the folder: those that learn first, then the newest."""
    rows = [(path, standing(path)) for path in entries(request.app.state.folder)]
    return [row for _, row in sorted(rows, key=lambda each: (each[1]["state"] != "learning", -made_at(each[0])))]


@router.get("/api/runs/{name}")
def run(name: str, request: Request) -> Table:
    """One run: how it stands, its shape, all its knobs, and the steps that can be looked at."""
    path = entry_of(request, name)
    row = standing(path)
    sampling = {key: getattr(Sampling(), key) for key in SAMPLING}
    config = config_of(path)
    about: Table = row | {"character": "", "characters": [], "example": "", "config": {}, "sampling": sampling}
    about |= {"planned_steps": row["steps"], "steps": [], "snapshots": []}
    if config is None:
        return about
    about["config"] = {key: value for table in dataclasses.asdict(config).values() for key, value in table.items()}
    about["character"] = row["source"] or ""
    if not (path / "config.toml").is_file():
        return about
    opened = Run(path)
    about |= {
        "characters": opened.characters,
        "snapshots": opened.snapshots(),
        "steps": opened.steps(),
    }
    with contextlib.suppress(ValueError, OSError):  # a damaged one's problem is said already
        about["kind"] = "text" if OPENED.tokenizer(opened).chat is None else "chat"
        about["example"] = beginning(opened)
    return about


@router.get("/api/choices")
def choices(request: Request) -> Table:
    """What a form for a new run is made of: characters, presets, and every knob with its help and its limits."""
    fields = [
        (section, field)
        for section, kind in knobs.SECTIONS.items()
        for field in dataclasses.fields(kind)
        if field.name not in HIDDEN
    ]
    return {
        "folder": printable(str(request.app.state.folder)),
        "personas": characters(),
        "presets": {
            name: {
                "about": preset.about,
                "knobs": {**dataclasses.asdict(preset.model), **dataclasses.asdict(preset.train)},
            }
            for name, preset in knobs.PRESETS.items()
        },
        "knobs": {
            field.name: {"section": section, "type": field.type.__name__, "default": field.default, **field.metadata}  # type: ignore[union-attr]
            for section, field in fields
        },
    }


@cache
def characters() -> list[Table]:
    """Those that come with the package. Their sheets take a moment to read."""
    return [{"name": name, "description": load_persona(name).description} for name in persona_names()]


def entries(folder: Path) -> list[Path]:
    """The runs of a folder, those included that are only being begun, or could not be."""
    return [path for path in (folder.iterdir() if folder.is_dir() else ()) if is_entry(path)]


def is_entry(path: Path) -> bool:
    return is_run(path) or is_begun(path)


def is_begun(path: Path) -> bool:
    """Whether a studio begins a run here, or could not, and nobody said to stop it."""
    there = trainings.planned(path) is not None
    return there and (trainings.is_live(path) or not trainings.was_stopped(path))


def entry_of(request: Request, name: str) -> Path:
    """As `names.run_named`; but one that is only being begun, or is damaged, is found too."""
    return entry_named(request.app.state.folder, name, is_entry)


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


# How it stands -------------------------------------------------------------------------------------------------------


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


# Begin, pause, go on, stop -------------------------------------------------------------------------------------------


@router.post("/api/runs", status_code=201)
def begin(form: Annotated[dict[str, Any], Body()], request: Request) -> Table:
    """Begin a training: name, one of persona, mix, text and chats, preset, from_run, and any knobs. 422 with the line
    that the command line would print."""
    folder = request.app.state.folder
    with _starting:
        try:
            path, config, sources, preset, options = understood(folder, dict(form))
            folder.mkdir(parents=True, exist_ok=True)
            trainings.begin(path, config, sources, preset, options)
        except (trainings.WrongState, NoSuchRun):
            raise
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
    return {"name": path.name}


def understood(folder: Path, form: Table) -> tuple[Path, Config, Table, str | None, Table]:
    """A form as a run folder and the arguments of `trainings.begin`. Raises ValueError as the command line would."""
    given = {key: value for key in GIVEN if (value := form.pop(key, None)) not in (None, "", [])}
    preset, name, earlier = (
        None if (value := form.pop(key, None)) == "" else value for key in ("preset", "name", "from_run")
    )
    for key, value in {**given, "preset": preset, "name": name, "from_run": earlier}.items():
        if key == "chats" and isinstance(value, list) and all(isinstance(file, str) for file in value):
            continue
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{key} must be text, not {value!r}")
    options = {key: value for key, value in form.items() if value is not None}
    check_knobs(options)
    if isinstance(given.get("chats"), str):
        given["chats"] = [given["chats"]]
    source = run_named(folder, earlier) if earlier else None
    config = plan({key: given.get(key) for key in GIVEN}, preset, source, options)
    if config.data.kind in ("persona", "mix"):
        for character in parse_mix(config.data.source) if config.data.kind == "mix" else config.data.sources:
            load_persona(sheet_path(character))
    path = free_name(config.data, folder) if name is None else folder / checked(name)
    check_free(path, "name")
    if source:
        given["from_run"] = str(source.path)
    return path, config, given or {"persona": "fish"}, preset, options


def check_knobs(options: Table) -> None:
    """Raises ValueError for a knob that no option stands for, before any value is looked at."""
    known = [f.name for kind in knobs.SECTIONS.values() for f in dataclasses.fields(kind) if f.name not in HIDDEN]
    for name in options:
        if name not in known:
            raise ValueError(f"there is no knob {name!r}{knobs.did_you_mean(name, known)}")


def checked(name: str) -> str:
    """A name that may become a folder's."""
    if not NAME.fullmatch(name) or name.endswith(".") or not name.isprintable():
        raise ValueError(
            f"the name {name[:100]!r} cannot be a folder's here; "
            "take up to 60 letters, digits, '-', '_' and '.', with a letter or digit first"
        )
    return name


@router.post("/api/runs/{name}/pause")
def pause(name: str, request: Request) -> Table:
    """The training saves after the step at hand, and leaves."""
    path = entry_of(request, name)
    trainings.pause(path)
    return standing(path)


@router.post("/api/runs/{name}/stop")
def stop(name: str, request: Request) -> Table:
    """The same, and it is not offered to go on. One that is paused is only no longer offered; one that learned nothing
    is no longer listed."""
    path = entry_of(request, name)
    row = standing(path)
    if "stop" not in row["ways"]:
        raise trainings.WrongState(f"{path.name} does not learn: it is {row['state']}")
    trainings.stop(path)
    return standing(path)


@router.post("/api/runs/{name}/resume")
def resume(name: str, request: Request, form: Annotated[dict[str, Any] | None, Body()] = None) -> Table:
    """`train --resume`: bit for bit as if it had never stopped. `steps`, and what else may change, in the form."""
    path = entry_of(request, name)
    row, options = standing(path), {key: value for key, value in (form or {}).items() if value is not None}
    if row["state"] in ("learning", "imported", "corrupt"):
        raise trainings.WrongState(f"{path.name} cannot go on: it is {row['state']}")
    for key in options:
        if key not in MAY_CHANGE | MAY_MOVE:
            allowed = ", ".join(sorted(MAY_CHANGE | MAY_MOVE))
            raise ValueError(f"going on cannot change {key} (only {allowed}); begin a new run from this one")
    if not (path / "config.toml").is_file():
        raise trainings.WrongState(f"{path.name} has learned nothing yet; begin it again")
    opened = Run(path)
    if not opened.states():
        raise trainings.WrongState(f"{path.name} has no saved state to go on from; begin a new run")
    wanted = dataclasses.replace(opened.config.train, **options)
    if opened.step >= wanted.steps:
        raise trainings.WrongState(f"{path.name} has learned {opened.step} steps already; give it more steps to go on")
    trainings.go_on(path, dataclasses.replace(opened.config, train=wanted), options)
    return standing(path)
