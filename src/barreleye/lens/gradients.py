"""Which tokens of the prompt an answer hangs on, by gradients.

T time (position), C channels (`d_model`), N steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from barreleye.lens.subject import check_positive
from barreleye.lens.view import View, evaluating

STEPS = 64
AT_ONCE = 8  # steps in one pass


@dataclass(frozen=True)
class Saliency:
    """What each token of the prompt did for a logit. scores_T: one number for each. of: which logit, in words.

    gap: for integrated gradients, by how much the scores miss the logit less that of the baseline, which is their sum
    in the limit of many steps.
    """

    of: str
    tokens: list[str]
    scores_T: Tensor
    gap: float | None = None


def gradient_x_input(view: View, token: str | int, minus: str | int | None = None, position: int = -1) -> Saliency:
    """The gradient of the logit of `token` after `position`, or of that logit less the one of `minus`, with respect to
    each token's embedding, times that embedding: to first order, what its being there adds (Denil et al. 2014)."""
    gradient_TC = view.gradient("hook_embed", token, minus, position)
    scores_T = (gradient_TC * view["hook_embed"]).sum(-1)
    return Saliency(view.target(token, minus, position).of, view.tokens, scores_T)


def integrated_gradients(
    view: View, token: str | int, minus: str | int | None = None, position: int = -1, steps: int = STEPS
) -> Saliency:
    """The same along the straight way from a prompt of nothing in particular, each token the mean embedding of the
    vocabulary, to this one (Sundararajan et al. 2017), at the middles of `steps` equal parts.

    Zero is no baseline here: a norm makes vectors of any size equally long, so that all would change in the first step.
    """
    check_positive("steps", steps)
    target, model = view.target(token, minus, position), view.model
    actual_TC = view["hook_embed"]
    nothing_TC = model.embed.weight.detach().mean(0).expand_as(actual_TC)
    middles_N = (torch.arange(steps, device=actual_TC.device) + 0.5) / steps
    sum_TC = torch.zeros_like(actual_TC)
    for at_N in middles_N.split(AT_ONCE):
        embed_NTC = torch.lerp(nothing_TC, actual_TC, at_N[:, None, None].to(actual_TC.dtype)).requires_grad_()
        with torch.enable_grad():
            logit = target(logits_from(view, embed_NTC)).sum()
            sum_TC += torch.autograd.grad(logit, embed_NTC)[0].sum(0)
    scores_T = (sum_TC / steps * (actual_TC - nothing_TC)).sum(-1)
    with torch.no_grad():
        nothing, actual = target(logits_from(view, torch.stack([nothing_TC, actual_TC])))
    return Saliency(target.of, view.tokens, scores_T, float(actual - nothing) - float(scores_T.sum()))


def logits_from(view: View, embed_NTC: Tensor) -> Tensor:
    """The logits of the view's pass with other embeddings, shape (N, T, V)."""

    def tap(name: str, tensor: Tensor) -> Tensor:
        return embed_NTC if name == "hook_embed" else view.tap(name, tensor)

    ids_NT = torch.tensor([view.ids], device=embed_NTC.device).expand(len(embed_NTC), -1)
    with evaluating(view.model):
        return view.model(ids_NT, tap=tap)
