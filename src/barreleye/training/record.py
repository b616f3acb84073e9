"""The lines of `metrics.jsonl`, as the doctor reads them."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from barreleye.config import Config

ENOUGH = 20  # steps, before anything is said of the course of a loss
NEAR = 0.1  # of the way between two losses that mean something
USUAL_BIGRAM = 0.7  # of ln V


@dataclass(frozen=True)
class Finding:
    """What is wrong, how one can see it, and what to try. A note is worth knowing, and no fault."""

    name: str
    evidence: str
    advice: str
    is_note: bool = False


@dataclass(frozen=True)
class Record:
    """The course of a training. Losses in nats per token; None stands for what was not finite."""

    config: Config
    steps: list[int]
    losses: list[float]
    probes: dict[int, dict[str, Any]]  # by step; see docs/run-folder.md
    held_out: dict[int, float]  # of the beginning of the held-out side, by step
    facts: dict[str, Any]  # facts.py
    not_finite: str
    device_check: dict[str, Any]  # agreement.py

    @classmethod
    def of(cls, config: Config, lines: Iterable[dict[str, Any]]) -> "Record":
        lines = list(lines)
        learned = [line for line in lines if "loss" in line]
        return cls(
            config,
            [line["step"] for line in learned],
            [line["loss"] for line in learned],
            {line["step"]: line["probe"] for line in lines if "probe" in line},
            {line["step"]: line["held_out"]["all"]["loss"] for line in lines if "held_out" in line},
            next((line["facts"] for line in lines if "facts" in line), {}),
            next((line["not_finite"] for line in lines if "not_finite" in line), ""),
            next((line["device_check"] for line in reversed(lines) if "device_check" in line), {}),
        )

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        return self.steps[-1] / max(1, self.config.train.steps) if self.steps else 0.0

    @property
    def uniform(self) -> float:
        """The loss of who knows nothing: ln V."""
        return math.log(max(1, self.config.model.vocab_size))

    @property
    def first(self) -> float:
        """The loss before the first step: of the held-out side, else of the first batch."""
        return self.held_out.get(0, self.losses[0] if self.losses else math.nan)

    @property
    def start(self) -> float:
        """The first loss; where all begins anew no less than ln V, as a lower one is luck."""
        return self.first if self.config.data.from_run else max(self.first, self.uniform)

    @property
    def falls_short(self) -> bool:
        """Whether the last loss is clearly above what a count of pairs comes to, as is known, or is usual."""
        pairs = self.facts.get("bigram") or USUAL_BIGRAM * self.uniform
        return self.final > pairs + max(0.05, NEAR * (self.uniform - pairs))

    @property
    def window(self) -> int:
        """Steps over which a loss is averaged, so that one odd batch is no event."""
        return max(5, len(self.losses) // 30)

    @property
    def smooth(self) -> list[float]:
        """The mean loss of each whole window of steps, one after the other."""
        starts = range(0, len(self.losses) - self.window + 1, self.window)
        return [statistics.fmean(self.losses[i : i + self.window]) for i in starts]

    @property
    def final(self) -> float:
        """The mean loss of the last window."""
        return statistics.fmean(self.losses[-self.window :])

    def of_groups(self, key: str) -> dict[str, dict[int, Any]]:
        """What the probes saw under `key` of each group of weights, by step."""
        groups = dict.fromkeys(group for probe in self.probes.values() for group in probe.get(key, ()))
        return {
            group: {step: probe[key][group] for step, probe in self.probes.items() if group in probe.get(key, ())}
            for group in groups
        }

    @property
    def layers(self) -> range:
        return range(self.config.model.n_layers)

    def later_probes(self, share: float = 0.25) -> Sequence[tuple[int, dict[str, Any]]]:
        """Those after that share of the training so far: it has left its beginning."""
        last = self.steps[-1] if self.steps else 0
        return [(step, probe) for step, probe in self.probes.items() if step and step >= share * last]


def median(values: Iterable[float | None]) -> float:
    """Of those that are numbers; nan where there is none."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else math.nan
