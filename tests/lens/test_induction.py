"""The head that makes a model go on with what was said before appears when the model begins to do so."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from barreleye.lens.attention import MOST

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from induction import watch

pytestmark = pytest.mark.slow


def test_an_induction_head_is_found_at_the_step_where_the_in_context_loss_drops() -> None:
    moments = watch(layers=2, steps=400)
    falls = {b.step: a.repeated - b.repeated for a, b in pairwise(moments)}
    rises = {b.step: b.induction[1] - a.induction[1] for a, b in pairwise(moments)}
    dropped = max(falls, key=falls.__getitem__)
    assert abs(dropped - max(rises, key=rises.__getitem__)) <= 25
    before = [moment for moment in moments if moment.step < dropped - 50]
    after = [moment for moment in moments if moment.step > dropped]
    assert len(before) > 4 and all(m.repeated > 2.4 and max(m.induction) < 0.2 for m in before)
    assert len(after) > 2 and all(m.repeated < 0.8 and m.induction[1] >= MOST for m in after)
    assert all(moment.induction[0] < 0.2 for moment in moments)  # it reads what a head of the layer before it wrote


def test_one_layer_has_none() -> None:
    moments = watch(layers=1, steps=400)
    assert all(moment.induction[0] < 0.2 for moment in moments)
    assert moments[-1].repeated > 2.4
