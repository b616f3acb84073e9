"""Reads a frame as frames.js does."""

import json
import struct

import numpy as np


def decode(data):
    (length,) = struct.unpack_from("<I", data)
    assert length % 4 == 0
    header = json.loads(data[4 : 4 + length], parse_constant=lambda name: pytest_fail(name))
    floats = np.frombuffer(data, "<f4", offset=4 + length)
    arrays, end = {}, 0
    for each in header["arrays"]:
        assert each["offset"] == end
        end += int(np.prod(each["shape"]))
        arrays[each["name"]] = floats[each["offset"] : end].reshape(each["shape"])
    assert end == len(floats)
    return header, arrays


def pytest_fail(name):
    raise AssertionError(f"{name} is no JSON")
