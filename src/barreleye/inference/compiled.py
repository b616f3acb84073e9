"""What `fast.py` calls: plain loops, compiled by Numba, which keeps them in the user's cache folder.

L layers, C channels, H heads (query heads before key heads before value heads where they share an axis), D channels per
head, F feed-forward, V vocabulary, T positions; M outputs and N inputs of a matrix, stored as in `nn.Linear`. Arrays
are filled by loops, as array expressions take Numba ten times as long to compile.
"""

import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit, prange

from barreleye.data.text import cache_folder

NORMAL = {"reassoc", "contract", "arcp", "nsz"}  # sums in any order, so that they vectorize; infinities stay infinities


def own_folder() -> str:
    """Numba keeps what it compiles as pickles: in the user's own cache, never in a run. Where nothing can be written
    there, "", and it is compiled anew each time: Numba's next choice is beside the code."""
    try:
        folder = numba.config.CACHE_DIR or cache_folder() / "numba"
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # the latter without a home
        return ""
    return str(folder)


FOLDER = own_folder()


def compiled(function: Callable[..., Any], parallel: bool = False) -> Callable[..., Any]:
    """Numba looks for the folder when it decorates, so a caller's own functions may have another."""
    theirs, numba.config.CACHE_DIR = numba.config.CACHE_DIR, FOLDER
    try:
        decorate: Callable[..., Any] = njit(cache=bool(FOLDER), nogil=True, fastmath=NORMAL, parallel=parallel)
        return decorate(function)
    finally:
        numba.config.CACHE_DIR = theirs


in_parallel = partial(compiled, parallel=True)

GELU, GELU_ERF, RELU, RELU2, SWIGLU = range(5)


@compiled
def decode(token, at, weights, kinds, keys_LTHD, values_LTHD, logits_V):  # type: ignore[no-untyped-def]
    """Read the token at position `at`: its keys and values into the cache, the logits of what follows into logits_V."""
    n_heads, layernorm, eps, activation = kinds
    n_layers, _, kv_heads, d_head = keys_LTHD.shape
    d_model = weights.embed_VC.shape[1]
    x_C, normed_C, added_C = np.zeros(d_model, np.float32), np.empty(d_model, np.float32), np.empty(d_model, np.float32)
    z_N = np.empty(n_heads * d_head, np.float32)
    heads_HD = np.empty((n_heads + 2 * kv_heads, d_head), np.float32)
    _add(weights.embed_VC[token], x_C)
    if len(weights.positions_TC):
        _add(weights.positions_TC[at], x_C)
    post_F = np.empty(weights.up.bias_LM.shape[1], np.float32)
    gate_F = np.empty(weights.gate.bias_LM.shape[1], np.float32)
    for layer in range(n_layers):
        _norm(x_C, weights.norm1_L2C[layer], layernorm, eps, normed_C)
        _multiply(weights.qkv, layer, normed_C, heads_HD.reshape(-1))
        for head in range(n_heads + kv_heads):
            if weights.qk_norm_L2D.size:
                gain_1D = weights.qk_norm_L2D[layer, int(head >= n_heads)].reshape(1, -1)
                _norm(heads_HD[head], gain_1D, False, eps, heads_HD[head])
            if len(weights.cos_TD):
                _rotate(heads_HD[head], weights.cos_TD[at], weights.sin_TD[at])
        _store(heads_HD, n_heads, keys_LTHD[layer, at])
        _store(heads_HD, n_heads + kv_heads, values_LTHD[layer, at])
        _attend(heads_HD[:n_heads], keys_LTHD[layer], values_LTHD[layer], at + 1, z_N.reshape(n_heads, d_head))
        _multiply(weights.out, layer, z_N, added_C)
        _add(added_C, x_C)
        if len(post_F):
            _norm(x_C, weights.norm2_L2C[layer], layernorm, eps, normed_C)
            _multiply(weights.up, layer, normed_C, post_F)
            if activation == SWIGLU:
                _multiply(weights.gate, layer, normed_C, gate_F)
            _activate(post_F, gate_F, activation)
            _multiply(weights.down, layer, post_F, added_C)
            _add(added_C, x_C)
    _norm(x_C, weights.norm_final_12C[0], layernorm, eps, normed_C)
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
def _norm(x_C, gain_bias_KC, centred, eps, y_C):  # type: ignore[no-untyped-def]
    """LayerNorm if `centred`, else RMSNorm; a bias only where there is a second row."""
    mean, squares = np.float32(0), np.float32(0)
    if centred:
        for c in range(len(x_C)):
            mean += x_C[c]
        mean /= np.float32(len(x_C))
    for c in range(len(x_C)):
        squares += (x_C[c] - mean) * (x_C[c] - mean)
    scale = np.float32(1) / np.sqrt(squares / np.float32(len(x_C)) + eps)
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


@in_parallel
def _attend(q_HD, keys_THD, values_THD, length, z_HD):  # type: ignore[no-untyped-def]
    n_heads, d_head = q_HD.shape
    kv_heads, scale = keys_THD.shape[1], np.float32(1 / np.sqrt(d_head))
    for head in prange(n_heads):
        shared, top, total = head * kv_heads // n_heads, np.float32(-np.inf), np.float32(0)
        scores_T = np.empty(length, np.float32)
        for t in range(length):
            score = np.float32(0)
            for d in range(d_head):
                score += q_HD[head, d] * keys_THD[t, shared, d]
            scores_T[t] = score * scale
            top = max(top, scores_T[t])
        for t in range(length):
            scores_T[t] = np.exp(scores_T[t] - top)
            total += scores_T[t]
        for d in range(d_head):
            z_HD[head, d] = 0
        for t in range(length):
            share = scores_T[t] / total
            for d in range(d_head):
                z_HD[head, d] += share * values_THD[t, shared, d]


@compiled
def _activate(x_F, gate_F, activation):  # type: ignore[no-untyped-def]
    one, zero = np.float32(1), np.float32(0)
    for f in range(len(x_F)):
        x = x_F[f]
        if activation == GELU:  # 0.5 x (1 + tanh(y)) = x / (1 + exp(-2 y)), y = sqrt(2 / pi) (x + 0.044715 x^3)
            x_F[f] = x / (one + np.exp(np.float32(-1.5957691216) * (x + np.float32(0.044715) * x * x * x)))
        elif activation == GELU_ERF:
            x_F[f] = np.float32(0.5) * x * (one + np.float32(math.erf(np.float32(0.7071067812) * x)))
        elif activation == SWIGLU:
            x_F[f] = x * gate_F[f] / (one + np.exp(-gate_F[f]))
        elif activation == RELU:
            x_F[f] = max(x, zero)
        else:
            x_F[f] = max(x, zero) ** 2


@compiled
def draw(logits_V, temperature, top_k, top_p, penalty, seen_T, uniform):  # type: ignore[no-untyped-def]
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
