"""A model folder of Hugging Face's -> our configuration and weights. Nothing in it is run; weights are safetensors.

Sizes are checked against the headers of the files, which hold a few kilobytes, before a tensor is read.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from barreleye.config import ModelConfig
from barreleye.files import iterate_tensors, tensor_shapes
from barreleye.model.huggingface import GPT2_ACTIVATIONS, check_shapes, expected_shapes, from_huggingface

SUPPORTED = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
LARGEST_JSON = 16 * 2**20
LARGEST_NUMBER = 1e30
ACTIVATIONS = {theirs: ours for ours, theirs in GPT2_ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu"}
FLOATS = {"F32", "F16", "BF16"}
HEAD, EMBEDDINGS = "lm_head.weight", ("transformer.wte.weight", "model.embed_tokens.weight")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# In older files: masks and tables that are computed, not learned.
COMPUTED = re.compile(r"(.*\.attn\.(bias|masked_bias)|.*rotary_emb\.inv_freq)")
KNOWN_LAYERS = {"full_attention", "sliding_attention"}
Json = dict[str, Any]


def read_json(file: Path) -> Json:
    """An object from a JSON file. Raises ValueError for anything else."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file; a model folder has one")
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"{file}: is larger than {LARGEST_JSON // 2**20} MiB, which is no configuration")
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise ValueError(f"{file}: is nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: is not a JSON object")
    return value


# The configuration -------------------------------------------------------------------------------------------------


def model_config(theirs: Json, context_length: int | None = None) -> tuple[ModelConfig, str]:
    """Ours, and what of its biases (a regular expression of names) theirs does not have and ours has as zeros.

    `context_length`: how many positions are wanted, where not all. Raises ValueError, by name, for what our model does
    not compute.
    """
    kind = theirs.get("model_type")
    if kind not in SUPPORTED:
        raise ValueError(f"model_type {kind!r} is not supported; there are {', '.join(SUPPORTED)}")
    if theirs.get("quantization_config"):
        raise ValueError("quantization_config: its weights are quantized, which is not supported")
    knobs, absent = _gpt2(theirs) if kind == "gpt2" else _llama(theirs, kind)
    known = knobs["context_length"]
    if context_length is not None and not 1 <= context_length <= known:
        raise ValueError(f"--context-length {context_length}: the model knows {known} positions")
    _check_window(theirs, context_length or known)
    if kind != "gpt2":  # which has a weight for each position
        knobs["context_length"] = context_length or known
    return ModelConfig(**knobs), absent


def _gpt2(theirs: Json) -> tuple[Json, str]:
    unusual = {
        "scale_attn_weights": (True, True),  # the default, and what we compute
        "scale_attn_by_inverse_layer_idx": (False, False),
        "add_cross_attention": (False, False),
    }
    for name, (default, ours) in unusual.items():
        if theirs.get(name, default) != ours:
            raise ValueError(f"{name} = {theirs[name]!r} is not supported")
    width = _take(theirs, "n_embd", 768)
    return dict(
        n_layers=_take(theirs, "n_layer", 12),
        n_heads=_take(theirs, "n_head", 12),
        d_model=width,
        d_ff=theirs.get("n_inner") or 4 * width,
        context_length=_take(theirs, "n_positions", 1024),
        vocab_size=_take(theirs, "vocab_size", 50257),
        activation=_named(theirs, "activation_function", "gelu_new", ACTIVATIONS),
        norm_eps=_number(theirs, "layer_norm_epsilon", 1e-5),
        tie_embeddings=_flag(theirs, "tie_word_embeddings", True),
        dropout=_number(theirs, "resid_pdrop", 0.1),
    ), ""


