"""Cross-entropy that makes its gradient while it is at the probabilities: half the memory traffic of the library's."""

from typing import Any

import torch
from torch import Tensor

from barreleye.data.batches import IGNORE

AT_ONCE = 2**18  # logits, so that what is made of them stays in the processor's cache


def summed_cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """The summed loss in nats over the targets that are not IGNORE, as a float32 scalar; logits of any precision."""
    loss: Tensor = _SummedCrossEntropy.apply(logits_BTV.flatten(0, 1), targets_BT.flatten())
    return loss


def rows_at_once(logits_NV: Tensor) -> int:
    return max(1, AT_ONCE // logits_NV.shape[-1] if logits_NV.device.type == "cpu" else len(logits_NV))


class _SummedCrossEntropy(torch.autograd.Function):
    """The gradient with respect to the logits is softmax(logits) - onehot(target), once for each learned target."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        learned_N1 = (targets_N != IGNORE)[:, None]
        targets_N1 = targets_N.clamp(min=0)[:, None]
        gradient_NV, losses = torch.empty_like(logits_NV), []
        for logits_KV, targets_K1, learned_K1, gradient_KV in zip(
            *(x.split(rows_at_once(logits_NV)) for x in (logits_NV, targets_N1, learned_N1, gradient_NV)), strict=True
        ):
            log_p_KV = torch.log_softmax(logits_KV, -1, dtype=torch.float32)
            losses.append((log_p_KV.gather(-1, targets_K1) * learned_K1).sum())
            p_KV = log_p_KV.exp_().mul_(learned_K1)
            gradient_KV.copy_(p_KV.scatter_add_(-1, targets_K1, -learned_K1.to(p_KV.dtype)))
        ctx.save_for_backward(gradient_NV)
        return -torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient_NV,) = ctx.saved_tensors
        # float16 would make infinity of the factor that a gradient scaler begins with.
        wide_NV = gradient_NV.float() if gradient_NV.dtype is torch.float16 else gradient_NV
        return (wide_NV * upstream.to(wide_NV.dtype)).to(gradient_NV.dtype), None
