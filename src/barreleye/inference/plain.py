"""The whole model and its sampler in NumPy: what `model/transformer.py` and `generate.py` compute, without torch.

Read the pages side by side: names are the same. Here a model is a dictionary of arrays, named as in transformer.py, and
one text is read at a time, so there is no batch axis. `barreleye export RUN plain` writes this page beside the weights.

T time (position), C channels (`d_model`), H heads, D channels per head, V vocabulary, F feed-forward, L layers,
Q and K positions of queries and of keys.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Weights = dict[str, Array]

SINE_THETA = 10_000.0

# The model ---------------------------------------------------------------------------------------------------------


class KVCache:
    """Room for every layer's keys and values, allocated once."""

    def __init__(self, config: Any) -> None:
        kv_heads, d_head = config.n_kv_heads or config.n_heads, config.head_dim or config.d_model // config.n_heads
        self.keys_LTHD = np.zeros((config.n_layers, config.context_length, kv_heads, d_head), np.float32)
        self.values_LTHD = np.zeros_like(self.keys_LTHD)
        self.length = 0  # positions filled


def forward(weights: Weights, config: Any, tokens_T: Sequence[int], cache: KVCache) -> Array:
    """Logits for the token after each of these, shape (T, V); they continue those already in the cache.

    Raises ValueError when they do not fit the context."""
    start, end = cache.length, cache.length + len(tokens_T)
    if end > config.context_length:
        raise ValueError(f"{end} tokens do not fit a context of {config.context_length}")
    x_TC = weights["embed.weight"][list(tokens_T)]
    if config.positions == "learned":
        x_TC = x_TC + weights["positions.weight"][start:end]
    elif config.positions == "sinusoidal":
        x_TC = x_TC + sines(config, start, end)
    for layer in range(config.n_layers):
        x_TC = block(weights, config, layer, x_TC, cache)
    cache.length = end
    unembed_VC = weights["embed.weight" if config.tie_embeddings else "unembed.weight"]
    return norm(weights, config, "ln_final", x_TC) @ unembed_VC.T


def block(weights: Weights, config: Any, layer: int, x_TC: Array, cache: KVCache) -> Array:
    """Attention, then a feed-forward layer; each reads the normalized residual stream and adds to it."""
    at = f"blocks.{layer}."
    x_TC = x_TC + attention(weights, config, layer, norm(weights, config, at + "ln1", x_TC), cache)
    if not config.d_ff:
        return x_TC
    return x_TC + feed_forward(weights, config, layer, norm(weights, config, at + "ln2", x_TC))


def attention(weights: Weights, config: Any, layer: int, x_TC: Array, cache: KVCache) -> Array:
    at, start, end = f"blocks.{layer}.attn.", cache.length, cache.length + len(x_TC)
    heads, kv_heads = config.n_heads, config.n_kv_heads or config.n_heads
    heads_THD = linear(weights, at + "qkv", x_TC).reshape(end - start, heads + 2 * kv_heads, -1)
    q_THD, k_THD, v_THD = np.split(heads_THD, [heads, heads + kv_heads], axis=1)
    if config.qk_norm:
        q_THD = norm(weights, config, at + "q_norm", q_THD)
        k_THD = norm(weights, config, at + "k_norm", k_THD)
    if config.positions == "rope":
        q_THD, k_THD = rotate(q_THD, start, config.rope_theta), rotate(k_THD, start, config.rope_theta)
    cache.keys_LTHD[layer, start:end], cache.values_LTHD[layer, start:end] = k_THD, v_THD
    k_THD = cache.keys_LTHD[layer, :end].repeat(heads // kv_heads, axis=1)
    v_THD = cache.values_LTHD[layer, :end].repeat(heads // kv_heads, axis=1)
    scores_HQK = q_THD.swapaxes(0, 1) @ k_THD.transpose(1, 2, 0) / math.sqrt(q_THD.shape[-1])
    future_QK = np.arange(end) > np.arange(start, end)[:, None]
    pattern_HQK = softmax(np.where(future_QK, -np.inf, scores_HQK))
    z_THD = (pattern_HQK @ v_THD.swapaxes(0, 1)).swapaxes(0, 1)
    return linear(weights, at + "out", z_THD.reshape(end - start, -1))


def feed_forward(weights: Weights, config: Any, layer: int, x_TC: Array) -> Array:
    at = f"blocks.{layer}.mlp."
    up_TF = linear(weights, at + "up", x_TC)
    if config.activation == "swiglu":
        return linear(weights, at + "down", silu(linear(weights, at + "gate", x_TC)) * up_TF)
    return linear(weights, at + "down", ACTIVATIONS[config.activation](up_TF))


def linear(weights: Weights, name: str, x: Array) -> Array:
    y = x @ weights[name + ".weight"].T
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def norm(weights: Weights, config: Any, name: str, x: Array) -> Array:
    """LayerNorm, which has a bias, or RMSNorm, which has none."""
    if name + ".bias" in weights:
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps) * weights[name + ".weight"]
    return x + weights[name + ".bias"] if name + ".bias" in weights else x


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float32])(x * math.sqrt(0.5)))


