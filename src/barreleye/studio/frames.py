"""What the page is sent of a look: a header of JSON, then arrays of float32, which JavaScript reads without parsing.

uint32      length of the header in bytes, little-endian
header      UTF-8, filled up with spaces to a multiple of 4; "arrays" says what follows
float32...  the arrays, little-endian, one after the other
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """header: what fits JSON, every number of it finite. arrays: by name."""

    header: Mapping[str, Any]
    arrays: Mapping[str, Tensor] = field(default_factory=dict)

    def encode(self) -> bytes:
        blocks, listed, offset = [], [], 0
        for name, array in self.arrays.items():
            block = np.ascontiguousarray(array.detach().cpu().numpy(), "<f4")
            listed.append({"name": name, "shape": list(block.shape), "offset": offset})
            blocks.append(block.tobytes())
            offset += block.size
        header = to_line({**self.header, "arrays": listed})
        header += b" " * (-len(header) % 4)
        return b"".join([struct.pack("<I", len(header)), header, *blocks])


def to_line(table: Mapping[str, Any]) -> bytes:
    """JSON in one line."""
    return json.dumps(table, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def finite(value: float) -> float | None:
    """A number as JSON has them: None for what a model that came to nothing computes, nan and infinity."""
    return value if math.isfinite(value) else None
