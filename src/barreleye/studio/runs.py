"""The routes of runs: which there are, one of them, and to begin, pause, go on with and stop one."""

import contextlib
import dataclasses
import re
import threading
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Request

from barreleye import config as knobs
from barreleye.config import Config, Sampling
from barreleye.data.corpus import parse_mix
from barreleye.data.sheet_file import load_persona, persona_names, sheet_path
from barreleye.export.html import beginning
from barreleye.run import MAY_CHANGE, MAY_MOVE, Run, check_free
from barreleye.studio import trainings
from barreleye.studio.names import NoSuchRun, entry_named, is_run, run_named
from barreleye.studio.opened import OPENED
from barreleye.studio.standing import Table, config_of, made_at, printable, standing
from barreleye.training.grow import free_name, plan

NAME = re.compile(r"[^\W_][\w.-]{0,59}")
GIVEN = ("persona", "mix", "text", "chats")  # what a training may learn from
HIDDEN = {"kind", "source", "vocab_size", "from_run"}  # no knobs of a form: given by its other fields, or by the data
SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")

router = APIRouter()
_starting = threading.Lock()


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
