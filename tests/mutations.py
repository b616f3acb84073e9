"""Damaged likenesses of a file, and the rule that every reader keeps: an answer, or one line that says what is wrong.

A flipped byte rarely gets past the first check of a format. So there are likenesses that do: JSON with other values in
it, here; tokenizers and safetensors in mutated_files.py, checkpoints in export/mutated_checkpoints.py.

`make stress` reads 10,000 of each; the tests a part of them."""

import contextlib
import copy
import json
import math
import os
import random
import re
import signal
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

N = int(os.environ.get("BARRELEYE_MUTATIONS", "60"))
SLOWEST = 5.0  # seconds for one file
HANGS = 30  # seconds, where other programs run too
ROOM = 200 * 2**20  # bytes, beside what the process has: the files are small

# The rule ----------------------------------------------------------------------------------------------------------


class TakesForEver(BaseException):
    """Not an Exception: that, a reader may take for what a damaged file came to."""


@contextlib.contextmanager
def room():
    """Where Linux counts it, what runs in here has 200 MB and no more; the rest of the process keeps what it has."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def a_while():
    """What runs in here ends, also where it waits for somebody who never writes."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_):
        raise TakesForEver(f"it is still reading after {HANGS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def in_silence():
    """A warning would be a line of its own, among what a person reads."""
    with warnings.catch_warnings(record=True, action="always") as warned:
        warnings.simplefilter("ignore", DeprecationWarning)  # which Python does not show
        try:
            yield
        finally:
            assert not warned, warned[0].message


def check_refusal(error):
    """One line (of which the command line shows what a terminal can), and not that the memory ran out."""
    said = str(error)
    assert said.strip() and "\n" not in said, said[:3000]
    assert not re.search("MemoryError|allocat", said), said[:3000]


def read_mutated(data, file, parse, judge=lambda parsed: None, mutate=None, seed=0):
    """Of N mutated files: how many were `parsed`, and how many of those `judge` took too (`read`).

    Fails for one that ends in anything but a ValueError of one line, or takes long, or takes memory."""
    mutate, counted = mutate or mutate_bytes, SimpleNamespace(parsed=0, read=0)
    with room():
        for n in range(N):
            file.write_bytes(mutate(data, random.Random(f"{seed} {n}")))
            began = time.process_time()
            try:
                with a_while(), in_silence():
                    parsed = parse(file)
                    counted.parsed += 1
                    judge(parsed)
                    counted.read += 1
            except ValueError as error:
                check_refusal(error)
            except BaseException as error:
                error.add_note(f"file {n}, which is still there: {file}")
                raise
            assert time.process_time() - began < SLOWEST, f"file {n}: {file}"
    return counted


# Bytes -------------------------------------------------------------------------------------------------------------

NUMBERS = (
    b"0 -1 0.5 1e9 1000000000 1e999 999999999999999999999 18446744073709551615 18446744073709551616 NaN null true "
    b'[] {} "" "x"'
).split()


def mutate_bytes(data, rng):
    """The bytes with a few things wrong: flipped, cut, doubled, filled, or with a number of theirs replaced."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice([1, 1, 2, 8, 64, 1000]))
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end]
            case 4:
                data[at:end] = rng.randbytes(end - at)
            case 5:
                data[0:8] = rng.choice([0, 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1]).to_bytes(8, "little")
            case 6:
                digits = [i for i, byte in enumerate(data[:4000]) if 0x30 <= byte <= 0x39]
                if digits:
                    begin = stop = rng.choice(digits)
                    while stop < len(data) and 0x30 <= data[stop] <= 0x39:
                        stop += 1
                    data[begin:stop] = rng.choice(NUMBERS)
    return bytes(data)


# JSON, and whatever else is made of dictionaries and lists ---------------------------------------------------------

VALUES = (
    *(None, True, False, 0, 1, -1, 2, 8.0, 0.5, -0.0, 1e-320, 1e308, math.inf, math.nan, 2**31, 2**63, 10**400),
    *("", "x", "8", "default", "a\nb", "\r", "\x1b[2J", "\ud800", "x" * 2000),
    *([], [None], [[]], ["x", 1], [1] * 1000, {}, {"x": []}, {"type": "x"}),
)  # fmt: skip
SPELLED = {  # what json.dumps does not write
    "<digits>": "9" * 5000,
    "<infinite>": "1e999",
    "<lists>": "[" * 100_000 + "]" * 100_000,
    "<objects>": '{"x":' * 100_000 + "1" + "}" * 100_000,
    "<200 lists>": "[" * 200 + "]" * 200,
}


class Again(str):
    """A key that may stand in an object twice."""

    __hash__, __eq__ = object.__hash__, object.__eq__


def mutate_json(data, rng):
    """The document with one to three values changed, left out, or there twice; it nearly always is JSON still."""
    document = mutate_values(json.loads(data), rng, (*VALUES, *SPELLED))
    text = json.dumps(document)
    for name, spelled in SPELLED.items():
        text = text.replace(json.dumps(name), spelled)
    return text.encode()


def mutate_values(document, rng, values):
    """Of dictionaries and lists: some values replaced by one of `values` or another of theirs, renamed, removed."""
    for _ in range(rng.randint(1, 3)):
        holder, key = somewhere(document, rng)
        other, other_key = somewhere(document, rng)
        if not holder or not other:
            break  # nothing is left to change
        named = isinstance(holder, dict)
        match rng.randrange(8):
            case 0 | 1:
                holder[key] = copy.deepcopy(rng.choice(values))
            case 2:
                holder[key] = nudged(holder[key], rng)
            case 3:
                del holder[key]
            case 4:
                holder[key] = [holder[key]] if rng.random() < 0.5 else {"x": holder[key]}
            case 5:
                holder[key] = copy.deepcopy(other[other_key])
            case 6:  # there twice, or one more
                twice = copy.deepcopy(rng.choice([other[other_key], rng.choice(values)]))
                holder.update({rng.choice([Again(key), "x"]): twice}) if named else holder.insert(key, twice)
            case 7 if named:  # under another's name
                name = other_key if isinstance(other_key, str) else str(other[other_key])[:100]
                holder[name] = holder.pop(key)
    return document


def somewhere(document, rng):
    """A place in it, as (holder, key); those near the top are as likely as all that lie beneath one of them."""
    holder = document
    while True:
        if not holder:
            return holder, None
        key = rng.choice([*holder]) if isinstance(holder, dict) else rng.randrange(len(holder))
        if not isinstance(holder[key], dict | list) or not holder[key] or rng.random() < 0.3:
            return holder, key
        holder = holder[key]


def nudged(value, rng):
    """A value that is nearly this one, or as much in another type."""
    match value:
        case bool() | None:
            return rng.choice([not value, str(value).lower(), int(bool(value))])
        case int() | float() if abs(value) < 2**63:
            return rng.choice([value + 1, value - 1, 2 * value, -value, value / 2, float(value), str(value), [value]])
        case str():
            return rng.choice([value + "x", value[:-1], value.upper(), value[::-1], value + "\n", value.swapcase()])
    return [value, value]
