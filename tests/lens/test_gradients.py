import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from barreleye.lens.edits import edit, zero
from barreleye.lens.gradients import gradient_x_input, integrated_gradients
from barreleye.lens.subject import Subject
from barreleye.lens.view import look

sys.path.insert(0, str(Path(__file__).parent))
from subjects import LETTERS, PRESETS, TEXT, subject


@PRESETS
def test_gradient_x_input_is_the_slope_of_a_token_growing(variant: dict[str, Any]) -> None:
    who = Subject(subject(**variant).model.double(), LETTERS)
    view = look(who, TEXT)
    found = gradient_x_input(view, "c", position=6)
    for t in (0, 4, 6, 8):

        def logit(by: float, t: int = t) -> float:
            def tap(name: str, x: torch.Tensor) -> torch.Tensor:
                factor = torch.ones(len(TEXT), 1, dtype=x.dtype)
                factor[t] += by
                return x * factor if name == "hook_embed" else x

            with torch.no_grad():
                return float(who.model(torch.tensor([view.ids]), tap=tap)[0, 6, 2])

        assert float(found.scores_T[t]) == pytest.approx((logit(1e-6) - logit(-1e-6)) / 2e-6, rel=1e-3, abs=1e-8)
    assert not found.scores_T[7:].any()  # what comes later has no say
    assert found.of == "logit of 'c' after 'a' (position 6)"


@PRESETS
def test_integrated_gradients_sum_to_what_the_prompt_adds(variant: dict[str, Any]) -> None:
    view = look(subject(**variant), TEXT)
    found = integrated_gradients(view, "c", steps=512)
    with torch.no_grad():
        baseline = view.model.embed.weight.mean(0).expand(len(TEXT), -1)
        nothing = view.model(
            torch.tensor([view.ids]), tap=lambda name, x: baseline[None] if name == "hook_embed" else x
        )[0, -1, 2]
    rise = float(view.logits_TV[-1, 2] - nothing)
    size = float(found.scores_T.abs().sum())
    assert size > 0.05
    assert float(found.scores_T.sum()) == pytest.approx(rise, abs=0.005 * size)
    assert found.gap == pytest.approx(rise - float(found.scores_T.sum()), abs=1e-4)


def test_saliency_of_a_logit_difference_is_the_difference() -> None:
    view = look(subject(), TEXT)
    for saliency in (gradient_x_input, integrated_gradients):
        one, other, both = saliency(view, "c", position=6), saliency(view, "d", position=6), saliency(view, "c", "d", 6)
        torch.testing.assert_close(both.scores_T, one.scores_T - other.scores_T, atol=1e-4, rtol=1e-3)
        assert both.of == "logit of 'c' minus 'd' after 'a' (position 6)"


def test_what_cannot_be_integrated_is_refused() -> None:
    view = look(subject(), TEXT)
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        integrated_gradients(view, "c", steps=0)
    with pytest.raises(ValueError, match="there is no position 10; there are 0 to 9"):
        integrated_gradients(view, "c", position=10)


def test_saliency_is_of_the_edited_pass() -> None:
    who = subject()
    deaf = {"blocks.*.hook_attn_out": zero}
    view = edit(who, TEXT, deaf)
    for saliency in (gradient_x_input, integrated_gradients):
        scores = saliency(view, "c").scores_T
        assert not scores[:-1].any() and scores[-1]
