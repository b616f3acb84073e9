"""What looking costs: the recorder's share of a training's time, its size on disk, and how long a timeline takes.

    python benchmarks/recorder.py [--steps 60] [--whole 850] [--threads N] [--conversations N]

Trains the default fish for some steps, timing each step and each look in the same run, and counts them as often as the
default training has them; the doctor is timed on a record as long as that training's. Then trains for `--whole` steps
with all looks and with none, one after the other, and puts both times side by side (0: not).
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from machine import tell

from barreleye import PRESETS, Run, grow, timeline
from barreleye.training import grow as grow_module
from barreleye.training.doctor import examine
from barreleye.training.loop import Step
from barreleye.training.recorder import Recorder, is_asked, is_due, snapshot_steps

PROMPT = 64  # tokens
MOST_SHARE, MOST_MB, MOST_SECONDS = 5, 360, 3  # percent of the training's time; of all snapshots; of a timeline

seconds: dict[str, list[float]] = defaultdict(list)


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[name].append(time.perf_counter() - began)
        return result

    return call


class TimedRecorder(Recorder):
    """Notes how long each kind of look takes, and when it was done with a step."""

    def __init__(self, run: Run, *args: Any, **kwargs: Any) -> None:
        super().__init__(run, *args, **kwargs)
        self.came: list[float] = []
        self.left: list[float] = []
        for name in ("facts", "evaluate", "samples", "save"):
            setattr(self, name, timed(name, getattr(self, name)))
        run.save_snapshot = timed("snapshot", run.save_snapshot)  # type: ignore[method-assign]

    def __call__(self, step: Step) -> bool:
        self.came.append(time.perf_counter())
        if step.step:
            seconds["step"].append(self.came[-1] - self.left[-1])
        stopping = super().__call__(step)
        self.left.append(time.perf_counter())
        return stopping

    def look_inside(self, step: Step) -> None:
        timed("look inside" if is_due(step.step, self.config) else "weights before", super().look_inside)(step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--whole", type=int, default=PRESETS["fish"].train.steps)
    parser.add_argument("--conversations", type=int, help="fewer, to try this out: the data are looked at too")
    given = parser.parse_args()
    options = dict(conversations=given.conversations, quiet=True, threads=given.threads)
    with tempfile.TemporaryDirectory() as folder:
        grow_module.Recorder = TimedRecorder  # type: ignore[misc]
        run = grow("fish", steps=given.steps, record_every=5, out=Path(folder, "run"), **options)
        grow_module.Recorder = Recorder  # type: ignore[misc]
        time_doctor(run)
        report_costs()
        report_disk(run)
        report_timeline(run)
        if given.whole:
            report_whole(Path(folder), options | dict(steps=given.whole))


def time_doctor(run: Run) -> None:
    """On a record as long as the default training's when it is half done, which is the mean of what it reads."""
    lines, half = run.metrics(), PRESETS["fish"].train.steps // 2
    longer = [line | {"step": line["step"] + start} for start in range(0, half, lines[-1]["step"]) for line in lines]
    for _ in range(3):
        timed("doctor", examine)(run.config, longer)


def report_whole(folder: Path, options: dict[str, Any]) -> None:
    took = {}
    for name, knobs in (("off", dict(record_every=0, snapshots=0)), ("on", {})):
        run = grow("fish", out=folder / name, **options, **knobs)
        took[name] = max(line["seconds"] for line in run.metrics() if "seconds" in line)
    more = took["on"] / took["off"] - 1
    print(f"{options['steps']} steps take {took['on']:.0f} s with all looks, {took['off']:.0f} s without")
    tell("a training with all looks takes more time by", 100 * more, MOST_SHARE, "%", at_most=True)


def report_costs() -> None:
    config = PRESETS["fish"].train
    looks = sum(is_due(step, config) for step in range(config.steps + 1))
    times = {
        "look inside": looks,
        "weights before": looks,
        "snapshot": len(snapshot_steps(config.steps, config.snapshots)),
        "facts": 1,
        "doctor": sum(is_asked(step, config) for step in range(config.steps + 1)),
        "evaluate": config.steps // config.eval_every + 2,
        "samples": config.steps // config.sample_every + 2,
        "save": config.steps // config.save_every + 2,
    }
    step = statistics.fmean(seconds["step"][1:])
    print(f"a step takes {step:.3f} s (mean of {len(seconds['step']) - 1}); the default fish has {config.steps}")
    shares = {}
    for name, n in times.items():
        took = [t for t in seconds[name] if name != "weights before" or t > 1e-3] or [0.0]
        shares[name] = n * statistics.fmean(took) / (config.steps * step)
        print(f"  {name}: {statistics.fmean(took):.3f} s, {n} times: {shares[name]:.2%} of the steps' time")
    own = sum(shares[name] for name in ("look inside", "weights before", "snapshot", "facts", "doctor"))
    tell("the recorder's share of the steps' time", 100 * own, MOST_SHARE, "%", at_most=True)
    print(f"with held-out looks, samples and saves: {sum(shares.values()):.2%}")


def report_disk(run: Run) -> None:
    kept = [sum(f.stat().st_size for f in (run.path / "snapshots" / str(s)).iterdir()) for s in run.snapshots()]
    most = PRESETS["fish"].train.snapshots
    whole = most * max(kept) / 1e6
    tell(f"{most} snapshots of {max(kept) / 1e6:.1f} MB", whole, MOST_MB, "MB", at_most=True)


def report_timeline(run: Run) -> None:
    ids, took = [i % run.config.model.vocab_size for i in range(PROMPT)], []
    for _ in range(3):
        began = time.perf_counter()
        found = timeline(run, ids, lambda view: view.logits_TV[-1])
        took.append(time.perf_counter() - began)
    assert all(not torch.equal(found[a], found[b]) for a, b in pairwise(found))
    tell(f"timeline of {len(found)} snapshots, {PROMPT} tokens", min(took), MOST_SECONDS, "s", at_most=True)


if __name__ == "__main__":
    main()
