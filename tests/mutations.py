"""Damaged likenesses of a file, and the rule that every reader keeps: an answer, or one line that says what is wrong.

`make stress` reads 10,000 of each; the tests a part of them."""

import os
import random
import time

N = int(os.environ.get("BARRELEYE_MUTATIONS", "300"))
SLOWEST = 5.0  # seconds for one file
NUMBERS = (
    b"0 -1 0.5 1e9 1000000000 1e999 999999999999999999999 18446744073709551615 18446744073709551616 NaN null true "
    b'[] {} "" "x"'
).split()


def mutate(data, rng):
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


def read_mutated(data, file, read, seed=0):
    """How many of N mutated files were refused. Fails for one whose reading raises anything else, or takes long."""
    rng, refused = random.Random(seed), 0
    for n in range(N):
        file.write_bytes(mutate(data, rng))
        began = time.process_time()
        try:
            read(file)
        except ValueError as error:
            refused += 1
            assert str(error).strip() and "\n" not in str(error), f"file {n}: {error!r}"
        assert time.process_time() - began < SLOWEST, f"file {n}"
    return refused
