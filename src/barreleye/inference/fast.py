"""The same decode, compiled: a token is one call, plain loops over packed weights.

The readable path spends most of a token's time in calling some two hundred small operations; here the weights' way
through the memory is what is left. In 8 bits each row of a matrix has a scale of its own, and what it multiplies stays
float32.

L layers, C channels, H heads (query heads before key heads before value heads where they share an axis), D channels per
head, F feed-forward, V vocabulary, T positions; M outputs and N inputs of a matrix, stored as in `nn.Linear`.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba import njit, prange
from numba.core.errors import NumbaError

from barreleye.config import Sampling
from barreleye.inference.generate import prefill
from barreleye.model.cache import KVCache
from barreleye.model.parts import NORM_EPS
from barreleye.model.transformer import Transformer

Array = np.ndarray[Any, Any]

# Numba keeps what it compiled as pickles: in the user's own cache, never beside the code or in a run.
if not numba.config.CACHE_DIR:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    numba.config.CACHE_DIR = str(home / "barreleye" / "numba")

NORMAL = {"reassoc", "contract", "arcp", "nsz"}  # sums in any order, so that they vectorize; infinities stay infinities
compiled: Callable[..., Any] = njit(cache=True, nogil=True, fastmath=NORMAL)
in_parallel: Callable[..., Any] = njit(cache=True, nogil=True, fastmath=NORMAL, parallel=True)

GELU, RELU, RELU2, SWIGLU = range(4)
ACTIVATIONS = {"gelu": GELU, "relu": RELU, "relu2": RELU2, "swiglu": SWIGLU}
NORMS, POSITIONS = {"layernorm", "rmsnorm"}, {"learned", "sinusoidal", "rope", "none"}
THREADS = 2  # more wait for each other longer than they compute
PATIENCE = 3  # times what one thread takes for a token: then two are in the way of another program
TOLERANCE = {32: 1e-3, 8: 0.2}  # by bits: how far logits may be from the readable path's, as a share of the largest
TINY = 1e-20
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
    """A model made ready to be decoded on a CPU. bits: 32, or 8 for a quarter of the memory.

    Weights are copied: a model that learns on is packed anew. The first one on a machine waits for the compiler. Raises
    ValueError, with the reason, for a model that cannot be decoded here.
    """

    def __init__(self, model: Transformer, bits: int = 32) -> None:
        if reason := why_not(model):
            raise ValueError(reason)
        self.model, self.config = model.eval(), model.config
        self.weights = pack(model, bits)
        self.kinds = model.config.n_heads, model.config.norm == "layernorm", ACTIVATIONS[model.config.activation]
        self.alone = 0.0  # seconds that one thread takes for a token
        threads = torch.get_num_threads()
        try:
            stream = FastStream(self)
            stream.threads = 1
            stream.draw(Sampling(), [], 0.0)
            tokens = [0] * min(4, stream.room)
            self.alone = min(_seconds(stream.read, token) for token in tokens)
        except NumbaError as error:
            raise ValueError(f"numba cannot compile it: {str(error).splitlines()[0]}") from None
        finally:
            torch.set_num_threads(threads)  # which Numba sets, as both may share one OpenMP
        readable_V = prefill(model, torch.tensor([tokens]), KVCache(model.config))[0].numpy()
        if not np.allclose(stream.logits_V, readable_V, atol=TOLERANCE[bits] * np.abs(readable_V).max(initial=TINY)):
            raise ValueError("compiled, it gives other logits: a part of its own may go by a known name")

    def stream(self) -> "FastStream":
        return FastStream(self)


class FastStream:
    """One text read by a FastDecoder."""

    def __init__(self, decoder: FastDecoder) -> None:
        self.decoder, self.cache = decoder, KVCache(decoder.config)
        self.keys_LTHD, self.values_LTHD = (
            x_LBTHD[:, 0].numpy() for x_LBTHD in (self.cache.keys_LBTHD, self.cache.values_LBTHD)
        )
        self.logits_V = np.zeros(decoder.config.vocab_size, np.float32)
        self.threads = min(THREADS, numba.config.NUMBA_NUM_THREADS)

    @property
    def room(self) -> int:
        return self.cache.room

    def start(self, tokens: Sequence[int]) -> None:
        """Many tokens at once are large products, which torch does best."""
        self.cache.length = 0
        self.logits_V[:] = prefill(self.decoder.model, torch.tensor([tokens]), self.cache)[0].numpy()

    def read(self, token: int) -> None:
        # Threads meet after each matrix. Where another program has a core, one waits there for the other's turn.
        if _seconds(self._read, token) > PATIENCE * self.decoder.alone:
            self.threads = 1

    def _read(self, token: int) -> None:
        assert self.room and 0 <= token < len(self.logits_V)  # compiled code does not look where it writes
        decoder, at = self.decoder, self.cache.length
        with ONE_AT_A_TIME:
            numba.set_num_threads(self.threads)
            _decode(token, at, decoder.weights, decoder.kinds, self.keys_LTHD, self.values_LTHD, self.logits_V)
        self.cache.length += 1

    def draw(self, sampling: Sampling, seen: Sequence[int], uniform: float) -> int:
        """As `generate.sample`."""
        kept = sampling.top_k, sampling.top_p, sampling.repetition_penalty, np.array(seen, np.int64)
        return int(_draw(self.logits_V, sampling.temperature, *kept, uniform))


def _seconds(do: Callable[..., None], *given: Any) -> float:
    began = time.perf_counter()
    do(*given)
    return time.perf_counter() - began


def why_not(model: Transformer) -> str:
    """Why a model cannot be decoded here; empty where it can."""
    config, parameter = model.config, next(model.parameters())
    if parameter.device.type != "cpu":
        return f"the model is on {parameter.device.type}, not on the CPU"
    if parameter.dtype != torch.float32:
        return f"the weights are {parameter.dtype}, not float32"
    for part, known in ((config.activation, ACTIVATIONS), (config.norm, NORMS), (config.positions, POSITIONS)):
        if part not in known:
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


# Compiled ----------------------------------------------------------------------------------------------------------


@compiled
def _decode(token, at, weights, kinds, keys_LTHD, values_LTHD, logits_V):  # type: ignore[no-untyped-def]
    """Read the token at position `at`: its keys and values into the cache, the logits of what follows into logits_V."""
    n_heads, layernorm, activation = kinds
    n_layers, _, kv_heads, d_head = keys_LTHD.shape
    d_model = weights.embed_VC.shape[1]
    x_C, normed_C, added_C = np.zeros(d_model, np.float32), np.empty(d_model, np.float32), np.empty(d_model, np.float32)
    z_C = np.empty(d_model, np.float32)
    heads_HD = np.empty((n_heads + 2 * kv_heads, d_head), np.float32)
    _add(weights.embed_VC[token], x_C)
    if len(weights.positions_TC):
        _add(weights.positions_TC[at], x_C)
    post_F = np.empty(weights.up.bias_LM.shape[1], np.float32)
    gate_F = np.empty(weights.gate.bias_LM.shape[1], np.float32)
    scores_T = np.empty(at + 1, np.float32)
    for layer in range(n_layers):
        _norm(x_C, weights.norm1_L2C[layer], layernorm, normed_C)
        _multiply(weights.qkv, layer, normed_C, heads_HD.reshape(-1))
        for head in range(n_heads + kv_heads):
            if weights.qk_norm_L2D.size:
                gain_1D = weights.qk_norm_L2D[layer, int(head >= n_heads)].reshape(1, -1)
                _norm(heads_HD[head], gain_1D, False, heads_HD[head])
            if len(weights.cos_TD):
                _rotate(heads_HD[head], weights.cos_TD[at], weights.sin_TD[at])
        _store(heads_HD, n_heads, keys_LTHD[layer, at])
        _store(heads_HD, n_heads + kv_heads, values_LTHD[layer, at])
        for head in range(n_heads):
            shared = head * kv_heads // n_heads
            z_D = z_C[head * d_head : (head + 1) * d_head]
            _attend(heads_HD[head], keys_LTHD[layer], values_LTHD[layer], shared, scores_T, z_D)
        _multiply(weights.out, layer, z_C, added_C)
        _add(added_C, x_C)
        if len(post_F):
            _norm(x_C, weights.norm2_L2C[layer], layernorm, normed_C)
            _multiply(weights.up, layer, normed_C, post_F)
            if activation == SWIGLU:
                _multiply(weights.gate, layer, normed_C, gate_F)
            _activate(post_F, gate_F, activation)
            _multiply(weights.down, layer, post_F, added_C)
            _add(added_C, x_C)
    _norm(x_C, weights.norm_final_12C[0], layernorm, normed_C)
    _multiply(weights.unembed, 0, normed_C, logits_V)


@in_parallel
def _multiply(matrix, layer, x_N, y_M):  # type: ignore[no-untyped-def]
    weight_MN, scale_M, bias_M = matrix.weight_LMN[layer], matrix.scale_LM[layer], matrix.bias_LM[layer]
    for m in prange(len(y_M)):
        total = np.float32(0)
        for n in range(len(x_N)):
            total += np.float32(weight_MN[m, n]) * x_N[n]
        y_M[m] = total * scale_M[m] + bias_M[m]


@compiled
def _add(x_C, y_C):  # type: ignore[no-untyped-def]
    for c in range(len(x_C)):
        y_C[c] += x_C[c]


@compiled
def _store(heads_HD, first, kept_HD):  # type: ignore[no-untyped-def]
    for head in range(kept_HD.shape[0]):
        for d in range(kept_HD.shape[1]):
            kept_HD[head, d] = heads_HD[first + head, d]


@compiled
def _norm(x_C, gain_bias_KC, centred, y_C):  # type: ignore[no-untyped-def]
    """LayerNorm if `centred`, else RMSNorm; a bias only where there is a second row."""
    mean, squares = np.float32(0), np.float32(0)
    if centred:
        for c in range(len(x_C)):
            mean += x_C[c]
        mean /= np.float32(len(x_C))
    for c in range(len(x_C)):
        squares += (x_C[c] - mean) * (x_C[c] - mean)
    scale = np.float32(1) / np.sqrt(squares / np.float32(len(x_C)) + np.float32(NORM_EPS))
    for c in range(len(x_C)):
        y_C[c] = (x_C[c] - mean) * scale * gain_bias_KC[0, c]
    if len(gain_bias_KC) > 1:
        for c in range(len(x_C)):
            y_C[c] += gain_bias_KC[1, c]


@compiled
def _rotate(x_D, cos_D, sin_D):  # type: ignore[no-untyped-def]
    half = len(x_D) // 2
    for d in range(half):
        left, right = x_D[d], x_D[d + half]
        x_D[d] = left * cos_D[d] - right * sin_D[d]
        x_D[d + half] = right * cos_D[d + half] + left * sin_D[d + half]


@compiled
def _attend(q_D, keys_THD, values_THD, head, scores_T, z_D):  # type: ignore[no-untyped-def]
    scale, top, total = np.float32(1 / np.sqrt(len(q_D))), np.float32(-np.inf), np.float32(0)
    for t in range(len(scores_T)):
        score = np.float32(0)
        for d in range(len(q_D)):
            score += q_D[d] * keys_THD[t, head, d]
        scores_T[t] = score * scale
        top = max(top, scores_T[t])
    for t in range(len(scores_T)):
        scores_T[t] = np.exp(scores_T[t] - top)
        total += scores_T[t]
    for d in range(len(z_D)):
        z_D[d] = 0
    for t in range(len(scores_T)):
        share = scores_T[t] / total
        for d in range(len(q_D)):
            z_D[d] += share * values_THD[t, head, d]


@compiled
def _activate(x_F, gate_F, activation):  # type: ignore[no-untyped-def]
    one, zero = np.float32(1), np.float32(0)
    for f in range(len(x_F)):
        x = x_F[f]
        if activation == GELU:  # 0.5 x (1 + tanh(y)) = x / (1 + exp(-2 y)), y = sqrt(2 / pi) (x + 0.044715 x^3)
            x_F[f] = x / (one + np.exp(np.float32(-1.5957691216) * (x + np.float32(0.044715) * x * x * x)))
        elif activation == SWIGLU:
            x_F[f] = x * gate_F[f] / (one + np.exp(-gate_F[f]))
        elif activation == RELU:
            x_F[f] = max(x, zero)
        else:
            x_F[f] = max(x, zero) ** 2


@compiled
def _draw(logits_V, temperature, top_k, top_p, penalty, seen_T, uniform):  # type: ignore[no-untyped-def]
    """`sample` of generate.py for one row."""
    weights_V = logits_V.copy()
    if penalty != 1:
        for token in seen_T:
            logit = logits_V[token]
            weights_V[token] = logit / penalty if logit > 0 else logit * penalty
    if temperature == 0:
        return np.argmax(weights_V)
    top = weights_V.max()
    for v in range(len(weights_V)):
        weights_V[v] = np.exp((weights_V[v] - top) / max(temperature, 1e-6))
    if 0 < top_k < len(weights_V) or top_p < 1:
        _keep_likeliest(weights_V, top_k, top_p)
    limit, total, last = uniform * weights_V.sum(), 0.0, 0
    for v in range(len(weights_V)):
        if weights_V[v] > 0:
            total, last = total + weights_V[v], v
            if total > limit:
                break
    return last


@compiled
def _keep_likeliest(weights_V, top_k, top_p):  # type: ignore[no-untyped-def]
    """Zero for what top-k, then top-p, leaves out."""
    # Weights below (1 - p) / V of their sum have less than 1 - p together: top-p alone need not sort those many.
    some = 0 < top_k < len(weights_V)
    likely = np.flatnonzero(weights_V >= (0 if some else (1 - top_p) * weights_V.sum() / len(weights_V)))
    likely = likely[np.argsort(-weights_V[likely])]
    sorted_K = weights_V[likely]
    total = weights_V.sum()
    if some:
        sorted_K = sorted_K[: np.sum(sorted_K >= sorted_K[top_k - 1])]
        total = sorted_K.sum()
    weights_V[:] = 0
    before = 0.0
    for k in range(len(sorted_K)):
        if k and before >= top_p * total:
            break
        weights_V[likely[k]] = sorted_K[k]
        before += sorted_K[k]