def silu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(0.5 * x))  # x * sigmoid(x), in a form that never overflows


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


ACTIVATIONS = {"gelu": gelu, "gelu_erf": gelu_erf, "relu": relu, "relu2": lambda x: relu(x) ** 2}


def rotate(x_THD: Array, start: int, theta: float) -> Array:
    """Channel i turned with channel i + D/2, by an angle that grows with position."""
    angle_T1D = np.tile(angles(start, start + len(x_THD), x_THD.shape[-1], theta), 2)[:, None]
    left, right = np.split(x_THD, 2, axis=-1)
    return x_THD * np.cos(angle_T1D) + np.concatenate([-right, left], -1) * np.sin(angle_T1D)


def sines(config: Any, start: int, end: int) -> Array:
    """Sine at even channels, cosine at odd ones, as large as a fresh embedding."""
    angle_TF = angles(start, end, config.d_model + config.d_model % 2)
    table_TC = np.stack([np.sin(angle_TF), np.cos(angle_TF)], -1).reshape(end - start, -1)[:, : config.d_model]
    return table_TC * (config.embed_std or config.init_std or config.d_model**-0.5) * math.sqrt(2)


def angles(start: int, end: int, width: int, theta: float = SINE_THETA) -> Array:
    """position / theta^(2i / width) for every position and pair of channels, shape (T, width / 2)."""
    frequency_F = np.float32(theta) ** -(np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    return np.outer(np.arange(start, end, dtype=np.float32), frequency_F)


def softmax(x: Array) -> Array:
    exp = np.exp(x - x.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


# The sampler -------------------------------------------------------------------------------------------------------


def sample(logits_V: Array, sampling: Any, seen: Sequence[int], uniform: float) -> int:
    """The next token: where the sum of the probabilities passes a random number from 0 to 1."""
    logits_V = logits_V.copy()
    seen_logits = logits_V[list(seen)]
    penalty = sampling.repetition_penalty
    logits_V[list(seen)] = np.where(seen_logits > 0, seen_logits / penalty, seen_logits * penalty)
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    sum_V = probabilities(logits_V, sampling).cumsum()
    return int(((sum_V <= uniform) & (sum_V < sum_V[-1])).sum())


def probabilities(logits_V: Array, sampling: Any) -> Array:
    """What is drawn from: softmax at the temperature, then top-k, then top-p, summing to 1."""
    probs_V = softmax((logits_V - logits_V.max()) / max(sampling.temperature, 1e-6))
    if 0 < sampling.top_k < len(probs_V):
        probs_V = np.where(probs_V < np.sort(probs_V)[-sampling.top_k], 0, probs_V)
    if sampling.top_p < 1:
        likeliest = np.argsort(-probs_V, kind="stable")
        before_V = probs_V[likeliest].cumsum() - probs_V[likeliest]
        leaves_V = before_V >= sampling.top_p * probs_V.sum()
        probs_V[likeliest[1:][leaves_V[1:]]] = 0  # the first always stays
    return probs_V / probs_V.sum()


class Plain:
    """A model ready to read texts: the weights by their names in transformer.py, and its configuration."""

    def __init__(self, weights: Weights, config: Any) -> None:
        self.weights, self.config = weights, config

    def stream(self) -> "PlainStream":
        return PlainStream(self)


class PlainStream:
    """One text: what was read of it, and the logits of what comes next."""

    def __init__(self, model: Plain) -> None:
        self.model, self.cache = model, KVCache(model.config)

    @property
    def room(self) -> int:
        return int(self.model.config.context_length) - self.cache.length

    def start(self, tokens: Sequence[int]) -> None:
        self.cache.length = 0
        self.logits_V = forward(self.model.weights, self.model.config, tokens, self.cache)[-1]

    def read(self, token: int) -> None:
        self.logits_V = forward(self.model.weights, self.model.config, [token], self.cache)[-1]

    def draw(self, sampling: Any, seen: Sequence[int], uniform: float) -> int:
        return sample(self.logits_V, sampling, seen, uniform)
