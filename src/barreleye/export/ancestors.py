"""Checkpoints of nanoGPT and GuppyLM -> our configuration and weights.

Both are pickles of torch. They are read with `weights_only=True`, which makes tensors and plain values, and runs
nothing.
"""

import os
import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from barreleye.config import ModelConfig
from barreleye.export.from_huggingface import shortened
from barreleye.model.huggingface import gpt2_name, layer_and_part, our_shapes

LARGEST_PICKLE = 2 * 2**20  # of names and shapes, some kilobytes for a layer; tensors lie beside it
# What a checkpoint is made of. torch allows more, of which a few bytes can claim any amount of memory.
MADE_OF = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch (\w+Storage|Size|device|b?float\d*)"
)
ENDING = 56 + 20 + 22  # bytes: the end record of a large archive, its locator, the end record of any
MASKS = re.compile(r".*\.attn\.(bias|masked_bias|mask)")  # computed, not learned
COMPILED = "_orig_mod."  # what torch.compile puts before names
GUPPY_PARTS = {
    "embed": "tok_emb",
    "positions": "pos_emb",
    "ln_final": "norm",
    "unembed": "lm_head",
    "ln1": "norm1",
    "attn.qkv": "attn.qkv",
    "attn.out": "attn.out",
    "ln2": "norm2",
    "mlp.up": "ffn.up",
    "mlp.down": "ffn.down",
}


def read_checkpoint(file: Path) -> dict[str, Any]:
    """What a .pt file holds. Raises ValueError for one that is damaged, or holds more than tensors and plain values."""
    if not is_one_archive(file):
        raise ValueError(f"{file}: is not a whole checkpoint of torch's (1.6 or newer)")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            pickles = [entry for entry in entries if entry.filename.lower().endswith(".pkl")]
            if min((entry.header_offset for entry in entries), default=1) > 0:  # torch would read what stands before
                raise ValueError("it is an archive after something else")
            if any(entry.filename.rpartition("/")[2] != "data.pkl" for entry in pickles):
                raise ValueError("it is a program of TorchScript's")
            if unpacked > file.stat().st_size or any(entry.file_size > LARGEST_PICKLE for entry in pickles):
                raise ValueError(f"{file}: unpacks to {unpacked:,} bytes, which is no checkpoint")
            for entry in pickles:
                check_parts(archive.read(entry))
        held = torch.load(file, map_location="cpu", weights_only=True)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(file)) else f"{file}: is damaged ({error})") from None
    except Exception as error:  # a pickle that is damaged, or not allowed, ends in whatever its bytes come to
        reason = str(error).strip().splitlines()[:1]
        raise ValueError(
            f"{file}: cannot be read as tensors and plain values alone, and nothing else in it is run "
            f"({type(error).__name__}{': ' if reason else ''}{''.join(reason)[:200]})"
        ) from None
    if not isinstance(held, dict):
        raise ValueError(f"{file}: holds no dictionary of weights")
    return held


def is_one_archive(file: Path) -> bool:
    """Whether zipfile, which looks, and torch, which reads, can only find the same directory in it: torch goes by how a
    file begins, and by where a large archive's locator points; zipfile by what stands at the end."""
    if not zipfile.is_zipfile(file) or (size := file.stat().st_size) < ENDING:
        return False
    with file.open("rb") as archive:
        begins = archive.read(4)
        archive.seek(-ENDING, os.SEEK_END)
        ending = archive.read()
    locator, end = ending[-42:-22], ending[-22:]
    points = int.from_bytes(locator[8:16], "little") if locator.startswith(b"PK\6\7") else size - ENDING
    return begins == b"PK\3\4" and end.startswith(b"PK\5\6") and points == size - ENDING


def check_parts(pickled: bytes) -> None:
    """Raises TypeError for a pickle that names more than tensors and plain values are made of."""
    for opcode, argument, _ in pickletools.genops(pickled):
        named = opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL")
        if named and not MADE_OF.fullmatch(str(argument)):
            raise TypeError(f"it names {argument or 'what it makes up'}, of which no tensor is made")


def is_nanogpt(held: dict[str, Any]) -> bool:
    return isinstance(held.get("model_args"), dict) and isinstance(held.get("model"), dict)


