import pytest
import torch
from torch import nn

from barreleye.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(48, 48), (48, 160), (160, 48), (1, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_become_about_equal_and_directions_stay(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    u, s, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    s = torch.linspace(1.0, 0.1, len(s))
    result = orthogonal((u * s @ vt)[None], dtype)[0].float()
    assert result.shape == shape
    turned = u.T @ result @ vt.T  # diagonal, if the directions stayed
    assert turned.diagonal().min() > 0.6 and turned.diagonal().max() < 1.3
    assert (turned - turned.diagonal().diag()).abs().max() < (0.05 if dtype is torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (20, 20)])
def test_it_is_newton_schulz_in_another_order(shape: tuple[int, int]) -> None:
    """The polynomials applied to X one after the other, as they are written in the paper."""
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    x = matrix / (matrix.norm() * 1.01 + 1e-7)
    for _ in range(4):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    assert torch.allclose(orthogonal(matrix[None], torch.float64)[0], x, atol=1e-10)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-2])
def test_a_gradient_of_rank_one_does_not_explode_in_half_precision(noise: float) -> None:
    torch.manual_seed(0)
    matrix = torch.outer(torch.randn(384), torch.randn(384)) + noise * torch.randn(384, 384)
    assert torch.linalg.matrix_norm(orthogonal(matrix[None], torch.bfloat16).float(), 2) < 2


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_matrices_of_one_shape_do_not_mix(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    large, small = 1e3 * torch.randn(shape), 1e-3 * torch.randn(shape)
    both = orthogonal(torch.stack([large, small]), torch.float32)
    assert torch.allclose(both[0], orthogonal(large[None], torch.float32)[0], atol=1e-5)
    assert torch.allclose(both[1], orthogonal(small[None], torch.float32)[0], atol=1e-5)


def test_directions_of_hardly_any_gradient_stay_small() -> None:
    result = orthogonal(torch.diag(torch.tensor([1.0, 1 / 150, 1e-3]))[None], torch.float64)[0]
    assert result.diagonal()[:2].min() > 0.67
    assert result[2, 2] == pytest.approx(1e-3 * 3.4445**4, rel=0.02)


def test_zeros_stay_zeros() -> None:
    assert not orthogonal(torch.zeros(2, 4, 6), torch.float32).any()


def test_a_step_is_as_long_as_the_rate_says_whatever_the_gradient() -> None:
    torch.manual_seed(0)
    tall, wide, unused = (nn.Parameter(torch.zeros(shape)) for shape in ((40, 10), (10, 40), (3, 3)))
    optimizer = Muon([tall, wide, unused], lr=0.1, momentum=0.95, weight_decay=0.0, dtype=torch.float32)
    for weight in (tall, wide):
        weight.grad = 1e-6 * torch.randn(weight.shape)
    optimizer.step()
    assert 0.1 * 2 * 0.6 < torch.linalg.matrix_norm(tall.detach(), 2) < 0.1 * 2 * 1.3  # times sqrt(rows / columns)
    assert 0.1 * 0.6 < torch.linalg.matrix_norm(wide.detach(), 2) < 0.1 * 1.3
    assert not unused.any()
