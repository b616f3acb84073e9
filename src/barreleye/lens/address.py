"""Addresses of activations: a TransformerLens name and, in brackets, which part of it.

    blocks.1.attn.hook_z                        all of it
    blocks.1.attn.hook_z[head=3]                one head
    blocks.0.mlp.hook_post[neuron=17, position=-1]
    blocks.*.attn.hook_pattern[head=0:2, query=5]   several names, and a range that ends before 2

An axis is called position, head, channel, neuron, query or key.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from barreleye.config import did_you_mean

GRADIENT = "_grad"
HEADS, SQUARE = ("position", "head", "channel"), ("head", "query", "key")
AXES = {
    **dict.fromkeys(("hook_q", "hook_k", "hook_v", "hook_z", "hook_result"), HEADS),
    **dict.fromkeys(("hook_attn_scores", "hook_pattern"), SQUARE),
    **dict.fromkeys(("hook_pre", "hook_pre_linear", "hook_post"), ("position", "neuron")),
}
"""Last part of a name -> its axes, the batch left out; those of any other name are position and channel."""

FORM = re.compile(r"\s*([\w.*?]+)\s*(?:\[(.*)\])?\s*")
PART = re.compile(r"\s*(\w+)\s*=\s*(?:(-?\d+)|(-?\d*)\s*:\s*(-?\d*))\s*")
IN_TIME = {"position", "query", "key"}

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Address:
    """A name (or a pattern of names, with `*`), and an index or a range for some of its axes."""

    name: str
    where: tuple[tuple[str, int | slice], ...] = ()

    def __str__(self) -> str:
        shown = (f"{axis}={at if isinstance(at, int) else _shown(at)}" for axis, at in self.where)
        return f"{self.name}[{', '.join(shown)}]" if self.where else self.name

    @property
    def axes(self) -> tuple[str, ...]:
        return AXES.get(self.name.rpartition(".")[2].removesuffix(GRADIENT), ("position", "channel"))

    def index(self, shape: Sequence[int], start: int | None = None) -> Index | None:
        """Where it lies in a tensor of this shape, without a batch.

        start: the position of the first row, where a text is read piece by piece. Positions then count from the
        beginning of the context, and None is returned for what does not lie in this piece.
        Raises ValueError for an index out of range.
        """
        where, found = dict(self.where), []
        for axis, size in zip(self.axes, shape, strict=True):
            at = where.get(axis, slice(None))
            if start is not None and axis in IN_TIME:
                first, last = (at, at + 1) if isinstance(at, int) else (at.start or 0, at.stop or start + size)
                offset = 0 if axis == "key" else start
                at = slice(max(0, first - offset), max(0, min(size, last - offset)))
                if at.start >= at.stop:
                    return None
            elif isinstance(at, int) and not -size <= at < size:
                raise ValueError(f"{self.name} has {axis} 0 to {size - 1}, not {at}")
            found.append(at)
        return tuple(found)


def parse(text: str) -> Address:
    """Raises ValueError where it is no address, or names an axis that the activation does not have."""
    form = FORM.fullmatch(text)
    if not form:
        raise ValueError(f"{text!r} is no address; write a name and perhaps axes, as in blocks.1.attn.hook_z[head=3]")
    name, written = form.groups()
    where: dict[str, int | slice] = {}
    axes = Address(name).axes
    for piece in written.split(",") if written else ():
        part = PART.fullmatch(piece)
        if not part:
            raise ValueError(f"{text!r}: {piece.strip()!r} is no axis with an index; write [head=3, position=0:4]")
        axis, at, first, last = part.groups()
        if axis not in axes:
            raise ValueError(f"{text!r}: {name} has no axis {axis!r}{did_you_mean(axis, list(axes))}")
        where[axis] = int(at) if at else slice(int(first) if first else None, int(last) if last else None)
    return Address(name, tuple(where.items()))


def expand(address: Address, names: Iterable[str]) -> list[Address]:
    """One address for each of the names that it matches. Raises ValueError, with a suggestion, where there is none."""
    names = list(names)
    found = [Address(name, address.where) for name in names if fnmatchcase(name, address.name)]
    if not found:
        raise ValueError(f"there is no activation {address.name!r}{did_you_mean(address.name, names)}")
    return found


def _shown(at: slice) -> str:
    return ":".join("" if edge is None else str(edge) for edge in (at.start, at.stop))
