"""The same interference everywhere: every head and feed-forward layer taken out, every place patched.

B batch, T time (position), L layers, H heads, C channels (`d_model`), V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from barreleye.data.batches import IGNORE
from barreleye.lens.edits import Change, EditTap, zero
from barreleye.lens.subject import Text, Who, encode, subject_of, token_id
from barreleye.lens.view import View, evaluating
from barreleye.model.parts import Tap, no_tap
from barreleye.model.transformer import Transformer
from barreleye.run import Run
from barreleye.training.loss import summed_cross_entropy
from barreleye.training.material import held_out_batches

HELD_OUT_TOKENS = 4096  # enough to tell heads apart, and half a minute for the default fish
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
    """Each head and each feed-forward layer taken out in turn (`zero`, or `mean`), on a text, or on the beginning of
    the run's held-out side. Raises ValueError for a model without a run and without a text."""
    subject = subject_of(who, step)
    if text is not None:
        batches = _one_row(encode(subject, text, chat))
    elif isinstance(who, tuple):
        raise ValueError("only a run has held-out text; give a text, or the run")
    else:
        batches = held_out_tokens(who if isinstance(who, Run) else Run(who))
    return ablate_on(subject.model, batches, change)


def ablate_on(model: Transformer, batches: Batches, change: Change = zero) -> Ablation:
    """The same on batches of (tokens_BT, targets_BT)."""
    config = model.config
    before = mean_loss(model, batches)

    def rise(address: str) -> float:
        return mean_loss(model, batches, EditTap(model, {address: change})) - before

    layers = range(config.n_layers)
    heads = [[rise(f"blocks.{i}.attn.hook_z[head={head}]") for head in range(config.n_heads)] for i in layers]
    mlps = [rise(f"blocks.{i}.hook_mlp_out") for i in layers] if config.d_ff else []
    tokens = sum(int((targets_BT != IGNORE).sum()) for _, targets_BT in batches)
    return Ablation(before, tokens, torch.tensor(heads), torch.tensor(mlps))


@torch.no_grad()
def mean_loss(model: Transformer, batches: Batches, tap: Tap = no_tap) -> float:
    """In nats per target that is not IGNORE."""
    total, count = 0.0, 0
    with evaluating(model):
        for tokens_BT, targets_BT in batches:
            total += float(summed_cross_entropy(model(tokens_BT, tap=tap), targets_BT))
            count += int((targets_BT != IGNORE).sum())
    return total / count


def held_out_tokens(run: Run, tokens: int = HELD_OUT_TOKENS) -> Batches:
    """About so many tokens of the side that training never saw, spread over it."""
    everything = list(held_out_batches(run.corpus().held_out, run.tokenizer, run.config.model.context_length)())
    share = max(1, sum(batch.numel() for batch, _, _ in everything) // tokens)
    return [(tokens_BT[::share], targets_BT[::share]) for tokens_BT, targets_BT, _ in everything]


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
    Raises ValueError for prompts of different lengths, or a name that has no such rows.
    """
    subject = subject_of(who, step)
    views = [View(subject, encode(subject, text, chat)) for text in (clean, corrupted)]
    here, other = views
    if len(here.ids) != len(other.ids):
        words = " and ".join(f"{len(view.ids)} ({' '.join(view.tokens)})" for view in views)
        raise ValueError(f"the two prompts need as many tokens, not {words}; reword one")
    ids = [token_id(subject.tokenizer, t) for t in (token, minus) if t is not None]

    def followed(logits_BTV: Tensor) -> Tensor:
        chosen_B = logits_BTV[:, position, ids[0]]
        return chosen_B - logits_BTV[:, position, ids[1]] if minus is not None else chosen_B

    rows = []
    for layer in range(subject.model.config.n_layers):
        at = f"blocks.{layer}.{name}"
        if name.endswith(("hook_attn_scores", "hook_pattern")):
            raise ValueError(f"{at} has no row for each position; patch hook_z, hook_resid_pre or the like")
        rows.append(torch.cat([followed(x) for x in _patched(other, at, here[at])]))
    words = " minus ".join(repr(subject.tokenizer.token_text(i)) for i in ids)
    ends = [float(followed(view.logits_TV[None])) for view in views]
    return PatchGrid(f"logit of {words}", here.tokens, other.tokens, torch.stack(rows), *ends)


@torch.no_grad()
def _patched(view: View, name: str, source: Tensor) -> Iterable[Tensor]:
    """Logits of the view's text with one position at `name` taken from `source`: a row for each, AT_ONCE a pass."""
    ids_T = torch.tensor(view.ids, device=source.device)
    for first in range(0, len(view.ids), AT_ONCE):
        positions_B = torch.arange(first, min(first + AT_ONCE, len(view.ids)))

        def tap(at: str, tensor: Tensor, positions_B: Tensor = positions_B) -> Tensor:
            if at == name:
                tensor = tensor.clone()
                tensor[torch.arange(len(positions_B)), positions_B] = source[positions_B]
            return tensor

        with evaluating(view.model):
            yield view.model(ids_T.expand(len(positions_B), -1), tap=tap)


def _one_row(ids: Sequence[int]) -> Batches:
    if len(ids) < 2:
        raise ValueError("a text of one token has no loss; give a longer one")
    row = torch.tensor([ids])
    return [(row[:, :-1], row[:, 1:])]
