import pytest
import torch
import torch.nn.functional as F

from barreleye.data.batches import IGNORE
from barreleye.training import loss as loss_module
from barreleye.training.loss import summed_cross_entropy


@pytest.mark.parametrize("at_once", [1, 11, 50, 2**18])  # logits: a row at a time, also uneven pieces, all rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_those_of_the_library(
    dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "AT_ONCE", at_once)
    torch.manual_seed(0)
    logits = (4 * torch.randn(3, 5, 11)).to(dtype)
    targets = torch.randint(11, (3, 5))
    targets[0, 2:] = IGNORE
    mine, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = summed_cross_entropy(mine, targets)
    expected = F.cross_entropy(theirs.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    (7 * loss).backward()
    (7 * expected).backward()
    assert loss.dtype == torch.float32 and torch.allclose(loss, expected, rtol=1e-6)
    assert torch.allclose(mine.grad.float(), theirs.grad.float(), atol=0.05 if dtype is torch.bfloat16 else 1e-5)
    assert not mine.grad[0, 2:].any()
    assert torch.equal(mine, logits)  # nothing was computed in place


def test_what_is_not_a_number_is_not_hidden() -> None:
    logits = torch.zeros(1, 2, 3)
    logits[0, 0, 0] = torch.nan
    assert summed_cross_entropy(logits, torch.tensor([[0, 1]])).isnan()


def test_nothing_to_learn_is_no_loss() -> None:
    assert summed_cross_entropy(torch.randn(1, 2, 3), torch.full((1, 2), IGNORE)) == 0
