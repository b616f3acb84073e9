"""The routes of how a run learns: its record as curves, few enough points to draw, and live by server-sent events."""

import asyncio
import dataclasses
import math
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from barreleye.config import SECTIONS, Config
from barreleye.studio.course import LAST_STEP, Course, number, thinned
from barreleye.studio.frames import to_line
from barreleye.studio.names import NoSuchRun
from barreleye.studio.runs import entry_of
from barreleye.studio.standing import config_of, printable, standing
from barreleye.training.record import Record

MOST_POINTS = 20_000
INSIDE_SHARE = 5  # of what is seen inside there are a hundred small curves: a fifth of the points for each
MOST_SAMPLES = 60  # sets of them
COURSES_KEPT = 16
LOOK, HEARTBEAT = 0.3, 10.0  # seconds between looks at the record, and between signs of life where nothing happens
EVENT_POINTS = 400  # of a curve in one event: what was learned since the last one, or while nobody listened
REPLACED_POINTS = 1000  # of one that takes the place of all before
MOST_COMPARED = 8
LESS = {"seed", "device", "precision", "threads"}  # said last: they make no other kind of training
IN_WORDS = {
    "n_layers": "layers",
    "n_heads": "attention heads",
    "n_kv_heads": "key/value heads",
    "d_model": "width (d_model)",
    "d_ff": "width of the feed-forward layers (d_ff)",
    "init_std": "init scale (init_std)",
    "source": "learned from",
}

router = APIRouter()

Table = dict[str, Any]

_courses: OrderedDict[Path, Course] = OrderedDict()
_finding = threading.Lock()


def course_of(path: Path) -> Course:
    """The record of a run, of which only what is new must be read."""
    with _finding:
        course = _courses.setdefault(path, Course(path / "metrics.jsonl"))
        _courses.move_to_end(path)
        while len(_courses) > COURSES_KEPT:
            _courses.popitem(last=False)
    return course


@router.get("/api/runs/{name}/learning")
def learning(
    name: str,
    request: Request,
    since: Annotated[int, Query(ge=-1, le=LAST_STEP)] = -1,
    points: Annotated[int, Query(ge=10, le=MOST_POINTS)] = 1000,
) -> Response:
    """What was recorded after a step. `cursor`: where /events goes on; `per_byte`: bits per byte that a nat per token
    comes to."""
    path = entry_of(request, name)
    course, row, config = course_of(path), standing(path), config_of(path)
    with course.lock:
        course.read()
        found = news(course, row, config, since, points)
    return Response(to_line(found), media_type="application/json")


