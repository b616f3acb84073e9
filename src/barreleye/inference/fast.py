"""The same decode, compiled: a token is one call, plain loops over packed weights.

The readable path spends most of a token's time in calling some two hundred small operations; here the weights' way
through the memory is what is left. In 8 bits each row of a matrix has a scale of its own, and what it multiplies stays
float32.

The loops, and the legend of their shapes, are in `compiled.py`.
"""

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba.core.errors import NumbaError

from barreleye.config import Sampling
from barreleye.inference import compiled
from barreleye.inference.generate import prefill
from barreleye.model.cache import KVCache
from barreleye.model.parts import LayerNorm, Learned, Positions, RMSNorm, Rotary, Sinusoidal
from barreleye.model.transformer import Transformer

Array = np.ndarray[Any, Any]

ACTIVATIONS = {
    "gelu": compiled.GELU,
    "gelu_erf": compiled.GELU_ERF,
    "relu": compiled.RELU,
    "relu2": compiled.RELU2,
    "swiglu": compiled.SWIGLU,
}
NORMS = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}
POSITIONS = {"learned": Learned, "sinusoidal": Sinusoidal, "rope": Rotary, "none": Positions}
THREADS = 2  # more wait for each other longer than they compute
PATIENCE = 3  # times what one thread takes for a token: two that take longer are in the way of another program
SLOW, ALONE = 3, 256  # tokens in a row that took longer, after which so many are read by one thread
TOLERANCE = {32: 1e-3, 8: 0.2}  # by bits: how far logits may be from the readable path's, as a share of the largest
TRIED = 12  # tokens, before a decoder is used
ONE_AT_A_TIME = threading.Lock()  # not every threading layer of Numba bears two callers


class Matrix(NamedTuple):
    """Of each layer: outputs x inputs, float32 or int8, what each row is multiplied with, and its bias."""

    weight_LMN: Array
    scale_LM: Array
    bias_LM: Array


class Packed(NamedTuple):
    """All that a token needs, in the order in which it is needed. What a model lacks has a size of zero."""

    embed_VC: Array
    positions_TC: Array
    cos_TD: Array
    sin_TD: Array
    norm1_L2C: Array  # gain and bias
    qkv: Matrix
    qk_norm_L2D: Array  # gain of queries, gain of keys
    out: Matrix
    norm2_L2C: Array
    gate: Matrix
    up: Matrix
    down: Matrix
    norm_final_12C: Array
    unembed: Matrix


class FastDecoder:
    """A model made ready to be decoded on a CPU. bits: 32, or 8, where a token reads a quarter of the memory.

    The model must stay as it is: prompts are read with it, tokens with its packed weights. The first decoder on a
    machine waits for the compiler. Raises ValueError, with the reason, for a model that cannot be decoded here.
    """

    def __init__(self, model: Transformer, bits: int = 32) -> None:
        if reason := why_not(model):
            raise ValueError(reason)
        self.model, self.config = model, model.config
        self.weights = pack(model, bits)
        layernorm, eps = self.config.norm == "layernorm", np.float32(self.config.norm_eps)
        self.kinds = self.config.n_heads, layernorm, eps, ACTIVATIONS[self.config.activation]
        self.seconds_alone = 0.0  # that one thread takes for a token
        self.slow, self.alone = 0, 0  # tokens in a row that took too long; tokens still to be read by one thread
        threads = torch.get_num_threads()
        self.threads = min(THREADS, threads, numba.config.NUMBA_NUM_THREADS)
        try:
            self._try_out(TOLERANCE[bits])
        except NumbaError as error:
            raise ValueError(f"numba cannot compile it: {str(error).splitlines()[0]}") from None
        finally:
            torch.set_num_threads(threads)  # which Numba sets, as both may share one OpenMP

    def stream(self) -> "FastStream":
        return FastStream(self)

    def _try_out(self, tolerance: float) -> None:
        """Read a few tokens both ways, on one thread."""
        stream = self.stream()
        tokens = np.random.default_rng(0).integers(self.config.vocab_size, size=min(TRIED, stream.room)).tolist()
        self.seconds_alone = min(stream.timed_read(token, threads=1) for token in tokens)
        stream.draw(Sampling(), [], 0.0)
        readable_V = prefill(self.model, torch.tensor([tokens]), KVCache(self.config))[0].numpy()
        if not np.isfinite(readable_V).all():
            raise ValueError("the model's logits are not numbers")
        if not np.allclose(stream.logits_V, readable_V, atol=tolerance * np.abs(readable_V).max()):
            raise ValueError("compiled, it gives other logits: a part of its own may go by a known name")


