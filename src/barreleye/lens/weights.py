"""What can be read off the weights, without a text: neighbours, principal axes, spectra, circuits of heads.

N tokens or vectors, C channels (`d_model`), D channels per head, V vocabulary, K few, Q and K queries and keys.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from barreleye.data.tokenizer import Tokenizer
from barreleye.lens.attribution import output_logits
from barreleye.lens.subject import Who, block_of, check_index, check_positive, likeliest, subject_of, token_id
from barreleye.model.transformer import Attention, Transformer

MOST_CELLS = 2**25  # of a token-to-token map: 128 MiB


def neighbours(who: Who, token: str | int, k: int = 10, step: int | None = None) -> list[tuple[str, float]]:
    """The tokens whose embeddings point most nearly the same way, with the cosine of the angle."""
    model, tokenizer, _ = subject_of(who, step)
    chosen = token_id(tokenizer, token)
    with torch.no_grad():
        cosine_V = F.cosine_similarity(model.embed.weight[chosen], model.embed.weight, dim=-1)
    cosine_V[chosen] = -math.inf
    return likeliest(tokenizer, cosine_V, min(k, len(cosine_V) - 1))


@dataclass(frozen=True)
class PCA:
    """Vectors on their axes of largest variance: coordinates_NK, and the share of the variance along each, (K,)."""

    coordinates_NK: Tensor
    share_K: Tensor


@torch.no_grad()
def pca(vectors_NC: Tensor, k: int = 2) -> PCA:
    """Principal components (Pearson 1901), the sign of each chosen so that its largest coordinate is positive."""
    if not 1 <= k <= min(vectors_NC.shape):
        raise ValueError(f"{tuple(vectors_NC.shape)} vectors have 1 to {min(vectors_NC.shape)} components, not {k}")
    u_NR, size_R, _ = torch.linalg.svd(vectors_NC - vectors_NC.mean(0), full_matrices=False)
    coordinates_NK = u_NR[:, :k] * size_R[:k]
    sign_K = coordinates_NK.gather(0, coordinates_NK.abs().argmax(0, keepdim=True)).sign()
    return PCA(coordinates_NK * sign_K, size_R.square()[:k] / size_R.square().sum())


@dataclass(frozen=True)
class Spectrum:
    """A matrix by its singular values, largest first. rank: how many it takes in effect, e to the entropy of their
    shares (Roy and Vetterli 2007). norm: Frobenius."""

    name: str
    shape: tuple[int, ...]
    values: Tensor
    norm: float
    rank: float


@torch.no_grad()
def spectra(who: Who, step: int | None = None) -> list[Spectrum]:
    """One for each weight matrix of the model. `attn.qkv.weight` is three in one: W_Q, W_K and W_V have one each."""
    model = subject_of(who, step).model
    matrices = {name: weight for name, weight in model.named_parameters() if weight.ndim == 2}
    for layer in range(model.config.n_layers):
        joint = matrices.pop(f"blocks.{layer}.attn.qkv.weight")
        names = [f"blocks.{layer}.attn.W_{each}" for each in "QKV"]
        matrices |= dict(zip(names, joint.split(_widths(block_of(model, layer).attn)), strict=True))
    return [_spectrum(name, matrix) for name, matrix in matrices.items()]


def _spectrum(name: str, matrix: Tensor) -> Spectrum:
    values = torch.linalg.svdvals(matrix)
    rank = float(torch.special.entr(values / values.sum()).sum().exp()) if values.any() else 0.0
    return Spectrum(name, tuple(matrix.shape), values, float(matrix.norm()), rank)


@dataclass(frozen=True)
class Circuit:
    """A token-to-token map. Of QK: map_NN[query, key], the score; of OV: map_NN[source, out], what attending to the
    source adds to the logit of out, up to the final norm's scale."""

    tokens: list[str]
    map_NN: Tensor


@torch.no_grad()
def qk_circuit(
    who: Who,
    layer: int,
    head: int,
    tokens: Sequence[str | int] | None = None,
    step: int | None = None,
    distance: int = 0,
) -> Circuit:
    """How much a head wants to look from one token to another, as scores before the softmax (Elhage et al. 2021).

    The stream is taken to hold a token's embedding alone, normalized as that layer does; positions are left out.
    tokens: those to map (all unless told). distance: how many tokens the key stands back, which counts for rotary
    positions alone; at 0 a token looks at its own place. Raises ValueError for a layer, a head or a distance that is
    not there, or too many tokens.
    """
    model, tokenizer, _ = subject_of(who, step)
    ids = _chosen(model, tokenizer, tokens)
    attn, normalized_NC = _attention(model, layer, head), _normalized(model, layer, ids)
    q_NC, k_NC, _ = attn.qkv(normalized_NC).split(_widths(attn), dim=-1)
    q_ND = attn.q_norm(q_NC.unflatten(-1, (-1, attn.d_head))[:, head])
    k_ND = attn.k_norm(k_NC.unflatten(-1, (-1, attn.d_head))[:, _group(attn, head)])
    check_index("distance", distance, model.config.context_length)
    q_ND = attn.rotate(q_ND[:, None, None], distance)[:, 0, 0]
    return Circuit([tokenizer.token_text(i) for i in ids.tolist()], q_ND @ k_ND.T / math.sqrt(attn.d_head))


@torch.no_grad()
def ov_circuit(
    who: Who, layer: int, head: int, tokens: Sequence[str | int] | None = None, step: int | None = None
) -> Circuit:
    """What a head that looks at a token makes more likely (Elhage et al. 2021): W_U W_O W_V of its embedding, with the
    norms' gains and without biases. As `qk_circuit` otherwise."""
    model, tokenizer, _ = subject_of(who, step)
    ids = _chosen(model, tokenizer, tokens)
    attn, normalized_NC = _attention(model, layer, head), _normalized(model, layer, ids)
    value_DC = attn.qkv.weight.split(_widths(attn))[2].unflatten(0, (-1, attn.d_head))[_group(attn, head)]
    out_CD = attn.out.weight.unflatten(1, (-1, attn.d_head))[:, head]
    added_NC = normalized_NC @ value_DC.T @ out_CD.T
    return Circuit([tokenizer.token_text(i) for i in ids.tolist()], output_logits(model, added_NC)[:, ids])


def _attention(model: Transformer, layer: int, head: int) -> Attention:
    check_index("head", head, model.config.n_heads)
    return block_of(model, layer).attn


def _chosen(model: Transformer, tokenizer: Tokenizer, tokens: Sequence[str | int] | None) -> Tensor:
    size = model.config.vocab_size if tokens is None else len(tokens)
    check_positive("the number of tokens", size)
    if size**2 > MOST_CELLS:
        raise ValueError(f"a map of {size} x {size} tokens is too large; choose some with tokens=")
    ids = range(size) if tokens is None else [token_id(tokenizer, token) for token in tokens]
    return torch.tensor(ids, device=model.embed.weight.device)


def _normalized(model: Transformer, layer: int, ids_N: Tensor) -> Tensor:
    normalized_NC: Tensor = block_of(model, layer).ln1(model.embed(ids_N))
    return normalized_NC


def _widths(attn: Attention) -> list[int]:
    """Rows of the joint projection that make queries, keys and values."""
    return [heads * attn.d_head for heads in (attn.heads, attn.kv_heads, attn.kv_heads)]


def _group(attn: Attention, head: int) -> int:
    """The key/value head that a head shares."""
    return head // (attn.heads // attn.kv_heads)
