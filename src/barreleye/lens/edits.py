"""Interference: what a model says when some of its activations are others.

An edit is an address (lens/address.py) and a change: `{"blocks.1.attn.hook_z[head=3]": zero}`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from barreleye.config import ModelConfig
from barreleye.inference.generate import TorchStream
from barreleye.lens.address import IN_TIME, SQUARE, Address, Index, expand, parse
from barreleye.lens.subject import Text, Who, encode, subject_of
from barreleye.lens.view import RESULT, View, evaluating, shapes_of
from barreleye.model.transformer import Transformer


@dataclass(frozen=True)
class Place:
    """Where an edit falls in what is being read, which may be a piece of a longer text.

    address: as it was given, for one name. index: where in the activation, its batch first.
    shape: of all that the address selects, without a batch. part: which of that is being read.
    """

    address: Address
    index: Index
    shape: tuple[int, ...]
    part: Index

    def cut(self, value: Tensor) -> Tensor:
        """What belongs here of a tensor that is made for all that the address selects; smaller ones are broadcast.
        Raises ValueError for one that does not fit."""
        try:
            return value.expand(self.shape)[self.part]
        except RuntimeError:
            raise ValueError(f"{self.address} has shape {self.shape}; {tuple(value.shape)} does not fit") from None


Change = Callable[[Tensor, Place], Tensor | float]
"""(activation with its batch, place) -> what to put at activation[place.index]; smaller shapes are broadcast."""

Edits = Mapping[str, Change]


def zero(x: Tensor, at: Place) -> float:
    """Ablation: nothing."""
    return 0.0


def mean(x: Tensor, at: Place) -> Tensor:
    """Mean ablation: the mean over the positions of this text, the later ones too."""
    if at.address.axes == SQUARE:
        raise ValueError(f"{at.address}: a mean over positions would let a query see later keys; use zero or knock_out")
    return x.mean(1, keepdim=True).expand_as(x)[at.index]


def replace(source: "View | Tensor | float") -> Change:
    """Activation patching: what was at the same address in a view of another text (Vig et al. 2020; Meng et al. 2022);
    or this tensor, or this number."""
    if not isinstance(source, View):
        value = _tensor(source, "replace takes a view, a tensor or a number")
        return lambda x, at: at.cut(value.to(x))

    def change(x: Tensor, at: Place) -> Tensor:
        there = source[str(at.address)]
        if there.shape != at.shape:
            shapes = f"{tuple(there.shape)} in the source and {at.shape} here"
            times = " and ".join(f"{axis}=" for axis in at.address.axes if axis in IN_TIME)
            raise ValueError(f"{at.address} is {shapes}; for texts of different lengths give {times} that both have")
        return at.cut(there)

    return change


def add(direction: "Tensor | Sequence[float] | float", scale: float = 1.0) -> Change:
    """Steering: add `scale` times a direction (Turner et al. 2023), at each addressed position."""
    added = scale * _tensor(direction, "add takes a direction")
    return lambda x, at: x[at.index] + at.cut(added.to(x))


def knock_out(x: Tensor, at: Place) -> Tensor:
    """No attention along these edges; what is left of the row sums to one again (Geva et al. 2023). For scores alone:
    `{"blocks.0.attn.hook_attn_scores[head=1, query=5, key=2]": knock_out}`."""
    if not at.address.name.endswith("hook_attn_scores"):
        raise ValueError(f"{at.address}: edges are knocked out of blocks.N.attn.hook_attn_scores")
    left = x.clone()
    left[at.index] = -math.inf
    if bool((left == -math.inf).all(-1).any()):
        raise ValueError(f"{at.address}: a query would be left with no key to attend to; leave it one")
    return left[at.index]


def edit(
    who: Who,
    text: Text,
    edits: Edits,
    step: int | None = None,
    names: str | Sequence[str] | None = None,
    chat: bool | None = None,
) -> View:
    """`look`, with the activations at some addresses changed on the way, in the order in which they are given; the view
    holds what the model went on with.

    Raises ValueError for an address that is not there or a change that does not fit.
    """
    subject = subject_of(who, step)
    ids = encode(subject, text, chat)
    return View(subject, ids, names, EditTap(subject.model, edits, len(ids)))


class EditTap:
    """Applies edits as a pass comes by their names.

    length: how many positions there will be; a context, unless told. start: the position of the first row of the piece
    being read, where a text is read piece by piece. Raises ValueError for what is not there or is no change.
    """

    def __init__(
        self, model: Transformer, edits: Edits, length: int | None = None, start: Callable[[], int] = lambda: 0
    ) -> None:
        length, shapes = length or model.config.context_length, shapes_of(model) if edits else {}
        self.start, self.end = start, 0
        self.changes: dict[str, list[tuple[Address, Index, Change]]] = {}
        for text, change in edits.items():
            address = parse(text)
            if address.name.endswith(RESULT):
                raise ValueError(f"{text!r} is made of attn.hook_z; edit that")
            if not callable(change):
                raise ValueError(f"{text!r}: {change!r} is no change; give zero, replace({change!r}) or the like")
            for at in expand(address, shapes):
                sizes = [length if axis in IN_TIME else n for axis, n in zip(at.axes, shapes[at.name], strict=True)]
                self.changes.setdefault(at.name, []).append((at, at.index(sizes), change))

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        if name == "hook_embed":
            self.end = self.start() + tensor.shape[1]
        for address, selected, change in self.changes.get(name, ()):
            if at := _place(address, selected, tensor.shape[1:], self.end):
                new, value = tensor.clone(), _tensor(change(tensor, at), f"{address}: a change gives a tensor")
                try:
                    new[at.index] = value.to(tensor)
                except RuntimeError:
                    shapes = f"{tuple(value.shape)} to {tuple(tensor[at.index].shape)}"
                    raise ValueError(f"{address}: the change does not fit, {shapes}, the batch first") from None
                tensor = new
        return tensor


def _place(address: Address, selected: Index, sizes: Sequence[int], end: int) -> Place | None:
    """Where what is selected lies in a piece that ends at position `end`; None where nothing of it does."""
    index: list[int | slice] = [slice(None)]
    shape, part = [], []
    for axis, size, at in zip(address.axes, sizes, selected, strict=True):
        # The rows of a piece are the last ones up to its end; keys are remembered from the beginning on.
        first = end - size if axis in ("position", "query") else 0
        if isinstance(at, int):
            if not first <= at < first + size:
                return None
            index.append(at - first)
        else:
            left, right = max(at.start, first), min(at.stop, first + size)
            if left >= right:
                return None
            index.append(slice(left - first, right - first))
            shape.append(at.stop - at.start)
            part.append(slice(left - at.start, right - at.start))
    return Place(address, tuple(index), tuple(shape), tuple(part))


@dataclass(frozen=True)
class EditedDecoder:
    """A model that generates, and chats, under edits: `Chat(edited(run, {...}), run.tokenizer)`."""

    model: Transformer
    edits: Edits

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def stream(self) -> TorchStream:
        stream = TorchStream(self.model)
        stream.tap = EditTap(self.model, self.edits, start=lambda: stream.cache.length)
        return stream


def edited(who: Who, edits: Edits, step: int | None = None) -> EditedDecoder:
    """What `generate` and `Chat` take in place of a model. Positions count from the beginning of the context.

    Raises ValueError for edits that need the whole text (a mean over it, or a position from its end), and for those
    that do not fit, which one pass over a full context tells before anything is written.
    """
    for text, change in edits.items():
        if change is mean:
            raise ValueError(f"{text!r}: a text being written has no mean yet; use replace(look(...)[...].mean(0))")
        for axis, at in parse(text).where:
            edges = [at] if isinstance(at, int) else [at.start, at.stop]
            if axis in IN_TIME and any(edge is not None and edge < 0 for edge in edges):
                raise ValueError(f"{text!r}: a text being written has no end yet; count positions from 0")
    model = subject_of(who, step).model
    ids_BT = torch.zeros(1, model.config.context_length, dtype=torch.long, device=model.embed.weight.device)
    with torch.no_grad(), evaluating(model):
        model(ids_BT, tap=EditTap(model, edits))
    return EditedDecoder(model, edits)


def _tensor(value: "Tensor | Sequence[float] | float", wanted: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{wanted}, not {value!r}") from None