def nanogpt(held: dict[str, Any]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """GPT-2's shape, with the exact GELU and linear layers where GPT-2 has their transposes. A model without biases
    gets zeros, which are the same and what GPT-2 can express. Raises ValueError for what does not fit."""
    args = held["model_args"]
    config = ModelConfig(
        n_layers=_whole(args, "n_layer"),
        n_heads=_whole(args, "n_head"),
        d_model=_whole(args, "n_embd"),
        d_ff=4 * _whole(args, "n_embd"),
        context_length=_whole(args, "block_size"),
        vocab_size=_whole(args, "vocab_size"),
        activation="gelu_erf",
    )
    if unknown := sorted(shortened(name) for name, value in args.items() if name not in NANOGPT and not is_off(value)):
        raise ValueError(f"model_args has {unknown[0]}, which nanoGPT does not; a fork of it is not supported")
    return config, _renamed(held["model"], config, gpt2_name, biased=args.get("bias", True) is not False)


def is_off(value: Any) -> bool:
    return value is None or (isinstance(value, bool | int | float) and not value)


NANOGPT = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")


def guppy(held: dict[str, Any], beside: dict[str, Any] | None) -> tuple[ModelConfig, dict[str, Tensor]]:
    """GPT-2's shape with ReLU. `beside`: the config.json of its folder, where it has one; its keys are either
    Hugging Face's or GuppyLM's own. Raises ValueError for what does not fit."""
    weights = held.get("model_state_dict", held)
    own = beside if beside is not None else held.get("config")
    if isinstance(own, dict) and isinstance(own.get("model"), dict):
        own = own["model"]
    if not isinstance(weights, dict) or not isinstance(own, dict):
        raise ValueError("has no weights and configuration as GuppyLM writes them")

    def take(*names: str) -> int:
        return _whole(own, next((name for name in names if name in own), names[0]))

    config = ModelConfig(
        n_layers=take("num_hidden_layers", "n_layers"),
        n_heads=take("num_attention_heads", "n_heads"),
        d_model=take("hidden_size", "d_model"),
        d_ff=take("intermediate_size", "ffn_hidden"),
        context_length=take("max_position_embeddings", "max_seq_len"),
        vocab_size=take("vocab_size"),
        activation="relu",
    )

    def name_of(layer: str, part: str) -> str:
        stem, _, kind = part.rpartition(".")
        return f"{f'blocks.{layer}.' if layer else ''}{GUPPY_PARTS[stem]}.{kind}"

    return config, _renamed(weights, config, name_of)


def _renamed(
    weights: dict[str, Any], config: ModelConfig, name_of: Callable[[str, str], str], biased: bool = True
) -> dict[str, Tensor]:
    """Each of our tensors from the one of theirs that `name_of(layer, part)` says, in float32."""
    theirs = {str(name).removeprefix(COMPILED): tensor for name, tensor in weights.items()}
    theirs.setdefault(name_of("", "unembed.weight"), theirs.get(name_of("", "embed.weight")))
    theirs = {name: tensor for name, tensor in theirs.items() if not MASKS.fullmatch(name)}
    found: dict[str, Tensor] = {}
    absent: dict[str, Tensor] = {}
    for name, shape in our_shapes(config).items():
        source = name_of(*layer_and_part(name))
        if not biased and name.endswith(".bias") and source not in theirs:
            absent[name] = torch.zeros(shape)
            continue
        tensor = theirs.pop(source, None)
        if not isinstance(tensor, Tensor):
            raise ValueError(f"the weights lack {source!r}")
        if tuple(tensor.shape) != shape or not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise ValueError(f"{source!r} is of shape {tuple(tensor.shape)} and {tensor.dtype}, not {shape} in floats")
        found[name] = tensor.detach()
    if theirs:
        raise ValueError(f"has a tensor {min(theirs)!r}, which its configuration has no place for")
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found.values()}
    if sum(tensor.nbytes for name, tensor in found.items() if name != "unembed.weight") > sum(storages.values()):
        raise ValueError("its tensors claim more numbers than it holds")
    ours = absent | {name: tensor.float().contiguous() for name, tensor in found.items()}
    if not torch.equal(ours["embed.weight"], ours["unembed.weight"]):
        raise ValueError("its embedding and its output head are not one matrix, as they are there")
    return ours


def _whole(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"its configuration says {name} = {shortened(value)}; it must be a whole number")
    return value
