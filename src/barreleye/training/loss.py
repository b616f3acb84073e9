"""Cross-entropy that makes its gradient while it is at the probabilities: half the memory traffic of the library's."""

from typing import Any

import torch
from torch import Tensor

from barreleye.data.batches import IGNORE


def summed_cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """The summed loss in nats over the targets that are not IGNORE, as a float32 scalar; logits of any precision."""
    loss: Tensor = _SummedCrossEntropy.apply(logits_BTV.flatten(0, 1), targets_BT.flatten())
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    """The gradient with respect to the logits is softmax(logits) - onehot(target), once for each learned target."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        learned_N1 = (targets_N != IGNORE)[:, None]
        targets_N1 = targets_N.clamp(min=0)[:, None]
        log_p_NV = torch.log_softmax(logits_NV, -1, dtype=torch.float32)
        loss = -(log_p_NV.gather(-1, targets_N1) * learned_N1).sum()
        gradient_NV = log_p_NV.exp_().mul_(learned_N1)
        gradient_NV.scatter_add_(-1, targets_N1, -learned_N1.to(gradient_NV.dtype))
        ctx.save_for_backward(gradient_NV.to(logits_NV.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient_NV,) = ctx.saved_tensors
        # float16 would make infinity of the factor that a gradient scaler begins with.
        wide_NV = gradient_NV.float() if gradient_NV.dtype is torch.float16 else gradient_NV
        return (wide_NV * upstream.to(wide_NV.dtype)).to(gradient_NV.dtype), None
