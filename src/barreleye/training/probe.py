"""What is seen inside a model while it learns: gradients, updates, activations and attention, on a fixed probe batch.

The probe runs between two steps, in evaluation mode, and asks autograd for gradients without leaving them anywhere: it
touches neither `parameter.grad` nor a random state, so that a watched training computes what an unwatched one does.

B batch, T time (position), C channels, F feed-forward units, V vocabulary, H heads, Q and K positions of queries and
of keys, N tokens of several rows end to end.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from barreleye.config import TrainConfig
from barreleye.data.batches import IGNORE
from barreleye.training.device import autocast
from barreleye.training.loop import Batches
from barreleye.training.loss import summed_cross_entropy

PARTS = 4  # gradients of as many small batches and of all of them together tell noise from signal
SHARE = 0.5  # of a step's tokens, in all parts together
ALMOST_0 = 1e-9
DEAD = 1e-6  # no token makes more of a unit: it is exactly zero after ReLU, and nearly so after GELU

Values = dict[str, Any]


class Probe:
    """The beginnings of the first training batches. Call it with a model (tokens_BT, tap -> logits_BTV)."""

    def __init__(self, batches: Batches, config: TrainConfig) -> None:
        tokens = max(1, int(SHARE * config.batch_tokens / PARTS))
        self.parts = [_beginning(*batches(n), tokens) for n in range(PARTS)]
        self.config = config

    def __call__(self, model: nn.Module) -> Values:
        """What is recorded of the model as it is: see docs/run-folder.md. A value that is not finite is None."""
        model.eval()
        seen = Seen()
        values = self._gradients(model, seen)
        values |= seen.values()
        values["reach"] = self._reach(model)
        return values

    def _gradients(self, model: nn.Module, seen: "Seen") -> Values:
        """Loss in nats per token, gradient norm by group, and the two sides of the gradient noise scale."""
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        total: list[Tensor] = []
        loss_sum, learned, squares, inverses = 0.0, 0, [], []
        for tokens_BT, targets_BT in self.parts:
            n = int((targets_BT != IGNORE).sum())
            with autocast(self.config):
                logits_BTV = model(tokens_BT.to(self.config.device), tap=seen.tap)
            loss = summed_cross_entropy(logits_BTV, targets_BT.to(self.config.device))
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(named.values(), found, strict=True)]
            if n:
                squares.append(sum(x * x for x in _norms(gradients)) / n**2)
                inverses.append(1 / n)
            total = list(torch._foreach_add(total, gradients)) if total else gradients
            loss_sum, learned = loss_sum + loss.item(), learned + n
        norms = [norm / max(1, learned) for norm in _norms(total)]
        values: Values = {
            "loss": number(loss_sum / max(1, learned)),
            "gradient_norm": by_group(named, norms),
        }
        if len(squares) > 1:
            # |g|^2 of a batch of n tokens is |G|^2 + tr(S) / n on average (McCandlish et al. 2018, appendix A.1).
            small, large = sum(squares) / len(squares), sum(x * x for x in norms)
            trace = (small - large) / (sum(inverses) / len(inverses) - 1 / learned)
            values["noise"] = {"trace": number(trace), "squared_norm": number(large - trace / learned)}
        return values

    @torch.no_grad()
    def _reach(self, model: nn.Module) -> Values | None:
        """How far logits move, in standard deviations of theirs, when tokens are changed: those behind a position
        (`future`), which a causal model cannot see; all before the last (`past`), and the last itself (`own`)."""
        tokens_BT = self.parts[0][0][:1].to(self.config.device)
        length = tokens_BT.shape[1]
        if length < 4:
            return None
        half, rows = length // 2, model.get_parameter("embed.weight").shape[0]
        other_BT = (tokens_BT + 1) % rows

        def logits(tokens_BT: Tensor) -> Tensor:
            with autocast(self.config):
                return model(tokens_BT).float()

        before_BTV = logits(tokens_BT)
        later_BTV = logits(torch.cat([tokens_BT[:, :half], other_BT[:, half:]], 1))
        earlier_BTV = logits(torch.cat([other_BT[:, :-1], tokens_BT[:, -1:]], 1))
        last_BTV = logits(torch.cat([tokens_BT[:, :-1], other_BT[:, -1:]], 1))
        spread = float(before_BTV.std()) + 1e-30
        return {
            "future": number(float((later_BTV - before_BTV)[:, :half].abs().max()) / spread),
            "past": number(float((earlier_BTV - before_BTV)[:, -1].abs().max()) / spread),
            "own": number(float((last_BTV - before_BTV)[:, -1].abs().max()) / spread),
        }


class Seen:
    """A tap that keeps what becomes of each layer, over the parts of the probe."""

    def __init__(self) -> None:
        self.moments: dict[str, list[Tensor]] = defaultdict(list)  # of each part: sum, sum of squares, largest, count
        self.largest_F: dict[str, list[Tensor]] = defaultdict(list)  # of each part, each unit's largest size
        self.entropies_H: dict[str, list[Tensor]] = defaultdict(list)

    @torch.no_grad()
    def tap(self, name: str, tensor: Tensor) -> Tensor:
        at, _, hook = name.rpartition(".")
        if hook in ("hook_resid_pre", "hook_resid_post", "hook_pre"):
            x = tensor.detach().float()
            self.moments[name].append(torch.stack([x.sum(), x.square().sum(), x.abs().max(), _count(x)]))
        elif hook == "hook_post":
            self.largest_F[at].append(tensor.detach().abs().flatten(0, -2).amax(0))
        elif hook == "hook_pattern":
            self.entropies_H[at].append(entropy(tensor.detach().float()))
        return tensor

    def values(self) -> Values:
        """activations: mean, std and largest size by name; dead: share of units by layer; attention_entropy: by layer,
        a number per head."""
        activations = {}
        for name, parts in self.moments.items():
            total, squares, _, count = torch.stack(parts).cpu().double().sum(0).tolist()  # MPS has no float64
            mean = total / count
            largest = float(torch.stack(parts)[:, 2].max())
            deviation = math.sqrt(max(0.0, squares / count - mean * mean)) if math.isfinite(squares) else math.nan
            activations[name] = {"mean": number(mean), "std": number(deviation), "max": number(largest)}
        dead = {at: number(float((torch.stack(x).amax(0) <= DEAD).float().mean())) for at, x in self.largest_F.items()}
        entropies = {
            at: [number(h) for h in torch.stack(parts).mean(0).tolist()] for at, parts in self.entropies_H.items()
        }
        return {"activations": activations, "dead": dead, "attention_entropy": entropies}


def entropy(pattern_BHQK: Tensor) -> Tensor:
    """Of each head's attention, as a share of the most that there can be (looking at all keys alike): shape (H,). It is
    1 where there is but one key."""
    nats_BHQ = -torch.special.xlogy(pattern_BHQK, pattern_BHQK).sum(-1)
    most_Q = torch.arange(1, pattern_BHQK.shape[-2] + 1, device=pattern_BHQK.device).log()
    return (nats_BHQ.sum((0, 2)) + ALMOST_0) / (most_Q.sum() * len(nats_BHQ) + ALMOST_0)


def update_ratios(before: dict[str, Tensor], model: nn.Module) -> dict[str, float | None]:
    """By group, how far a step moved the weights, as a share of their length: |after - before| / |after|. None where
    that is not finite."""
    named = dict(model.named_parameters())
    after = [parameter.detach() for parameter in named.values()]
    moved = list(torch._foreach_sub(after, [before[name].to(p.device) for name, p in named.items()]))
    steps, lengths = by_group(named, _norms(moved)), by_group(named, _norms(after))
    lengths = {group: length if length != 0 else ALMOST_0 for group, length in lengths.items()}
    return {g: None if step is None or (of := lengths[g]) is None else number(step / of) for g, step in steps.items()}


def group_of(name: str) -> str:
    """blocks.2.mlp.up.weight -> blocks.2.mlp; a norm goes with what reads it, and embed.weight is `embed`."""
    at, _, rest = name.rpartition(".")[0].partition(".")
    if at != "blocks":
        return at
    layer, _, part = rest.partition(".")
    return f"blocks.{layer}.{ {'ln1': 'attn', 'ln2': 'mlp'}.get(part, part.partition('.')[0]) }"


def by_group(names: Iterable[str], norms: list[float]) -> dict[str, float | None]:
    squares: dict[str, float] = defaultdict(float)
    for name, norm in zip(names, norms, strict=True):
        squares[group_of(name)] += norm * norm
    return {group: number(math.sqrt(square)) for group, square in squares.items()}


def number(value: float) -> float | None:
    """To six digits, which is what it is good for; None where JSON has no number for it."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _norms(tensors: list[Tensor]) -> list[float]:
    return torch.stack(list(torch._foreach_norm(tensors))).tolist()


def _count(x: Tensor) -> Tensor:
    return torch.tensor(float(x.numel()), device=x.device)


def _beginning(tokens_BT: Tensor, targets_BT: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """As many rows as hold about that many tokens, and one at least."""
    rows = max(1, tokens // tokens_BT.shape[1])
    return tokens_BT[:rows], targets_BT[:rows]
