"""What a model is made of: parameters, FLOPs and memory, every component visible and countable."""

from dataclasses import dataclass
from math import prod

from barreleye.config import ModelConfig
from barreleye.model.transformer import skeleton


@dataclass(frozen=True)
class Component:
    name: str
    shape: tuple[int, ...]
    copies: int  # how many of it there are: one per layer, or one

    @property
    def parameters(self) -> int:
        return prod(self.shape) * self.copies


@dataclass(frozen=True)
class Count:
    """Parameters by component; floating-point operations per token; bytes while training in float32."""

    components: tuple[Component, ...]
    flops_matrices: int  # forward, of the matrices alone
    flops_forward: int  # attention over a full context included
    flops_training: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    cache_bytes: int

    @property
    def training_bytes(self) -> int:
        """What stays in memory while the model learns, whatever it reads."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes

    @property
    def parameters(self) -> int:
        return sum(component.parameters for component in self.components)


def count(config: ModelConfig, batch_tokens: int = 2048, optimizer: str = "adamw") -> Count:
    """Count a model by the shapes of its weights.

    A matrix of n weights costs 2n FLOPs per token forward, and twice that again backward; attention adds
    4 * context * (heads' channels) per layer forward (Kaplan et al. 2020, section 2.1, for a full context).
    Activations are those that the backward pass keeps, for `batch_tokens` tokens in rows of a full context.
    """
    seen: dict[str, Component] = {}
    for name, parameter in skeleton(config).named_parameters():
        label = ".".join("*" if piece.isdigit() else piece for piece in name.split("."))
        copies = seen[label].copies + 1 if label in seen else 1
        seen[label] = Component(label, tuple(parameter.shape), copies)
    components = tuple(seen.values())
    total = sum(c.parameters for c in components)
    matrices = sum(
        c.parameters for c in components if len(c.shape) == 2 and c.name not in ("embed.weight", "positions.weight")
    )
    matrices += config.vocab_size * config.d_model if config.tie_embeddings else 0  # the tied head still multiplies
    forward = 2 * matrices + 4 * config.n_layers * config.context_length * config.n_heads * config.d_head
    # Muon keeps one moment for a block matrix, AdamW two for everything else.
    muon = sum(c.parameters for c in components if c.name.startswith("blocks.") and len(c.shape) == 2)
    moments = 2 * total - (muon if optimizer == "muon" else 0)
    # Kept by a layer: the norm's input and output, q, k, v, z (what norms of q and k read and give) and the pattern;
    # then the norm's again, and both sides of the activation. Last: the final norm's, the logits, their gradient.
    attention = (10 if config.qk_norm else 6) * config.d_model + config.n_heads * config.context_length
    mlp = 2 * config.d_model + config.d_ff * (4 if config.activation == "swiglu" else 2) if config.d_ff else 0
    per_token = config.n_layers * (attention + mlp) + 2 * config.d_model + 2 * config.vocab_size
    return Count(
        components=components,
        flops_matrices=2 * matrices,
        flops_forward=forward,
        flops_training=3 * forward,
        weight_bytes=4 * total,
        gradient_bytes=4 * total,
        optimizer_bytes=4 * moments,
        activation_bytes=4 * per_token * batch_tokens,
        cache_bytes=4 * 2 * config.n_layers * config.context_length * config.kv_heads * config.d_head,
    )
