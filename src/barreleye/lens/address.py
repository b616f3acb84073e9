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
    **dict.fromkeys(("hook_q", "hook_k", "hook_rot_q", "hook_rot_k", "hook_v", "hook_z", "hook_result"), HEADS),
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
        shown = (f"{axis}={_shown(at)}" for axis, at in self.where)
        return f"{self.name}[{', '.join(shown)}]" if self.where else self.name

    @property
    def axes(self) -> tuple[str, ...]:
        return AXES.get(self.name.rpartition(".")[2].removesuffix(GRADIENT), ("position", "channel"))

    def index(self, shape: Sequence[int]) -> Index:
        """What it selects of a tensor of this shape, without a batch, counted from the beginning.

        Raises ValueError for an index that is not there, and for a range that is empty or goes beyond the end.
        """
        where, found = dict(self.where), []
        for axis, size in zip(self.axes, shape, strict=True):
            at = where.get(axis, slice(None))
            edges = (at, at + 1 or None) if isinstance(at, int) else (at.start or 0, at.stop)
            first, last = (size if edge is None else edge + size if edge < 0 else edge for edge in edges)
            if not 0 <= first < last <= size:
                raise ValueError(f"{self.name} has {axis} 0 to {size - 1}, not {_shown(at)}")
            found.append(first if isinstance(at, int) else slice(first, last))
        return tuple(found)


def head_address(layer: int, head: int) -> str:
    """Where a head is taken out: what it reads, before W_O makes of it what it adds to the stream."""
    return f"blocks.{layer}.attn.hook_z[head={head}]"


def parse(text: str) -> Address:
    """Raises ValueError where it is no address, or names an axis twice."""
    form = FORM.fullmatch(text) if isinstance(text, str) else None
    if not form:
        raise ValueError(f"{text!r} is no address; write a name and perhaps axes, as in blocks.1.attn.hook_z[head=3]")
    name, written = form.groups()
    where: dict[str, int | slice] = {}
    for piece in written.split(",") if written else ():
        part = PART.fullmatch(piece)
        if not part:
            raise ValueError(f"{text!r}: {piece.strip()!r} is no axis with an index; write [head=3, position=0:4]")
        axis, at, first, last = part.groups()
        if axis in where:
            raise ValueError(f"{text!r} gives {axis} twice; give it once")
        where[axis] = int(at) if at else slice(int(first) if first else None, int(last) if last else None)
    return Address(name, tuple(where.items()))


def expand(address: Address, names: Iterable[str]) -> list[Address]:
    """One address for each of the names that it matches. Raises ValueError, with a suggestion, where there is none, or
    one of them does not have an axis that is given."""
    names = list(names)
    found = [Address(name, address.where) for name in names if fnmatchcase(name, address.name)]
    if not found:
        raise ValueError(f"there is no activation {address.name!r}{did_you_mean(address.name, names)}")
    for each in found:
        for axis, _ in each.where:
            if axis not in each.axes:
                raise ValueError(f"{each.name} has no axis {axis!r}{did_you_mean(axis, list(each.axes))}")
    return found


def _shown(at: int | slice) -> str:
    if isinstance(at, int):
        return str(at)
    return ":".join("" if edge is None else str(edge) for edge in (at.start, at.stop))