def _llama(theirs: Json, kind: str) -> tuple[Json, str]:
    if _number(theirs, "partial_rotary_factor", 1.0) != 1:
        raise ValueError(f"partial_rotary_factor = {theirs['partial_rotary_factor']!r} is not supported")
    _named(theirs, "hidden_act", "silu", {"silu": "swiglu"})
    n_heads = _take(theirs, "num_attention_heads", 32)
    biased = [_flag(theirs, "attention_bias", False), _flag(theirs, "mlp_bias", False)]
    absent = r".*\.mlp\.\w+\.bias" if not biased[1] else r".*\.self_attn\.\w+\.bias" if not biased[0] else ""
    if kind == "qwen2":  # queries, keys and values are biased, and nothing else
        biased, absent = [True], r".*\.(o_proj|mlp\.\w+)\.bias"
    if kind == "qwen3" and biased[0]:
        raise ValueError("attention_bias = True beside normalized queries and keys is not supported")
    return dict(
        n_layers=_take(theirs, "num_hidden_layers", 32),
        n_heads=n_heads,
        n_kv_heads=_take(theirs, "num_key_value_heads", n_heads),
        d_model=_take(theirs, "hidden_size", 4096),
        head_dim=_take(theirs, "head_dim", 128 if kind == "qwen3" else 0),
        d_ff=_take(theirs, "intermediate_size", {"llama": 11008, "mistral": 14336}.get(kind, 22016)),
        context_length=_take(theirs, "max_position_embeddings", {"llama": 2048, "mistral": 131072}.get(kind, 32768)),
        vocab_size=_take(theirs, "vocab_size", 32000 if kind in ("llama", "mistral") else 151936),
        positions="rope",
        rope_theta=_theta(theirs),
        norm="rmsnorm",
        norm_eps=_number(theirs, "rms_norm_eps", 1e-6),
        activation="swiglu",
        tie_embeddings=_flag(theirs, "tie_word_embeddings", False),
        bias=any(biased),
        qk_norm=kind == "qwen3",
        dropout=_number(theirs, "attention_dropout", 0.0),
    ), absent if any(biased) else ""


def _theta(theirs: Json) -> float:
    """Transformers 4 writes rope_theta and, where positions are stretched, rope_scaling; 5 both in rope_parameters."""
    theta = _number(theirs, "rope_theta", 1e4)
    for name in ("rope_scaling", "rope_parameters"):
        rope = theirs.get(name) or {}
        if not isinstance(rope, dict):
            raise ValueError(f"{name} must be an object, not {rope!r}")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise ValueError(f"{name}: positions of type {kind!r} are not supported, only default ones")
        if rope.get("partial_rotary_factor", 1) != 1:
            raise ValueError(f"{name}: partial_rotary_factor = {rope['partial_rotary_factor']!r} is not supported")
        theta = _number(rope, "rope_theta", theta)
    return theta


def _check_window(theirs: Json, context_length: int) -> None:
    """A sliding window as long as the context hides nothing; raises ValueError for a shorter one."""
    kind = theirs["model_type"]
    if kind == "gpt2":
        return
    slides = _flag(theirs, "use_sliding_window", False) if kind.startswith("qwen") else True
    window = _take(theirs, "sliding_window", 0 if kind == "llama" or "sliding_window" in theirs else 4096)
    if slides and 0 < window < context_length:
        raise ValueError(
            f"sliding_window = {window} is shorter than the context of {context_length}, which is not supported; "
            f"--context-length {window} takes what is seen without it"
        )
    layers = theirs.get("layer_types") or []
    unknown = {str(layers)} if not isinstance(layers, list) else set(map(str, layers)) - KNOWN_LAYERS
    if unknown:
        raise ValueError(f"layer_types: {shortened(min(unknown))} is not supported")


def _take(theirs: Json, name: str, default: int) -> int:
    """A whole number; null stands for the default, as there."""
    value = theirs.get(name)
    if value is None:
        return default
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be a whole number, not {shortened(value)}")
    return value


def shortened(value: Any) -> str:
    """A value from a stranger's file, for a message of one line."""
    if type(value) is int and value.bit_length() > 300:
        return "one of hundreds of digits"
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _number(theirs: Json, name: str, default: float) -> float:
    value = theirs.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or abs(value) > LARGEST_NUMBER:
        raise ValueError(f"{name} must be a number, not {shortened(value)}")
    return float(value)


def _flag(theirs: Json, name: str, default: bool) -> bool:
    value = theirs.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise ValueError(f"{name} must be true or false, not {value!r}")
    return value


