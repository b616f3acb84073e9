"""The weights of a model folder, read with NumPy alone and looked at before any memory is taken for them.

A safetensors file is eight bytes (the length of a header), the header (JSON: name -> dtype, shape, where its bytes are)
and the bytes. Whatever is wrong with a file, the answer is one ValueError.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from barreleye.inference.plain import ACTIVATIONS, Array, Weights

LARGEST_HEADER = 16 * 2**20  # bytes: a hundred thousand tensors
DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
# Hugging Face's names, in the order in which they are replaced by ours.
RENAMED = {
    "transformer.wte.": "embed.",
    "transformer.wpe.": "positions.",
    "transformer.ln_f.": "ln_final.",
    "transformer.h.": "blocks.",
    "model.embed_tokens.": "embed.",
    "model.norm.": "ln_final.",
    "model.layers.": "blocks.",
    "lm_head.": "unembed.",
    ".ln_1.": ".ln1.",
    ".ln_2.": ".ln2.",
    ".c_attn.": ".qkv.",
    ".attn.c_proj.": ".attn.out.",
    ".c_fc.": ".up.",
    ".mlp.c_proj.": ".mlp.down.",
    ".input_layernorm.": ".ln1.",
    ".post_attention_layernorm.": ".ln2.",
    ".self_attn.o_proj.": ".attn.out.",
    ".self_attn.": ".attn.",
    "_proj.": ".",
}


def load_weights(file: Path, config: Any) -> Weights:
    """The weights of `model.safetensors` under their names in transformer.py, in float32.

    Raises ValueError for a file that is damaged, or holds another model than the configuration says."""
    shapes = shapes_of(config)
    weights: Weights = {}
    for name, array in read_safetensors(file).items():
        ours = name
        for theirs, replaced in RENAMED.items():
            ours = ours.replace(theirs, replaced)
        # GPT-2's Conv1D keeps (in, out) where a linear layer keeps (out, in).
        weights[ours] = array.T if name.startswith("transformer.h.") and array.ndim == 2 else array
    for layer in range(config.n_layers):
        for leaf in ("weight", "bias"):
            parts = [f"blocks.{layer}.attn.{piece}.{leaf}" for piece in "qkv"]
            if all(part in weights for part in parts):
                pieces = [weights.pop(part) for part in parts]
                if len({piece.shape[1:] for piece in pieces}) > 1 or not all(piece.ndim for piece in pieces):
                    raise ValueError(f"{file}: the queries, keys and values of layer {layer} do not go together")
                weights[f"blocks.{layer}.attn.qkv.{leaf}"] = np.concatenate(pieces)
    for name, shape in shapes.items():
        if name not in weights:
            raise ValueError(f"{file}: the weights lack {name!r}, which this configuration needs")
        if weights[name].shape != shape:
            raise ValueError(f"{file}: {name!r} has shape {weights[name].shape}, not {shape}")
    return {name: np.ascontiguousarray(weights[name], np.float32) for name in shapes}


def shapes_of(config: Any) -> dict[str, tuple[int, ...]]:
    """Every weight that a configuration has, and its shape. Raises ValueError for a part that plain.py lacks."""
    for part, known in (
        (config.activation, (*ACTIVATIONS, "swiglu")),
        (config.norm, ("layernorm", "rmsnorm")),
        (config.positions, ("learned", "sinusoidal", "rope", "none")),
    ):
        if part not in known:
            raise ValueError(f"the part {part!r} is not in plain.py")
    c, f, d = config.d_model, config.d_ff, config.head_dim or config.d_model // config.n_heads
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (config.vocab_size, c)}
    if config.positions == "learned":
        shapes["positions.weight"] = (config.context_length, c)

    def add(name: str, *shape: int, bias: bool) -> None:
        shapes[name + ".weight"] = shape
        if bias:
            shapes[name + ".bias"] = shape[:1]

    layernorm = config.norm == "layernorm"
    for at in (f"blocks.{layer}." for layer in range(config.n_layers)):
        add(at + "ln1", c, bias=layernorm)
        add(at + "attn.qkv", (config.n_heads + 2 * (config.n_kv_heads or config.n_heads)) * d, c, bias=config.bias)
        add(at + "attn.out", c, config.n_heads * d, bias=config.bias)
        if config.qk_norm:
            add(at + "attn.q_norm", d, bias=False)
            add(at + "attn.k_norm", d, bias=False)
        if f:
            add(at + "ln2", c, bias=layernorm)
            for matrix in ("up", "gate") if config.activation == "swiglu" else ("up",):
                add(at + "mlp." + matrix, f, c, bias=config.bias)
            add(at + "mlp.down", c, f, bias=config.bias)
    add("ln_final", c, bias=layernorm)
    if not config.tie_embeddings:
        add("unembed", config.vocab_size, c, bias=False)
    return shapes


def read_safetensors(file: Path) -> dict[str, Array]:
    """Every tensor of a safetensors file, in float32. Raises ValueError for one that is missing, cut short, or lies
    about what it holds."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"{file}: is not a whole safetensors file (a header of {length:,} bytes in {size:,})")
        try:
            header = json.loads(opened.read(length), object_pairs_hook=_no_name_twice)
            places = _places(header, size - 8 - length)
        except (ValueError, RecursionError) as error:  # also what is not UTF-8 or not JSON
            raise ValueError(f"{file}: is not a whole safetensors file ({error})") from None
        arrays = {}
        for name, (dtype, shape, begin, end) in places.items():
            opened.seek(8 + length + begin)
            arrays[name] = _to_float32(opened.read(end - begin), dtype).reshape(shape)
        return arrays


def _places(header: Any, room: int) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """dtype, shape and place of each tensor, once all of them together fill the file's bytes, each byte once."""
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    places = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
                pass
            case _:
                raise ValueError(f"{name!r} lacks a dtype, a shape or offsets")
        if dtype not in DTYPES:
            raise ValueError(f"{name!r} is of type {dtype!r}; there are: {', '.join(DTYPES)}")
        if len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
            raise ValueError(f"{name!r} has no shape that could be")
        if not 0 <= begin <= end <= room or end - begin != math.prod(shape) * DTYPES[dtype]:
            raise ValueError(f"{name!r} does not lie in the file as its shape says")
        places[name] = (dtype, tuple(shape), begin, end)
    at = 0
    for name, (_, _, begin, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != at:
            raise ValueError(f"{name!r} does not begin where the tensor before it ends")
        at = end
    if at != room:
        raise ValueError("some of its bytes belong to no tensor")
    return places


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name stands there twice")
    return table


def _to_float32(data: bytes, dtype: str) -> Array:
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, "<f4" if dtype == "F32" else "<f2").astype(np.float32)
