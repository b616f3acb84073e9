"""Muon (Jordan et al. 2024): momentum, made orthogonal, so that every direction of a matrix moves equally far."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5: Jordan's, steep at 0 and near 1 from 0.7 to 1.2
STEPS = 4  # fewer leave small directions small; more go wrong in bfloat16, as the Gram matrix is squared each time
TINY = 1e-7  # keeps a norm of zero from dividing


class Muon(Optimizer):
    """For matrices alone. lr: the spectral norm of a step of a square matrix."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, dtype: torch.dtype) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum))
        self.dtype = dtype  # of the matrix products: bfloat16 where the hardware multiplies it

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                nesterov = weight.grad.lerp(momentum, group["momentum"])
                rows, columns = weight.shape
                scaled = nesterov / (nesterov.norm() + TINY)  # first, or half precision would round a small one to zero
                weight.add_(orthogonal(scaled.to(self.dtype)), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def orthogonal(matrix_MN: Tensor) -> Tensor:
    """Nearly the orthogonal matrix U V^T of a matrix U S V^T: singular values between about 0.7 and 1.2.

    Each step of Newton-Schulz multiplies X by a polynomial of its Gram matrix X X^T. Those polynomials commute, so for
    wide matrices they are multiplied with each other first, all small and square, and touch X once at the end.
    """
    if matrix_MN.shape[0] > matrix_MN.shape[1]:
        return orthogonal(matrix_MN.T).T
    x_MN = matrix_MN / (matrix_MN.norm() * 1.01 + TINY)
    gram_MM = x_MN @ x_MN.T
    product_MM = None
    a, b, c = POLYNOMIAL
    for _ in range(STEPS):
        factor_MM = torch.addmm(gram_MM, gram_MM, gram_MM, beta=b, alpha=c)
        factor_MM.diagonal().add_(a)
        product_MM = factor_MM if product_MM is None else factor_MM @ product_MM
        gram_MM = factor_MM @ (factor_MM @ gram_MM)  # of the X that the factor makes
    return product_MM @ x_MN