def _named(theirs: Json, name: str, default: str, known: dict[str, str]) -> str:
    value = theirs.get(name, default)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} = {value!r} is not supported; there are {', '.join(known)}")
    return known[value]


# The weights -------------------------------------------------------------------------------------------------------


class Weights:
    """The tensors of a folder, in one file or in several with an index: known by their headers until they are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.file_of: dict[str, Path] = {}
        self.name_in_file: dict[str, str] = {}
        for file in shards(folder):
            for name, (dtype, shape) in tensor_shapes(file).items():
                ours = _with_prefix(name)
                if COMPUTED.fullmatch(ours):
                    continue
                if ours in self.shapes:
                    raise ValueError(f"{file}: {name!r} is in {self.file_of[ours]} too")
                if dtype not in FLOATS:
                    raise ValueError(f"{file}: {name!r} is {dtype}; only {', '.join(sorted(FLOATS))} are supported")
                self.shapes[ours], self.file_of[ours], self.name_in_file[ours] = shape, file, name

    def check(self, config: ModelConfig, absent: str) -> None:
        """Raises ValueError where the files do not hold what the configuration says, or hold more."""
        expected = expected_shapes(config)
        unused = HEAD if config.tie_embeddings else ""
        for name in self.shapes.keys() - expected.keys():
            if name != unused:
                raise ValueError(f"{self.folder}: has a tensor {name!r}, which this configuration has no place for")
        zeros = {name: shape for name, shape in expected.items() if self._is_absent(name, absent)}
        try:
            check_shapes(self.shapes | zeros, config)
        except ValueError as error:
            raise ValueError(f"{self.folder}: {error}") from None

    def read(self, config: ModelConfig, absent: str, kept: ModelConfig) -> dict[str, Tensor]:
        """Our weights in float32. `config` is what the files hold; `kept` may have fewer tokens and positions."""
        expected, wanted = expected_shapes(config), expected_shapes(kept)
        theirs = {name: torch.zeros(shape) for name, shape in expected.items() if self._is_absent(name, absent)}
        for file in dict.fromkeys(self.file_of[name] for name in expected if name in self.file_of):
            names = {self.name_in_file[name]: name for name in expected if self.file_of.get(name) == file}
            for name, tensor in iterate_tensors(file, list(names)):
                ours = names[name]
                theirs[ours] = tensor[: wanted[ours][0]].float().contiguous()
        if config.tie_embeddings and HEAD in self.shapes:
            self._check_tied(next(name for name in EMBEDDINGS if name in self.shapes))
        return from_huggingface(theirs, kept)

    def _check_tied(self, embedding: str) -> None:
        """Programs differ in which of two different ones they take: some tie, some do not."""
        one, other = (self._get(name) for name in (embedding, HEAD))
        if not torch.equal(one, other):
            raise ValueError(
                f"{self.folder}: its {HEAD} is not its embedding, though tie_word_embeddings in config.json says so; "
                "false there takes both"
            )

    def _get(self, name: str) -> Tensor:
        return next(tensor for _, tensor in iterate_tensors(self.file_of[name], [self.name_in_file[name]]))

    def _is_absent(self, name: str, absent: str) -> bool:
        return bool(absent) and name not in self.shapes and re.fullmatch(absent, name) is not None


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a model folder. Raises ValueError where there are none, or an index points elsewhere."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        there = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        pickle = f" (it has {there[0]}, a pickle, which could run code)" if there else ""
        raise ValueError(f"{folder}: holds no model.safetensors{pickle}; save_pretrained of transformers writes one")
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index}: has no weight_map")
    files = []
    for name in dict.fromkeys(map(str, names.values())):
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(f"{index}: names {name!r}, which is not a safetensors file of this folder")
        files.append(folder / name)
    return files


def _with_prefix(name: str) -> str:
    """The first GPT-2 files have the names of the model without its head: `h.0.ln_1.weight`."""
    return f"transformer.{name}" if re.match(r"(h\.\d+|wte|wpe|ln_f)\.", name) else name
