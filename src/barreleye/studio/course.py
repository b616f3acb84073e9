"""The record of a training as curves. Only what was appended since the last look is read; of a long curve as many
points are given as can be drawn, the lowest and the highest of each stretch, so that a spike stays one."""

import json
import math
import operator
import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

OF_A_STEP = ("loss", "rate", "grad_norm", "tokens", "seconds")
LAST_STEP = 10**12
REMEMBERED = 64  # bytes before the place where reading goes on, to know the file again
BLOCK = 2**22  # bytes that are read at once

Table = dict[str, Any]


class Series:
    """The values of one thing by step; nan stands for what was not finite."""

    def __init__(self) -> None:
        self.steps, self.values = array("q"), array("d")

    def add(self, step: int, value: float) -> None:
        if not self.steps or self.steps[-1] <= step:  # a record goes forward
            self.steps.append(step)
            self.values.append(value)

    def extend(self, steps: "array[int]", values: "array[float]") -> None:
        if all(map(operator.le, steps, steps[1:])) and not (self.steps and steps and self.steps[-1] > steps[0]):
            self.steps.extend(steps)
            self.values.extend(values)
        else:
            for step, value in zip(steps, values, strict=True):
                self.add(step, value)

    def curve(self, since: int, points: int) -> list[tuple[int, float | None]]:
        """(step, value), at most so many, of the steps after `since`."""
        steps, values = np.frombuffer(self.steps, np.int64), np.frombuffer(self.values, np.float64)
        first = int(np.searchsorted(steps, since, "right"))
        kept = extremes(values[first:], points) + first
        pairs = zip(steps[kept].tolist(), values[kept].tolist(), strict=True)
        return [(step, value if math.isfinite(value) else None) for step, value in pairs]