class FastStream:
    """One text read by a FastDecoder."""

    def __init__(self, decoder: FastDecoder) -> None:
        self.decoder, self.cache = decoder, KVCache(decoder.config)
        decoder.model.eval()
        self.keys_LTHD, self.values_LTHD = (
            x_LBTHD[:, 0].numpy() for x_LBTHD in (self.cache.keys_LBTHD, self.cache.values_LBTHD)
        )
        self.logits_V = np.zeros(decoder.config.vocab_size, np.float32)

    @property
    def room(self) -> int:
        return self.cache.room

    def start(self, tokens: Sequence[int]) -> None:
        """Many tokens at once are large products, which torch does best."""
        self.cache.length = 0
        self.logits_V[:] = prefill(self.decoder.model, torch.tensor([tokens]), self.cache)[0].numpy()

    def read(self, token: int) -> None:
        # Threads meet after each matrix and each attention. Where another program has a core, one waits for the other.
        decoder = self.decoder
        seconds = self.timed_read(token, 1 if decoder.alone else decoder.threads)
        decoder.alone = max(0, decoder.alone - 1)
        decoder.slow = decoder.slow + 1 if seconds > PATIENCE * decoder.seconds_alone else 0
        if decoder.slow == SLOW:
            decoder.slow, decoder.alone = 0, ALONE

    def timed_read(self, token: int, threads: int) -> float:
        """Gives the seconds that it took, once it was its turn."""
        if not self.room or not 0 <= token < len(self.logits_V):  # compiled code does not look where it writes
            raise ValueError(f"cannot read token {token} with room for {self.room}")
        decoder, at = self.decoder, self.cache.length
        with ONE_AT_A_TIME:
            before = numba.get_num_threads()
            numba.set_num_threads(threads)
            began = time.perf_counter()
            compiled.decode(token, at, decoder.weights, decoder.kinds, self.keys_LTHD, self.values_LTHD, self.logits_V)
            seconds = time.perf_counter() - began
            numba.set_num_threads(before)
        self.cache.length += 1
        return seconds

    def draw(self, sampling: Sampling, seen: Sequence[int], uniform: float) -> int:
        """As `generate.sample`."""
        kept = sampling.top_k, sampling.top_p, sampling.repetition_penalty, np.array(seen, np.int64)
        return int(compiled.draw(self.logits_V, sampling.temperature, *kept, uniform))


def why_not(model: Transformer) -> str:
    """Why a model cannot be decoded here; empty where it can."""
    config, parameter = model.config, next(model.parameters())
    if parameter.device.type != "cpu":
        return f"the model is on {parameter.device.type}, not on the CPU"
    if parameter.dtype != torch.float32:
        return f"the weights are {parameter.dtype}, not float32"
    if type(model) is not Transformer:
        return f"it is a {type(model).__name__} of its own"
    if config.activation not in ACTIVATIONS:
        return f"the part {config.activation!r} is not compiled"
    for part, module, known in ((config.norm, model.ln_final, NORMS), (config.positions, model.positions, POSITIONS)):
        if type(module) is not known.get(part):
            return f"the part {part!r} is not compiled"
    return ""


def pack(model: Transformer, bits: int) -> Packed:
    config = model.config
    named = {name: tensor.detach().numpy() for name, tensor in model.state_dict(keep_vars=True).items()}
    layers, nothing = range(config.n_layers), np.zeros((config.n_layers, 0), np.float32)

    def stacked(name: str) -> Array:
        """Of all layers; empty where they have none."""
        there = f"blocks.0.{name}" in named
        return np.stack([named[f"blocks.{layer}.{name}"] for layer in layers]) if there else nothing

    def matrix(name: str) -> Matrix:
        weight, bias = stacked(f"{name}.weight"), stacked(f"{name}.bias")
        return quantized(weight if weight.size else weight[..., None], bias if bias.size else None, bits)

    def norm(gain: Array, bias: Array) -> Array:
        return np.stack([gain, bias if bias.size else np.zeros_like(gain)], 1)

    final = [named[name][None] if name in named else nothing for name in ("ln_final.weight", "ln_final.bias")]
    position_TC = model.positions.embed(0, config.context_length)
    none = torch.zeros(0, config.d_model)
    cos_TD, sin_TD = (getattr(model.positions, name, none).numpy() for name in ("cos_TD", "sin_TD"))
    return Packed(
        named["embed.weight"],
        np.ascontiguousarray((none if position_TC is None else position_TC).detach().numpy()),
        cos_TD,
        sin_TD,
        norm(stacked("ln1.weight"), stacked("ln1.bias")),
        matrix("attn.qkv"),
        np.stack([stacked("attn.q_norm.weight"), stacked("attn.k_norm.weight")], 1),
        matrix("attn.out"),
        norm(stacked("ln2.weight"), stacked("ln2.bias")),
        matrix("mlp.gate"),
        matrix("mlp.up"),
        matrix("mlp.down"),
        norm(*final),
        quantized(named["unembed.weight"][None], None, bits),
    )


def quantized(weight_LMN: Array, bias_LM: Array | None, bits: int) -> Matrix:
    """As it is in 32 bits; in 8, each row as integers from -127 to 127 times its own scale."""
    bias_LM = np.zeros(weight_LMN.shape[:2], np.float32) if bias_LM is None else bias_LM
    if bits == 32:
        return Matrix(weight_LMN, np.ones_like(bias_LM), bias_LM)
    assert bits == 8
    scale_LM = np.abs(weight_LMN).max(-1, initial=np.finfo(np.float32).tiny) / np.float32(127)
    return Matrix(np.rint(weight_LMN / scale_LM[..., None]).astype(np.int8), scale_LM, bias_LM)