def news(course: Course, row: Table, config: Config | None, since: int, points: int) -> Table:
    """The curves after a step, what was said, and what is known by now of all steps."""
    sets = [each for each in course.samples if each["step"] > since]
    return {
        **{key: row[key] for key in ("name", "state", "steps", "asked", "doing", "problem")},
        "step": course.step,
        "cursor": max(since, course.step - 1),  # of the last step there may be more to come
        "series": {
            name: curve
            for name, series in course.series.items()
            if (curve := series.curve(since, max(10, points // INSIDE_SHARE) if "/" in name else points))
        },
        "notes": [note for note in course.notes if note["step"] > since],
        "samples": thinned(sets, MOST_SAMPLES),
        "baselines": baselines(course, config) if config else [],
        "per_byte": per_byte(course, config),
    }


def baselines(course: Course, config: Config) -> list[Table]:
    """Losses that mean something, in nats per token."""
    found = []
    if config.model.vocab_size:  # else the tokenizer is still to be learned
        found = [("uniform", Record.of(config, []).uniform, "knowing nothing: every token alike")]
    words = {
        "unigram": "knowing how often each token comes",
        "bigram": "knowing the token before",
        "trigram": "knowing the two tokens before",
    }
    found += [(name, course.facts[name], said) for name, said in words.items() if name in course.facts]
    return [{"name": name, "loss": loss, "words": said} for name, loss, said in found if math.isfinite(number(loss))]


def per_byte(course: Course, config: Config | None) -> dict[str, float]:
    """Bits per byte of each nat per token: of the held-out side, and of what is learned, which is like it."""
    found = dict(course.per_byte)
    learned = "replies" if config and config.train.loss_on == "replies" else "all"
    return found | ({"loss": found[learned]} if learned in found else {})


# Live ----------------------------------------------------------------------------------------------------------------


@router.get("/api/runs/{name}/events")
async def events(
    name: str,
    request: Request,
    since: Annotated[int, Query(ge=-1, le=LAST_STEP)] = -1,
    last_event_id: Annotated[str, Header()] = "",
) -> StreamingResponse:
    """What is new, as it comes: each event has the fields of /learning, of what is after the cursor.

    A point of a step may come again (after a reconnection): it takes the place of the one that is there. With
    `back_to`, all after that step is forgotten first: the training went on from an earlier state.
    """
    path = await run_in_threadpool(entry_of, request, name)
    cursor = int(last_event_id) if re.fullmatch(r"-1|[0-9]{1,12}", last_event_id) else since
    return StreamingResponse(stream(path, cursor, request), media_type="text/event-stream")


async def stream(path: Path, cursor: int, request: Request) -> AsyncIterator[bytes]:
    """Ends when the one who listens goes, the studio ends, or the run is gone."""
    listener = Listener(path, cursor)
    quiet, leaving = 0.0, request.app.state.leaving
    yield b"retry: 2000\n\n"
    while not leaving.is_set():
        try:
            event = await run_in_threadpool(listener.hear)
        except (NoSuchRun, FileNotFoundError):
            return
        if event is not None:
            quiet = 0.0
            yield b"id: %d\ndata: %s\n\n" % (event["cursor"], to_line(event))
        elif quiet >= HEARTBEAT:
            quiet = 0.0
            yield b": still here\n\n"
        quiet += LOOK
        await asyncio.sleep(LOOK)


class Listener:
    """What one page has been told of a run."""

    def __init__(self, path: Path, cursor: int) -> None:
        self.path, self.cursor = path, cursor
        self.told: tuple[Table, int, int] | None = None  # how it stood, and how much was recorded

    def hear(self) -> Table | None:
        """What is new since the last time; None where nothing is."""
        if not self.path.is_dir():
            raise NoSuchRun(self.path.name)
        course, row, config = course_of(self.path), standing(self.path), config_of(self.path)
        with course.lock:
            course.read()
            before, self.told = self.told, (row, course.again, course.lines)
            if self.told == before:
                return None
            is_another = course.step < self.cursor or (before is not None and before[1] != course.again)
            self.cursor = -1 if is_another else self.cursor
            event = news(course, row, config, self.cursor, REPLACED_POINTS if is_another else EVENT_POINTS)
        self.cursor = event["cursor"]
        return event | ({"back_to": -1} if is_another else {})


# Side by side --------------------------------------------------------------------------------------------------------


@router.get("/api/compare")
def compare(request: Request, runs: Annotated[list[str], Query(max_length=MOST_COMPARED)]) -> Table:
    """In which knobs runs differ, as a table and in words."""
    names = list(dict.fromkeys(name for each in runs for name in each.split(",") if name))[:MOST_COMPARED]
    if len(names) < 2:
        raise ValueError("runs: name two or more, with commas between them")
    configs: dict[str, Config] = {}
    for name in names:
        config = config_of(entry_of(request, name))
        if config is None:
            raise ValueError(f"{name}: its configuration cannot be read")
        configs[name] = config
    found = differences(configs)
    said = [each["words"] for each in found]
    return {"runs": names, "differences": found, "words": said or ["their configurations are the same"]}


def differences(configs: dict[str, Config]) -> list[Table]:
    """Each knob that is not the same in all: the model first, then how it learns, then from what."""
    rows = []
    for section in ("model", "train", "data"):
        for field in dataclasses.fields(SECTIONS[section]):
            values = {name: getattr(getattr(config, section), field.name) for name, config in configs.items()}
            if len(set(values.values())) > 1:
                row = {"knob": field.name, "section": section, "help": field.metadata["help"], "values": values}
                rows.append(row | {"words": in_words(field.name, values)})
    return sorted(rows, key=lambda row: row["knob"] in LESS)


def in_words(knob: str, values: dict[str, Any]) -> str:
    """ "attention heads: 4 in a and b, 6 in c"."""
    runs_of: dict[str, list[str]] = {}
    for name, value in values.items():
        runs_of.setdefault(said(value), []).append(name)
    parts = ", ".join(f"{value} in {' and '.join(names)}" for value, names in runs_of.items())
    return printable(f"{IN_WORDS.get(knob, knob.replace('_', ' '))}: {parts}")


def said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value).replace("\n", ", ") or "none"
