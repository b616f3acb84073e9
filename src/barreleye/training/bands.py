"""Is this loss normal? What the same preset came to on the same data, in recorded runs (bands.json).

The bands are recorded by benchmarks/bands.py. Data are the same where they are of one kind and their unigram and bigram
entropies are: a copied file may have another name.
"""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from importlib import resources
from typing import Any

from barreleye.config import PRESETS, Config
from barreleye.run import MAY_CHANGE, MAY_MOVE, Run
from barreleye.training.record import Record

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the training, at which losses are compared
AROUND = 0.02  # of the training is averaged before each
MARGIN = 0.05  # of the loss, beyond the recorded runs on both sides: they are few
ALIKE = 0.02  # of an entropy
IGNORED = (MAY_CHANGE | MAY_MOVE | {"seed"}) - {"steps"}

Band = dict[str, Any]


def shipped() -> list[Band]:
    """The bands that come with the package."""
    bands: list[Band] = json.loads(resources.files("barreleye.training").joinpath("bands.json").read_text("utf-8"))
    return bands


def band_of(records: Sequence[Record]) -> Band:
    """The band of some runs of one preset on one kind of data. Raises ValueError where they are not that."""
    first = records[0]
    preset = preset_of(first.config)
    if preset is None or any(preset_of(r.config) != preset or not same_data(r, first.facts) for r in records):
        raise ValueError("a band is of finished runs of one preset, unchanged, on the same data")
    losses = [losses_at(record) for record in records]
    return {
        "preset": preset,
        "kind": first.config.data.kind,
        "unigram": first.facts["unigram"],
        "bigram": first.facts["bigram"],
        "runs": len(records),
        "losses": {
            str(share): [round(min(r[share] for r in losses), 4), round(max(r[share] for r in losses), 4)]
            for share in set.intersection(*map(set, losses))
        },
    }


def compare(run: Run, bands: Sequence[Band] | None = None) -> str:
    """Whether the loss of a run, as far as it has come, is what it usually is, in a sentence."""
    record = Record.of(run.config, run.metrics())
    preset = preset_of(run.config)
    known = [
        band
        for band in (shipped() if bands is None else bands)
        if band["preset"] == preset and band["kind"] == run.config.data.kind and same_data(record, band)
    ]
    if not known:
        return "what its loss usually is, is not known: no recorded run is of this shape, recipe and data"
    losses = {share: loss for share, loss in losses_at(record).items() if str(share) in known[0]["losses"]}
    if not losses:
        return f"what its loss usually is, is known from {SHARES[0]:.0%} of a training on, and it has not come so far"
    share, loss = max(losses.items())
    low, high = known[0]["losses"][str(share)]
    where = f"after {share:.0%} of the training the loss is {loss:.3f}"
    runs = "one recorded run" if known[0]["runs"] == 1 else f"{known[0]['runs']} recorded runs"
    usual = f"{low:.3f} to {high:.3f} in {runs} of {preset}"
    if loss > high * (1 + MARGIN):
        return f"{where}: higher than usual ({usual})"
    if loss < low * (1 - MARGIN):
        return f"{where}: lower than usual ({usual})"
    return f"{where}: as usual ({usual})"


def preset_of(config: Config) -> str | None:
    """The preset that a configuration is, whatever its seed and place; None where a knob is another, or it goes on
    from another run's weights."""
    if config.data.from_run:
        return None
    for name, preset in PRESETS.items():
        train = {knob: getattr(config.train, knob) for knob in IGNORED}
        if dataclasses.replace(preset.train, **train) == config.train and config.model == dataclasses.replace(
            preset.model, vocab_size=config.model.vocab_size
        ):
            return name
    return None


def same_data(record: Record, facts: dict[str, Any]) -> bool:
    ours, theirs = ([values.get(name) for name in ("unigram", "bigram")] for values in (record.facts, facts))
    return all(a is not None and b is not None and abs(a - b) < ALIKE * b for a, b in zip(ours, theirs, strict=True))


def losses_at(record: Record) -> dict[float, float]:
    """By share of the training that is done, the mean loss of the steps that led there."""
    total = record.config.train.steps
    found = {}
    for share in SHARES:
        near = [
            loss
            for step, loss in zip(record.steps, record.losses, strict=True)
            if share * total - max(5, AROUND * total) < step <= share * total
        ]
        if near and record.steps[-1] >= share * total:
            found[share] = statistics.fmean(near)
    return found
