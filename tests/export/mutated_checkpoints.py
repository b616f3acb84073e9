"""Damaged likenesses of torch's .pt files, in a whole zip with right sums: what is wrong lies in what they hold.

`mutate_pickle` changes data.pkl, so that sizes, strides, types and names lie as no program of torch's would write them.
`mutate_held` saves what was loaded with other values, and other tensors, in it."""

import copy
import io
import math
import pickletools
import random
import struct
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from mutated_files import other_name
from mutations import VALUES, mutate_bytes, mutate_values

Found = tuple[pickletools.OpcodeInfo, Any, int | None]

TUPLES = ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
NUMBERS = (0, 1, 2, 3, 31, 33, 64, 255, 1000, 10**6, 2**31 - 1, -1, 2**31, 2**40, 2**63 - 1, 2**63, 10**400)
KINDS = dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), "INT")
KINDS |= dict.fromkeys(("NEWTRUE", "NEWFALSE", "BINFLOAT"), "FLAG")
# Of what torch.load runs with weights_only=True: what makes tensors, or takes memory.
GLOBALS = (
    *("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
    *("torch._utils _rebuild_parameter", "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor"),
    *("torch._utils _rebuild_meta_tensor_no_storage", "torch._utils _rebuild_nested_tensor", "torch Tensor"),
    *("torch._utils _rebuild_wrapper_subclass", "torch._tensor _rebuild_from_type_v2", "torch FloatTensor"),
    *("torch FloatStorage", "torch DoubleStorage", "torch HalfStorage", "torch BFloat16Storage", "torch LongStorage"),
    *("torch BoolStorage", "torch ByteStorage", "torch ComplexFloatStorage", "torch QInt8Storage", "torch Size"),
    *("torch.storage TypedStorage", "torch.storage UntypedStorage", "torch.nn.parameter Parameter", "torch device"),
    *("__builtin__ bytearray", "__builtin__ set", "__builtin__ complex", "_codecs encode", "collections OrderedDict"),
    *("collections Counter", "torch float8_e5m2", "torch.serialization _get_layout", "posix system", "x y"),
)  # fmt: skip


def mutate_pickle(data: bytes, rng: random.Random) -> bytes:
    """The archive, its data.pkl changed: mostly by opcodes, so that it still is a pickle; else by bytes."""
    entries = unpacked(data)
    name = next(name for name in entries if name.endswith("data.pkl"))
    if (drawn := rng.random()) < 0.9:
        entries[name] = mutate_opcodes(entries[name], rng) if drawn < 0.8 else mutate_bytes(entries[name], rng)
    else:
        name = rng.choice([*entries])
        entries[name] = mutate_bytes(entries[name], rng)
    return packed(entries)


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def packed(entries: dict[str, bytes]) -> bytes:
    """As torch packs them: not compressed, with the sums that it checks."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def mutate_opcodes(data: bytes, rng: random.Random) -> bytes:
    found = [(op, argument, at) for op, argument, at in pickletools.genops(data) if op.name not in ("PROTO", "STOP")]
    ends = [at for _, _, at in found[1:]] + [data.index(b".", found[-1][2])]
    codes = [data[at:end] for (_, _, at), end in zip(found, ends, strict=True)]
    strings = [argument for op, argument, _ in found if op.name == "BINUNICODE"]
    kinds: dict[str, list[int]] = {}
    for i, (op, _, _) in enumerate(found):
        kinds.setdefault(KINDS.get(op.name, op.name), []).append(i)
    for _ in range(rng.randint(1, 2)):
        kind = rng.choice(["VIEW", "VIEW", "VIEW", "INT", "INT", "BINUNICODE", "BINUNICODE", "FLAG", "GLOBAL", "any"])
        at = rng.choice(kinds.get(kind, range(len(codes))))
        _, argument, _ = found[at]
        match kind:
            case "VIEW":
                mutate_view(found, codes, rng)
            case "INT":
                codes[at] = spelled(rng.choice([*NUMBERS, argument + 1, argument - 1, argument // 2]))
            case "BINUNICODE":
                text = rng.choice([*strings, other_name(strings, rng)]).encode("utf-8", "surrogatepass")
                codes[at] = b"X" + struct.pack("<I", len(text)) + text
            case "FLAG":
                codes[at] = rng.choice([b"\x88", b"\x89", b"N", b")", b"]", b"}", spelled(2), b"G" + rng.randbytes(8)])
            case "GLOBAL":
                codes[at] = f"c{rng.choice(GLOBALS)}\n".replace(" ", "\n").encode()
            case "any":
                other = rng.randrange(len(codes))
                codes[at] = rng.choice([b"", 2 * codes[at], codes[other], codes[at] + b"0", b"R" + codes[at]])
    return data[: found[0][2]] + b"".join(codes) + data[ends[-1] :]


def mutate_view(found: list[Found], codes: list[bytes], rng: random.Random) -> None:
    """Other sizes and strides of a tensor: the last tuples before the flag that says whether it has a gradient."""
    flags = [i for i, (op, _, _) in enumerate(found) if op.name == "NEWFALSE" and found[i - 2][0].name in TUPLES]
    end = rng.choice(flags)
    n = TUPLES.index(found[end - 2][0].name)
    integers = [i for i in range(end) if "BININT" in found[i][0].name][-2 * n :]
    for at in integers[n:] if rng.random() < 0.7 else [rng.choice(integers[n:])]:
        codes[at] = spelled(0)  # a stride: each size fits the storage then
    for at in rng.sample(integers[:n], rng.randint(0, n)):
        codes[at] = spelled(rng.choice([number for number in NUMBERS if 0 <= number < 2**63]))


def spelled(number: int) -> bytes:
    """The number as pickle writes it in one opcode."""
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


# What it holds -----------------------------------------------------------------------------------------------------

TENSORS = (
    lambda t: t.T.contiguous() if t.ndim == 2 else t[:, None],
    lambda t: t.T.contiguous().T if t.ndim == 2 else t.flip(0),
    lambda t: t.reshape(-1),
    lambda t: t[None],
    lambda t: t[:-1],
    lambda t: t[:0],
    lambda t: t.sum(),
    lambda t: t[:1].expand(t.shape),
    lambda t: torch.zeros(1).expand(t.shape),
    lambda t: torch.zeros(1).expand(10_000_000, 1024),
    lambda t: torch.zeros(1, dtype=torch.float16).expand(2**40),
    lambda t: torch.empty(0, 2**40),
    lambda t: t.as_strided(t.shape, [1] * t.ndim),
    lambda t: t * math.nan,
    lambda t: nn.Parameter(t),
    lambda t: t.clone().requires_grad_(),
    *(lambda t, d=d: t.to(d) for d in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn)),
    *(lambda t, d=d: t.to(d) for d in (torch.int64, torch.uint8, torch.bool, torch.complex64)),
    lambda t: t.to(torch.complex64).conj(),
    lambda t: t.to(torch.complex64).conj().imag,
    lambda t: t.to_sparse(),
    lambda t: t.to_sparse_csr() if t.ndim == 2 else t.to_sparse(),
    lambda t: torch.sparse_coo_tensor(size=(10**9, 10**9), check_invariants=False),
    lambda t: t.to("meta"),
    lambda t: torch.empty(10**6, 10**6, device="meta"),
    lambda t: torch.nested.nested_tensor([t, t]),
    lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    lambda t: t.tolist(),
    lambda t: t.clone().untyped_storage(),
    lambda t: t.numpy(),
)  # fmt: skip
OTHERS = (
    *(value for value in VALUES if value != "\ud800"),  # which torch.save does not take
    *(b"x", bytearray(9), (1, 2), {1}, 1j, torch.float32, torch.Size([2]), torch.device("cpu"), {0: 1}, {None: 2}),
    *(torch.tensor(2), torch.tensor(True), torch.ones(3, 3), torch.zeros(1).expand(10_000_000, 1024)),
)


def mutate_held(data: bytes, rng: random.Random) -> bytes:
    """What the checkpoint holds, with a few values or tensors changed, saved as torch saves it."""
    held = torch.load(io.BytesIO(data), weights_only=True)
    weights = next(held[name] for name in ("model", "model_state_dict") if name in held)
    rest = [value for name, value in held.items() if isinstance(value, dict) and value is not weights]
    drawn, file = rng.random(), io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        if drawn < 0.4:
            mutate_weights(weights, rng)
        elif drawn < 0.9:
            mutate_values(rng.choice(rest), rng, OTHERS)
        else:
            mutate_values(held, rng, OTHERS)
        torch.save(held, file)
    return file.getvalue()


def mutate_weights(weights: dict[str, object], rng: random.Random) -> None:
    for _ in range(rng.randint(1, 2)):
        name = rng.choice([*weights])
        match rng.randrange(6):
            case 0:
                del weights[name]
            case 1:
                weights[other_name(weights, rng)] = weights.pop(name)
            case 2:
                weights[other_name(weights, rng)] = weights[name]
            case 3:
                weights[name] = copy.deepcopy(rng.choice(OTHERS))
            case _ if isinstance(weights[name], torch.Tensor):
                weights[name] = rng.choice(TENSORS)(weights[name])
