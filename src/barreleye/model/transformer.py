"""The whole model: a pre-norm, decoder-only transformer.

Tensors carry their shape as a suffix:
B batch, T time (position), C channels (`d_model`), H heads, D channels per head, V vocabulary, F feed-forward,
Q and K positions of queries and of keys.

Each tensor worth seeing passes through `tap(name, tensor)` and the model goes on with what the tap returns: that is
how everything can be recorded or replaced. The names are those of TransformerLens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from barreleye.config import ModelConfig
from barreleye.model.cache import KVCache
from barreleye.model.parts import ACTIVATIONS, NORMS, POSITIONS, Positions, RMSNorm, Tap, check_parts, no_tap

SMALL = 2**24  # weights, about twice the fish


class Transformer(nn.Module):
    """Tokens in, next-token logits out.

    Pre-norm blocks, then a final norm and the output head (the embedding transposed, unless `tie_embeddings` is off).
    The default configuration computes what GPT-2 does (Radford et al. 2019), the `modern` preset what Llama does
    (Touvron et al. 2023).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError("vocab_size must be at least 1; a model cannot be built before its vocabulary is known")
        check_parts(config)
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.positions: Positions = POSITIONS[config.positions](config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer, self.positions) for layer in range(config.n_layers))
        self.ln_final = NORMS[config.norm](config.d_model, "ln_final.", config.norm_eps)
        self.unembed = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.unembed.weight = self.embed.weight
        self.init_weights()

    def init_weights(self) -> None:
        """Normal weights, zero biases, and zero output projections, so that each block starts as the identity
        (Zhang et al. 2019, Fixup)."""
        config = self.config
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                vocabulary = module is self.embed or module is self.unembed
                nn.init.normal_(module.weight, std=config.embedding_std if vocabulary else config.matrix_std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
            if name.endswith(("attn.out", "mlp.down")):
                nn.init.zeros_(module.weight)

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None, tap: Tap = no_tap, last: bool = False) -> Tensor:
        """Logits for the token after each position, shape (B, T, V); after the last one alone, (B, 1, V), if `last`.

        With a cache the tokens continue those already in it. Raises ValueError when they do not fit the context.
        """
        start = cache.length if cache else 0
        end = start + tokens_BT.shape[1]
        if end > self.config.context_length:
            raise ValueError(f"{end} tokens do not fit a context of {self.config.context_length}")
        x_BTC = tap("hook_embed", self.embed(tokens_BT))
        if (pos_TC := self.positions.embed(start, end)) is not None:
            x_BTC = x_BTC + tap("hook_pos_embed", pos_TC.expand_as(x_BTC))
        x_BTC = self.dropout(x_BTC)
        for block in self.blocks:
            x_BTC = block(x_BTC, cache, tap)
        if cache:
            cache.length = end
        return self.unembed(self.ln_final(x_BTC[:, -1:] if last else x_BTC, tap))


class Block(nn.Module):
    """Attention, then a feed-forward layer; each reads the normalized residual stream and adds to it."""

    def __init__(self, config: ModelConfig, layer: int, positions: Positions) -> None:
        super().__init__()
        self.at = f"blocks.{layer}."
        self.ln1 = NORMS[config.norm](config.d_model, self.at + "ln1.", config.norm_eps)
        self.attn = Attention(config, layer, positions)
        if config.d_ff:
            self.ln2 = NORMS[config.norm](config.d_model, self.at + "ln2.", config.norm_eps)
            self.mlp = FeedForward(config, self.at + "mlp.")
        self.has_mlp = config.d_ff > 0
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, cache: KVCache | None = None, tap: Tap = no_tap) -> Tensor:
        x_BTC = tap(self.at + "hook_resid_pre", x_BTC)
        attn_BTC = tap(self.at + "hook_attn_out", self.attn(self.ln1(x_BTC, tap), cache, tap))
        x_BTC = x_BTC + self.dropout(attn_BTC)
        if self.has_mlp:
            x_BTC = tap(self.at + "hook_resid_mid", x_BTC)
            mlp_BTC = tap(self.at + "hook_mlp_out", self.mlp(self.ln2(x_BTC, tap), tap))
            x_BTC = x_BTC + self.dropout(mlp_BTC)
        return tap(self.at + "hook_resid_post", x_BTC)


