"""The same interference everywhere: every head and feed-forward layer taken out, every place patched.

B batch, T time (position), L layers, H heads, C channels (`d_model`), V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from barreleye.config import did_you_mean
from barreleye.data.batches import IGNORE
from barreleye.lens.address import SQUARE, Address, head_address
from barreleye.lens.edits import Change, EditTap, Place, mean, zero
from barreleye.lens.subject import Text, Who, encode, run_of, subject_of
from barreleye.lens.view import View, Z, evaluating
from barreleye.model.parts import Tap, no_tap
from barreleye.model.transformer import Transformer
from barreleye.run import Run
from barreleye.training.loss import summed_cross_entropy
from barreleye.training.material import held_out_batches

HELD_OUT_TOKENS = 4096  # enough to tell heads apart, and half a minute for the default fish
GOLDEN = (5**0.5 - 1) / 2
AT_ONCE = 32  # prompts in one pass

Batches = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Ablation:
    """How much the mean loss, in nats per token, rises when a part is taken out: positive where it was of use.

    loss: with all there. heads_LH, mlps_L: the rise for each; without a feed-forward layer mlps_L is empty.
    """

    loss: float
    tokens: int
    heads_LH: Tensor
    mlps_L: Tensor


def ablate(
    who: Who,
    text: Text | None = None,
    change: Change = zero,
    step: int | None = None,
    chat: bool | None = None,
) -> Ablation:
    """Each head and each feed-forward layer taken out in turn (`zero`, or `mean`), on a text, or on 4,096 tokens spread
    over the run's held-out side. Raises ValueError for a model without a run and without a text."""
    subject = subject_of(who, step)
    if text is None:
        return ablate_on(subject.model, held_out_tokens(run_of(who, "held-out text")), change)
    return ablate_on(subject.model, _one_row(encode(subject, text, chat)), change)


def ablate_on(model: Transformer, batches: Batches, change: Change = zero) -> Ablation:
    """The same on batches of (tokens_BT, targets_BT). `mean` is that over all their tokens, at each position."""
    config = model.config
    before = mean_loss(model, batches)
    means = mean_outputs(model, batches) if change is mean else {}

    def put_mean(x: Tensor, at: Place) -> Tensor:
        return means[at.address.name].expand_as(x)[at.index]

    def rise(address: str) -> float:
        return mean_loss(model, batches, EditTap(model, {address: put_mean if means else change})) - before

    layers = range(config.n_layers)
    heads = [[rise(head_address(i, head)) for head in range(config.n_heads)] for i in layers]
    mlps = [rise(f"blocks.{i}.hook_mlp_out") for i in layers] if config.d_ff else []
    tokens = sum(int((targets_BT != IGNORE).sum()) for _, targets_BT in batches)
    return Ablation(before, tokens, torch.tensor(heads), torch.tensor(mlps))


@torch.no_grad()
def mean_loss(model: Transformer, batches: Batches, tap: Tap = no_tap) -> float:
    """In nats per target that is not IGNORE."""
    total, count, device = 0.0, 0, model.embed.weight.device
    with evaluating(model):
        for tokens_BT, targets_BT in batches:
            total += float(summed_cross_entropy(model(tokens_BT.to(device), tap=tap), targets_BT.to(device)))
            count += int((targets_BT != IGNORE).sum())
    return total / count


@torch.no_grad()
def mean_outputs(model: Transformer, batches: Batches) -> dict[str, Tensor]:
    """Of the heads and the feed-forward layers, by name: means over all positions whose target is not IGNORE."""
    sums: dict[str, Tensor] = {}
    count, device = 0, model.embed.weight.device
    with evaluating(model):
        for tokens_BT, targets_BT in batches:
            there_BT = targets_BT.to(device) != IGNORE

            def tap(name: str, x: Tensor, there_BT: Tensor = there_BT) -> Tensor:
                if name.endswith((Z, "hook_mlp_out")):
                    sums[name] = sums.get(name, 0) + x[there_BT].sum(0)
                return x

            model(tokens_BT.to(device), tap=tap)
            count += int(there_BT.sum())
    return {name: total / count for name, total in sums.items()}