def extremes(values: np.ndarray, points: int) -> np.ndarray:
    """Indices of at most `points` values, in order: the first, the last, and of equal stretches the lowest and the
    highest; of a stretch with a gap (nan) that, too, in the place of the lowest."""
    if len(values) <= points:
        return np.arange(len(values))
    edges = np.linspace(1, len(values) - 1, (points - 2) // 2 + 1).astype(np.int64)
    lowest, highest = (_best(np.where(np.isnan(values), -math.inf, values) * sign, edges) for sign in (-1, 1))
    return np.unique(np.concatenate([[0], lowest, highest, [len(values) - 1]]))


def _best(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The index of the largest value of each stretch between two edges."""
    best = np.maximum.reduceat(values[: edges[-1]], edges[:-1])
    which = np.repeat(np.arange(len(best)), np.diff(edges))
    where = np.flatnonzero(values[edges[0] : edges[-1]] == best[which]) + edges[0]
    first = np.searchsorted(where, edges[:-1])
    return where[first]


class Course:
    """What metrics.jsonl says so far. `lock` is held while it is read, or read from.

    step: the last one recorded. lines: how many were read. again: how often the file was another one than before, as
    when a training is resumed, which forgets what came after the state that it goes on from.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.lock, self.again = file, threading.Lock(), 0
        self._forget()

    def _forget(self) -> None:
        self.series: dict[str, Series] = {}
        self.notes: list[Table] = []
        self.samples: list[Table] = []
        self.facts: Table = {}
        self.per_byte: dict[str, float] = {}
        self.step, self.lines = 0, 0
        self._at, self._before, self._which = 0, b"", (0, 0)

    def read(self) -> None:
        """Take in what is new. A last line that is torn, or being written, waits for its end."""
        try:
            with self.file.open("rb") as file:
                status = os.fstat(file.fileno())  # of this very file: another may have taken its place
                which = status.st_dev, status.st_ino
                file.seek(max(0, self._at - len(self._before)))
                known = not self._at or (which == self._which and file.read(len(self._before)) == self._before)
                if not known:
                    self._forget()
                    self.again += 1
                    file.seek(0)
                self._which = which
                self._take_in(file)
        except FileNotFoundError:
            if self._at:
                self._forget()
                self.again += 1

    def _take_in(self, file: Any) -> None:
        rest = b""
        while block := file.read(BLOCK):
            whole, end, rest = (rest + block).rpartition(b"\n")
            if not end:
                continue
            whole += end
            self._at += len(whole)
            self._before = (self._before + whole)[-REMEMBERED:]
            lines = [line for line in parsed(whole) if has_step(line)]
            self.lines += len(lines)
            self.step = max((line["step"] for line in lines), default=self.step)
            self._add_steps([line for line in lines if "loss" in line])
            for line in lines:
                if "loss" not in line:
                    self._add(line)

    def _add_steps(self, lines: Sequence[Table]) -> None:
        """The lines of the steps themselves, of which there are many, at once."""
        steps = array("q", [line["step"] for line in lines])
        for key in OF_A_STEP if lines else ():
            values: list[Any] = [line.get(key) for line in lines]
            try:
                self.series.setdefault(key, Series()).extend(steps, array("d", values))
            except (TypeError, OverflowError):  # some of them are no numbers
                self.series[key].extend(steps, array("d", map(number, values)))

    def _add(self, line: Table) -> None:
        step = line["step"]
        for key, value in line.items():
            if key in ("held_out", "held_out_whole"):
                self._score(key, step, value)
            elif key == "probe":
                for name, seen in numbers_of(value, "probe/"):
                    self._put(name, step, seen)
            elif key == "samples" and isinstance(value, list) and all(isinstance(each, dict) for each in value):
                said = [{part: text_of(each.get(part)) for part in ("prompt", "reply")} for each in value]
                self.samples.append({"step": step, "samples": said})
            elif key == "facts" and isinstance(value, dict):
                self.facts = value
            elif key == "finding" and isinstance(value, dict):
                self._note(step, value, bool(value.get("is_note")))
            elif key == "not_finite":
                advice = "a lower learning rate, or a longer warm-up"
                self._note(step, {"name": "not finite", "evidence": value, "advice": advice}, False)

    def _note(self, step: int, finding: Table, is_note: bool) -> None:
        name, evidence, advice = (text_of(finding.get(part)) for part in ("name", "evidence", "advice"))
        words = f"{name}: {evidence}; try: {advice}"
        said = {"name": name, "evidence": evidence, "advice": advice, "is_note": is_note, "words": words}
        self.notes.append({"step": step, **said})

    def _score(self, key: str, step: int, scores: Any) -> None:
        """A held-out loss, and how it comes to bits per byte."""
        for part, score in scores.items() if isinstance(scores, dict) else ():
            if isinstance(score, dict):
                part = text_of(part)
                loss, bits = (number(score.get(name)) for name in ("loss", "bits_per_byte"))
                self._put(f"{key}.{part}", step, loss)
                if loss > 0 and math.isfinite(bits / loss):
                    self.per_byte[part] = bits / loss

    def _put(self, name: str, step: int, value: Any) -> None:
        name = text_of(name)
        if name not in self.series:
            self.series[name] = Series()
        self.series[name].add(step, number(value))


def has_step(line: Table) -> bool:
    return type(line.get("step")) is int and 0 <= line["step"] <= LAST_STEP


def parsed(lines: bytes) -> Iterator[Table]:
    """The tables in lines of JSON; one that is damaged is passed over."""
    try:
        found = json.loads(b"[" + b",".join(lines.split(b"\n")[:-1]) + b"]")  # at once, which takes half the time
    except (ValueError, RecursionError):
        found = [value for line in lines.split(b"\n") for value in _value(line)]
    return (value for value in found if isinstance(value, dict))


def _value(line: bytes) -> Iterable[Any]:
    try:
        return [json.loads(line)]
    except (ValueError, RecursionError):
        return []


def text_of(value: Any) -> str:
    """What a page can be sent; empty for what is none."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else ""


def number(value: Any) -> float:
    """nan for what is none, or none that JSON can hold."""
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def numbers_of(values: Any, under: str = "") -> Iterator[tuple[str, Any]]:
    """{"dead": {"blocks.0.mlp": 0.1}} -> ("dead/blocks.0.mlp", 0.1); those of a list by their place."""
    named = values.items() if isinstance(values, dict) else enumerate(values if isinstance(values, list) else ())
    for name, value in named:
        if isinstance(value, dict | list):
            yield from numbers_of(value, f"{under}{name}/")
        else:
            yield f"{under}{name}", value


def thinned(things: Sequence[T], most: int) -> list[T]:
    """So many of them at most, evenly, the first and the last among them."""
    if len(things) <= most:
        return list(things)
    return [things[round(i * (len(things) - 1) / (most - 1))] for i in range(most)]
