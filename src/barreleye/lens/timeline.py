"""Time travel: any question, asked of a model at every moment that was kept; and where two models differ."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from barreleye.model.transformer import Transformer
from barreleye.run import Run

T = TypeVar("T")


def timeline(run: Run, what: Callable[[Transformer], T], device: str = "cpu") -> dict[int, T]:
    """`what(model)` of each snapshot, by step, the first one first.

    `what` may compute anything; it gets the same module each time, with the weights of another step, so it returns what
    it found and not the model. Raises ValueError where the run kept no snapshot, or a damaged one.
    """
    steps = run.snapshots()
    if not steps:
        raise ValueError(f"{run.path}: kept no snapshots; train it with --snapshots 20")
    model = run.load_model(device, steps[0])
    found = {}
    for step in steps:
        model.load_state_dict(run.load_weights(step))
        found[step] = what(model)
    return found


@dataclass(frozen=True)
class Change:
    """A parameter's change |b - a|, as a share of the mean of |a| and |b|: 0 where they agree, 2 where one is zero or
    the negative of the other."""

    name: str
    relative: float
    norm_a: float
    norm_b: float


def diff(a: Run, b: int | Run, c: int | None = None) -> list[Change]:
    """Where two models differ, most first: `diff(run, step_a, step_b)` of two snapshots, `diff(run_a, run_b)` of two
    runs as last saved. Raises ValueError where their parameters are not the same, or there is no such snapshot."""
    if isinstance(b, Run) == (c is not None):
        raise ValueError("give diff two runs, or a run and two of its steps")
    weights_a = a.load_weights(None if isinstance(b, Run) else b)
    weights_b = b.load_weights() if isinstance(b, Run) else a.load_weights(c)
    for name in sorted(weights_a.keys() | weights_b.keys()):
        one, other = (tuple(w[name].shape) if name in w else "nothing" for w in (weights_a, weights_b))
        if one != other:
            raise ValueError(f"{name} is {one} in one and {other} in the other; compare models of one shape")
    tied = "unembed.weight" if a.config.model.tie_embeddings else None  # the embedding's second name
    changes = [_change(name, weights_a[name], weights_b[name]) for name in weights_a if name != tied]
    return sorted(changes, key=lambda change: -change.relative)


def _change(name: str, a: Tensor, b: Tensor) -> Change:
    norm_a, norm_b = float(a.norm()), float(b.norm())
    return Change(name, float((b - a).norm()) / ((norm_a + norm_b) / 2 or 1.0), norm_a, norm_b)