def held_out_tokens(run: Run, tokens: int = HELD_OUT_TOKENS) -> Batches:
    """Rows of the side that training never saw, spread over it, until they have so many targets, or all of them."""
    everything = list(held_out_batches(run.corpus().held_out, run.tokenizer, run.config.model.context_length)())
    targets_N = torch.cat([(targets_BT != IGNORE).sum(1) for _, targets_BT, _ in everything])
    # Multiples of the golden ratio lie evenly on a circle, however many there are (Knuth, volume 3, section 6.4).
    order_N = (torch.arange(len(targets_N), dtype=torch.float64) * GOLDEN).frac().argsort()
    before_N = targets_N[order_N].cumsum(0) - targets_N[order_N]
    chosen_N = torch.zeros_like(targets_N, dtype=torch.bool).index_fill(0, order_N[before_N < tokens], True)
    chosen = chosen_N.split([len(tokens_BT) for tokens_BT, _, _ in everything])
    batches = [(x_BT[rows], y_BT[rows]) for (x_BT, y_BT, _), rows in zip(everything, chosen, strict=True)]
    return [(tokens_BT, targets_BT) for tokens_BT, targets_BT in batches if len(tokens_BT)]


@dataclass(frozen=True)
class PatchGrid:
    """What a logit becomes in the corrupted prompt when one place is as it was in the clean one.

    logits_LT: for each layer and position. clean, corrupted: the logit in either prompt. tokens: of the clean prompt.
    """

    of: str
    tokens: list[str]
    corrupted_tokens: list[str]
    logits_LT: Tensor
    clean: float
    corrupted: float

    @property
    def recovered_LT(self) -> Tensor:
        """0 where patching changes nothing, 1 where it brings back the clean logit."""
        return (self.logits_LT - self.corrupted) / (self.clean - self.corrupted)


def patch_grid(
    who: Who,
    clean: Text,
    corrupted: Text,
    token: str | int,
    minus: str | int | None = None,
    name: str = "hook_resid_pre",
    position: int = -1,
    step: int | None = None,
    chat: bool | None = None,
) -> PatchGrid:
    """Causal tracing (Meng et al. 2022; Heimersheim and Nanda 2024): the corrupted prompt is read once for each layer
    and position with `blocks.N.name` there taken from the clean one; followed is the logit of `token`, or its logit
    less that of `minus`, after `position`.

    name: hook_resid_pre, hook_attn_out, hook_mlp_out, attn.hook_z ... whatever has a row for each position.
    Raises ValueError for prompts of different lengths or of the same logit, or a name that has no such rows.
    """
    subject = subject_of(who, step)
    views = [View(subject, encode(subject, text, chat)) for text in (clean, corrupted)]
    here, other = views
    if len(here.ids) != len(other.ids):
        words = " and ".join(f"{len(view.ids)} ({' '.join(view.tokens)})" for view in views)
        raise ValueError(f"the two prompts need as many tokens, not {words}; reword one")
    target = here.target(token, minus, position)
    before, after = float(target(other.logits_TV)), float(target(here.logits_TV))
    if before == after:
        raise ValueError(f"the two prompts give the same {target.of}; choose one that they differ in")
    rows = []
    for layer in range(subject.model.config.n_layers):
        at = f"blocks.{layer}.{name}"
        if at not in here.shapes:
            raise ValueError(f"there is no {at!r} to be patched{did_you_mean(at, list(here.shapes))}")
        if Address(at).axes == SQUARE:
            raise ValueError(f"{at} has no row for each position; patch hook_z, hook_resid_pre or the like")
        rows.append(torch.cat([target(logits_BTV) for logits_BTV in _patched(other, at, here[at])]))
    return PatchGrid(target.of, here.tokens, other.tokens, torch.stack(rows), after, before)


@torch.no_grad()
def _patched(view: View, name: str, source: Tensor) -> Iterator[Tensor]:
    """Logits of the view's text with one position at `name` taken from `source`: a row for each, AT_ONCE a pass."""
    ids_T = torch.tensor(view.ids, device=source.device)
    for positions_B in torch.arange(len(view.ids)).split(AT_ONCE):
        rows_B = torch.arange(len(positions_B))

        def patch(x: Tensor, at: Place, positions_B: Tensor = positions_B, rows_B: Tensor = rows_B) -> Tensor:
            x = x.clone()
            x[rows_B, positions_B] = source[positions_B]
            return x

        with evaluating(view.model):
            yield view.model(ids_T.expand(len(positions_B), -1), tap=EditTap(view.model, {name: patch}))


def _one_row(ids: Sequence[int]) -> Batches:
    if len(ids) < 2:
        raise ValueError("a text of one token has no loss; give a longer one")
    row = torch.tensor([ids])
    return [(row[:, :-1], row[:, 1:])]
