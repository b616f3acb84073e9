"""The record of a training, mirrored into TensorBoard, Weights & Biases or Trackio: here, and with no account."""

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from barreleye.config import did_you_mean
from barreleye.run import Run

Numbers = dict[str, float]
Log = Callable[[int, Numbers], Any]
"""Keeps the numbers of a step."""

PROJECT = "barreleye"


@contextmanager
def tensorboard(run: Run, start: int) -> Iterator[Log]:
    """In `reports/tensorboard`; what was kept after `start` is forgotten, as by the record."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run.path / "reports" / "tensorboard"), purge_step=start + 1 if start else 0) as writer:
        yield lambda step, numbers: [writer.add_scalar(name, value, step) for name, value in numbers.items()]


@contextmanager
def wandb(run: Run, start: int) -> Iterator[Log]:
    """In `reports/wandb`, offline unless WANDB_MODE says otherwise; `wandb sync` uploads it, where one wants that."""
    import wandb

    (run.path / "reports").mkdir(exist_ok=True)
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    config = dataclasses.asdict(run.config)
    with wandb.init(project=PROJECT, name=run.name, dir=run.path / "reports", mode=mode, config=config) as theirs:
        yield lambda step, numbers: theirs.log(numbers, step=step)


@contextmanager
def trackio(run: Run, start: int) -> Iterator[Log]:
    """Where Trackio keeps everything (TRACKIO_DIR); `trackio show` opens it."""
    import trackio

    theirs = trackio.init(project=PROJECT, name=run.name, config=dataclasses.asdict(run.config), embed=False)
    with ExitStack() as stack:
        stack.callback(theirs.finish)
        yield lambda step, numbers: theirs.log(numbers, step=step)


TRACKERS: dict[str, Callable[[Run, int], AbstractContextManager[Log]]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "trackio": trackio,
}


def check_tracker(name: str | None) -> None:
    """Raises ValueError for a tracker that does not exist, or is not installed."""
    if name is None:
        return
    if name not in TRACKERS:
        raise ValueError(f"there is no tracker {name!r}{did_you_mean(name, list(TRACKERS))}")
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:  # a folder of that name, as wandb itself leaves behind, is no package
        raise ValueError(f"--track {name}: it is not installed; pip install 'barreleye[track]'")


def mirror(name: str | None, run: Run, start: int) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
    """A function that takes each line of the record; without a name, it does nothing."""
    return nullcontext(lambda line: None) if name is None else _mirror(TRACKERS[name](run, start))


@contextmanager
def _mirror(tracker: AbstractContextManager[Log]) -> Iterator[Callable[[dict[str, Any]], None]]:
    with tracker as log:

        def keep(line: dict[str, Any]) -> None:
            step = line["step"]
            if numbers := dict(numbers_of({name: value for name, value in line.items() if name != "step"})):
                log(step, numbers)

        yield keep


def numbers_of(values: dict[str, Any], under: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a line of the record: {"held_out": {"loss": 2.0}} -> ("held_out/loss", 2.0)."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from numbers_of(value, f"{under}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield under + name, float(value)