class Attention(nn.Module):
    """Causal multi-head attention (Vaswani et al. 2017), key/value heads shared by groups of query heads when
    `n_kv_heads` says so (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig, layer: int, positions: Positions) -> None:
        super().__init__()
        self.at, self.layer, self.dropout = f"blocks.{layer}.attn.", layer, config.dropout
        self.d_head, self.heads, self.kv_heads = config.d_head, config.n_heads, config.kv_heads
        self.qkv = nn.Linear(config.d_model, (self.heads + 2 * self.kv_heads) * self.d_head, bias=config.bias)
        self.out = nn.Linear(self.heads * self.d_head, config.d_model, bias=config.bias)
        self.q_norm = RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.rotate = positions.rotate

    def forward(self, x_BTC: Tensor, cache: KVCache | None = None, tap: Tap = no_tap) -> Tensor:
        start = cache.length if cache else 0
        heads_BTHD = self.qkv(x_BTC).unflatten(-1, (-1, self.d_head))
        q_BTHD, k_BTHD, v_BTHD = heads_BTHD.split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        q_BTHD = self.rotate(self.q_norm(tap(self.at + "hook_q", q_BTHD)), start, tap, self.at + "hook_rot_q")
        k_BTHD = self.rotate(self.k_norm(tap(self.at + "hook_k", k_BTHD)), start, tap, self.at + "hook_rot_k")
        v_BTHD = tap(self.at + "hook_v", v_BTHD)
        if cache:
            k_BTHD, v_BTHD = cache.extend(self.layer, k_BTHD, v_BTHD)
        if self.kv_heads < self.heads:
            k_BTHD, v_BTHD = (x.repeat_interleave(self.heads // self.kv_heads, dim=2) for x in (k_BTHD, v_BTHD))
        dropout = self.dropout if self.training else 0.0
        if tap is no_tap and fused_pays(q_BTHD, k_BTHD):
            z_BTHD = fused_attention(q_BTHD, k_BTHD, v_BTHD, dropout)
        else:
            scores_BHQK = tap(self.at + "hook_attn_scores", masked_scores(q_BTHD, k_BTHD))
            pattern_BHQK = tap(self.at + "hook_pattern", scores_BHQK.softmax(-1))
            pattern_BHQK = F.dropout(pattern_BHQK, dropout) if dropout else pattern_BHQK
            z_BTHD = (pattern_BHQK.to(v_BTHD.dtype) @ v_BTHD.transpose(1, 2)).transpose(1, 2)
        return self.out(tap(self.at + "hook_z", z_BTHD).flatten(2))


def masked_scores(q_BTHD: Tensor, k_BTHD: Tensor) -> Tensor:
    """q k^T / sqrt(D), minus infinity where a query would see a later key."""
    scores_BHQK = q_BTHD.transpose(1, 2) @ (k_BTHD.permute(0, 2, 3, 1) / math.sqrt(q_BTHD.shape[-1]))
    n_q, n_k = scores_BHQK.shape[-2:]
    future_QK = torch.ones(n_q, n_k, dtype=torch.bool, device=scores_BHQK.device).triu(1 + n_k - n_q)
    return scores_BHQK.masked_fill(future_QK, -math.inf)


def fused_pays(q_BTHD: Tensor, k_BTHD: Tensor) -> bool:
    """One query needs no mask. Else only without a cache, where the kernel's causal mask is ours; and on CPU its
    backward loses to plain matrix products on short rows (benchmarks/attention.py)."""
    n_q, n_k = q_BTHD.shape[1], k_BTHD.shape[1]
    return n_q == 1 or (n_q == n_k and (q_BTHD.device.type != "cpu" or n_q > 256))


def fused_attention(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor, dropout: float) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTHD, v_BTHD))
    causal = q_BTHD.shape[1] > 1
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with an activation between, or three where the activation is gated."""

    def __init__(self, config: ModelConfig, at: str) -> None:
        super().__init__()
        self.at, self.activation = at, ACTIVATIONS[config.activation]
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=config.bias) if self.activation.gated else None
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x_BTC: Tensor, tap: Tap = no_tap) -> Tensor:
        if self.gate is None:
            post_BTF = self.activation.function(tap(self.at + "hook_pre", self.up(x_BTC)))
        else:
            gate_BTF = self.activation.function(tap(self.at + "hook_pre", self.gate(x_BTC)))
            post_BTF = gate_BTF * tap(self.at + "hook_pre_linear", self.up(x_BTC))
        return self.down(tap(self.at + "hook_post", post_BTF))


def skeleton(config: ModelConfig) -> Transformer:
    """A model that is asked for its shapes alone."""
    # The meta device takes no memory, but sines and random numbers there make torch import its compiler, for two
    # seconds. What is small is sooner built.
    heads = (config.n_heads + 2 * config.kv_heads) * config.d_head
    rows = config.vocab_size + config.context_length + config.n_layers * (heads + config.d_ff)
    small = rows * max(config.d_model, config.d_head) < SMALL
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if small else "meta"):
        return Transformer(config)
