"""Muon (Jordan et al. 2024): momentum, made orthogonal, so that every direction of a matrix moves equally far.

L matrices of one shape, M rows, N columns, K the smaller of both.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5: Jordan's, steep at 0 and near 1 from 0.7 to 1.2
STEPS = 4  # fewer leave small directions small; more go wrong in bfloat16, as the Gram matrix is squared each time
TINY = 1e-7  # keeps a norm of zero from dividing


class Muon(Optimizer):
    """For matrices alone. lr: the spectral norm of a step of a square matrix. weight_decay: times lr, the share of the
    weights that a step takes off, as AdamW does (Liu et al. 2025, Moonlight)."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.dtype = dtype  # of the matrix products: bfloat16 where the hardware multiplies it

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            learning = [weight for weight in group["params"] if weight.grad is not None]
            for shape in dict.fromkeys(weight.shape for weight in learning):
                # Those of one shape, mostly one of each layer, together: a quarter of the operations to call.
                weights = [weight for weight in learning if weight.shape == shape]
                nesterov_LMN = torch.stack([self._nesterov(weight, group["momentum"]) for weight in weights])
                rate = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                for weight, update_MN in zip(weights, orthogonal(nesterov_LMN, self.dtype), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update_MN, alpha=-rate)

    def _nesterov(self, weight: Tensor, momentum: float) -> Tensor:
        """The momentum as it will be after one more gradient like this one."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        moved = state["momentum"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(moved, momentum)


def orthogonal(matrix_LMN: Tensor, dtype: torch.dtype) -> Tensor:
    """Nearly the orthogonal matrix U V^T of each matrix U S V^T: singular values between about 0.7 and 1.2, but for
    those below a two-hundredth of the Frobenius norm, which grow 141 times at most.

    Each step of Newton-Schulz multiplies X by a polynomial of its Gram matrix: X X^T, or from the right X^T X where
    that is the smaller. Those polynomials commute, so they are multiplied with each other first, all small and square,
    and touch X once at the end.
    """
    # Scaled before it is rounded: half precision would make a small gradient zero.
    x_LMN = (matrix_LMN / (matrix_LMN.norm(dim=(1, 2), keepdim=True) * 1.01 + TINY)).to(dtype)
    tall = matrix_LMN.shape[1] > matrix_LMN.shape[2]
    gram_LKK = x_LMN.mT @ x_LMN if tall else x_LMN @ x_LMN.mT
    product_LKK = None
    a, b, c = POLYNOMIAL
    for step in range(STEPS):
        factor_LKK = torch.baddbmm(gram_LKK, gram_LKK, gram_LKK, beta=b, alpha=c)
        factor_LKK.diagonal(dim1=1, dim2=2).add_(a)
        product_LKK = factor_LKK if product_LKK is None else factor_LKK @ product_LKK
        if step + 1 < STEPS:
            gram_LKK = factor_LKK @ (factor_LKK @ gram_LKK)  # of the X that the factor makes
    return x_LMN @ product_LKK if tall else product_LKK @ x_LMN
