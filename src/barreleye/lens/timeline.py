"""Time travel: any question, asked of a model at every moment that was kept; and where two models differ."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from barreleye.lens.edits import Edits, edit
from barreleye.lens.subject import Subject, Text, Who, encode, run_of, subject_of
from barreleye.lens.view import View
from barreleye.model.transformer import Transformer

T = TypeVar("T")


def timeline(
    who: Who,
    text: Text,
    what: Callable[[View], T],
    edits: Edits | None = None,
    names: str | Sequence[str] | None = None,
    chat: bool | None = None,
) -> dict[int, T]:
    """`what` of a look at `text`, perhaps under edits, at each snapshot of a run; by step, the first one first.

    Each step has a model of its own, so that what is found stays what it was. Raises ValueError where the run kept no
    snapshot, or a damaged one.
    """
    run = run_of(who, "snapshots")
    if not run.snapshots():
        raise ValueError(f"{run.path}: kept no snapshots; train it with --snapshots 20")
    first, found = subject_of(run, run.snapshots()[0]), {}
    ids = encode(first, text, chat)
    for step in run.snapshots():
        model = with_weights(first.model, run.load_weights(step))
        found[step] = what(edit(first._replace(model=model), ids, edits or {}, names=names))
    return found


def with_weights(model: Transformer, weights: dict[str, Tensor]) -> Transformer:
    """A model of the same shape with these weights, sooner than by building one: its initial weights would take longer
    than all else."""
    own = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    own.load_state_dict(weights, assign=True)
    if model.config.tie_embeddings:
        own.unembed.weight = own.embed.weight
    return own


@dataclass(frozen=True)
class Difference:
    """Of a parameter or an activation: |b - a| as a share of the mean of |a| and |b|, which is 0 where they agree, 2
    where one is zero or the negative of the other."""

    name: str
    relative: float
    norm_a: float
    norm_b: float


def diff(
    a: Who, b: Who | int, c: int | None = None, text: Text | None = None, chat: bool | None = None
) -> list[Difference]:
    """Where two models differ, most first: `diff(run, step_a, step_b)` of two snapshots, `diff(run_a, run_b)` of two
    runs as last saved. In their parameters; given a text, in their activations on it.

    Raises ValueError where they are not of one shape, or there is no such snapshot.
    """
    if isinstance(b, int) != (c is not None):
        raise ValueError("give diff two runs, or a run and two of its steps")
    first, second = (subject_of(a, b), subject_of(a, c)) if isinstance(b, int) else (subject_of(a), subject_of(b))
    one, other = _tensors(first, text, chat), _tensors(second, text, chat)
    for name in sorted(one.keys() | other.keys()):
        here, there = (tuple(side[name].shape) if name in side else "nothing" for side in (one, other))
        if here != there:
            raise ValueError(f"{name} is {here} in one and {there} in the other; compare models of one shape")
    return sorted((_difference(name, one[name], other[name]) for name in one), key=lambda found: -found.relative)


def _tensors(subject: Subject, text: Text | None, chat: bool | None) -> dict[str, Tensor]:
    if text is None:
        return {name: weight.detach() for name, weight in subject.model.named_parameters()}
    view = View(subject, encode(subject, text, chat))
    # What is to come is hidden by a score of minus infinity, in both alike.
    return {name: view[name].nan_to_num(neginf=0) for name in view.shapes}


def _difference(name: str, a: Tensor, b: Tensor) -> Difference:
    norm_a, norm_b = float(a.norm()), float(b.norm())
    return Difference(name, float((b - a).norm()) / ((norm_a + norm_b) / 2 or 1.0), norm_a, norm_b)
