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
from barreleye.lens.address import SQUARE, Address, Index, expand, parse
from barreleye.lens.subject import Text, Who, encode, subject_of
from barreleye.lens.view import RESULT, View, shapes_of
from barreleye.model.transformer import Transformer

Change = Callable[[Tensor, Address, Index], Tensor]
"""(activation with its batch, address, index) -> what to put at activation[index]; smaller shapes are broadcast."""

Edits = Mapping[str, Change]


def zero(x: Tensor, at: Address, index: Index) -> Tensor:
    """Ablation: nothing."""
    return x.new_zeros(())


def mean(x: Tensor, at: Address, index: Index) -> Tensor:
    """Mean ablation: at each position the mean over the positions of this text."""
    if at.axes == SQUARE:
        raise ValueError(f"{at}: a mean over positions would let a query see later keys; use zero or knock_out")
    return x.mean(1, keepdim=True).expand_as(x)[index]


def replace(source: "View | Tensor | float") -> Change:
    """Activation patching: what was at the same address in a view of another text (Vig et al. 2020; Meng et al. 2022);
    or this tensor, or this number."""

    def change(x: Tensor, at: Address, index: Index) -> Tensor:
        if not isinstance(source, View):
            return torch.as_tensor(source)
        there = source[at.name][None]
        if dict(at.where).keys().isdisjoint({"position", "query"}) and there.shape[1:] != x.shape[1:]:
            raise ValueError(f"{at}: that text has {len(source.ids)} tokens and this one not; give a position=")
        where = at.index(there.shape[1:])
        assert where is not None
        return there[(slice(None), *where)]

    return change


def add(direction: Tensor, scale: float = 1.0) -> Change:
    """Steering: add `scale` times a direction (Turner et al. 2023), at each addressed position."""
    return lambda x, at, index: x[index] + scale * direction.to(x)


def knock_out(x: Tensor, at: Address, index: Index) -> Tensor:
    """No attention along these edges; what is left of the row sums to one again (Geva et al. 2023). For scores alone:
    `{"blocks.0.attn.hook_attn_scores[head=1, query=5, key=2]": knock_out}`."""
    if not at.name.endswith("hook_attn_scores"):
        raise ValueError(f"{at}: edges are knocked out of blocks.N.attn.hook_attn_scores")
    left = x.clone()
    left[index] = -math.inf
    if bool((left == -math.inf).all(-1).any()):
        raise ValueError(f"{at}: a query would be left with no key to attend to; leave it one")
    return left[index]


def edit(
    who: Who,
    text: Text,
    edits: Edits,
    step: int | None = None,
    names: str | Sequence[str] | None = None,
    chat: bool | None = None,
) -> View:
    """`look`, with the activations at some addresses changed on the way; the view holds what the model went on with.

    Raises ValueError for an address that is not there or a change that does not fit.
    """
    subject = subject_of(who, step)
    return View(subject, encode(subject, text, chat), names, EditTap(subject.model, edits))


class EditTap:
    """Applies edits as the pass comes by their names. start: the position of the first row of the piece being read, for
    a text that is read piece by piece."""

    def __init__(self, model: Transformer, edits: Edits, start: Callable[[], int] | None = None) -> None:
        names, self.start = list(shapes_of(model)), start
        self.changes: dict[str, list[tuple[Address, Change]]] = {}
        for text, change in edits.items():
            address = parse(text)
            if address.name.endswith(RESULT):
                raise ValueError(f"{text!r} is made of attn.hook_z; edit that")
            for at in expand(address, names):
                self.changes.setdefault(at.name, []).append((at, change))

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        for at, change in self.changes.get(name, ()):
            found = at.index(tensor.shape[1:], self.start() if self.start else None)
            if found is None:
                continue
            index: Index = (slice(None), *found)
            new, value = tensor.clone(), change(tensor, at, index)
            try:
                new[index] = value.to(tensor)
            except RuntimeError:
                shapes = f"{tuple(value.shape)} to {tuple(tensor[index].shape)}"
                raise ValueError(f"{at}: the change does not fit, {shapes} (the first axis is the batch)") from None
            tensor = new
        return tensor


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
        stream.tap = EditTap(self.model, self.edits, lambda: stream.cache.length)
        return stream


def edited(who: Who, edits: Edits) -> EditedDecoder:
    """What `generate` and `Chat` take in place of a model. Positions count from the beginning of the context.

    Raises ValueError for edits that need the whole text: a mean over it, or a position from its end.
    """
    for text, change in edits.items():
        address = parse(text)
        if change is mean:
            raise ValueError(f"{text!r}: a text being written has no mean yet; use replace(look(...)[...].mean(0))")
        edges = [edge for _, at in address.where for edge in ([at] if isinstance(at, int) else [at.start, at.stop])]
        in_time = not {"position", "query", "key"}.isdisjoint(dict(address.where))
        if in_time and any(edge is not None and edge < 0 for edge in edges):
            raise ValueError(f"{text!r}: a text being written has no end yet; count positions from 0")
        if in_time and address.name.startswith("ln_final."):
            raise ValueError(f"{text!r}: of a prompt only the last position comes to ln_final; leave out the position")
    decoder = EditedDecoder(subject_of(who).model, edits)
    decoder.stream()  # finds now what is wrong with the names
    return decoder
