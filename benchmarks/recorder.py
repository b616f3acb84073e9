"""What looking costs: the recorder's share of a training's time, its size on disk, and how long a timeline takes.

    python benchmarks/recorder.py [--steps 60] [--threads N]

Trains the default fish for some steps (of fewer conversations: a step costs the same), timing each step and each look
in the same run, and counts them as often as the default training has them.
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

from barreleye import PRESETS, Run, grow, timeline
from barreleye.training import grow as grow_module
from barreleye.training.loop import Step
from barreleye.training.recorder import Recorder, is_due, snapshot_steps

CONVERSATIONS = 6000
PROMPT = 64  # tokens

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
        for name in ("facts", "evaluate", "samples", "save", "consult"):
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
    given = parser.parse_args()
    grow_module.Recorder = TimedRecorder  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        run = grow(
            "fish", conversations=CONVERSATIONS, steps=given.steps, record_every=5, out=Path(folder, "run"), quiet=True,
            threads=given.threads,
        )  # fmt: skip
        report_costs()
        report_disk(run)
        report_timeline(run)


def report_costs() -> None:
    config = PRESETS["fish"].train
    looks = sum(is_due(step, config) for step in range(config.steps + 1))
    times = {
        "look inside": looks,
        "weights before": looks,
        "snapshot": len(snapshot_steps(config.steps, config.snapshots)),
        "facts": 1,
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
    own = sum(shares[name] for name in ("look inside", "weights before", "snapshot", "facts"))
    print(f"recorder: {own:.2%} of training time; with held-out looks, samples and saves {sum(shares.values()):.2%}")


def report_disk(run: Run) -> None:
    kept = [sum(f.stat().st_size for f in (run.path / "snapshots" / str(s)).iterdir()) for s in run.snapshots()]
    most = PRESETS["fish"].train.snapshots
    print(f"snapshots: {max(kept) / 1e6:.1f} MB each, {most} of them {most * max(kept) / 1e6:.0f} MB")


def report_timeline(run: Run) -> None:
    ids, took = [i % run.config.model.vocab_size for i in range(PROMPT)], []
    for _ in range(3):
        began = time.perf_counter()
        found = timeline(run, ids, lambda view: view.logits_TV[-1])
        took.append(time.perf_counter() - began)
    assert all(not torch.equal(found[a], found[b]) for a, b in pairwise(found))
    print(f"timeline of {len(found)} snapshots, {PROMPT} tokens: {min(took):.2f} s")


if __name__ == "__main__":
    main()
