import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from barreleye.data.batches import IGNORE
from barreleye.lens import sweeps
from barreleye.lens.edits import edit, mean, replace, zero
from barreleye.lens.sweeps import ablate, ablate_on, mean_loss, patch_grid
from barreleye.lens.view import look

sys.path.insert(0, str(Path(__file__).parent))
from subjects import LETTERS, OTHER, PRESETS, TEXT, subject


@PRESETS
@pytest.mark.parametrize("change", [zero, mean])
def test_ablation_is_each_edit_in_turn(variant: dict[str, Any], change: Any) -> None:
    who = subject(**variant)
    found = ablate(who, TEXT, change)
    assert found.loss == pytest.approx(look(who, TEXT).loss, abs=1e-5) and found.tokens == len(TEXT) - 1
    assert found.heads_LH.shape == (2, 4) and found.mlps_L.shape == (2 if variant.get("d_ff", 64) else 0,)
    # The last token is only a target there, so what its position would add to a mean is not in it.
    ids = LETTERS.encode(TEXT)
    shorter = edit(who, ids[:-1], {"blocks.1.attn.hook_z[head=2]": change})
    losses = -shorter.logits_TV.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
    assert float(found.heads_LH[1, 2]) == pytest.approx(float(losses.mean()) - found.loss, abs=1e-5)


def test_a_head_that_does_nothing_costs_nothing() -> None:
    who = subject()
    with torch.no_grad():
        who.model.blocks[0].attn.out.weight[:, 8:16] = 0
    found = ablate(who, TEXT)
    assert found.heads_LH[0, 1] == 0 and (found.heads_LH[1].abs() > 1e-4).all()


def test_padding_is_not_counted() -> None:
    model = subject().model
    ids = torch.tensor([LETTERS.encode(TEXT)])
    row = [(ids[:, :-1], ids[:, 1:])]
    padded = [(torch.cat([x, torch.zeros(1, 3, dtype=torch.long)], 1), torch.cat([y, torch.full((1, 3), IGNORE)], 1))
              for x, y in row]  # fmt: skip
    assert mean_loss(model, padded) == pytest.approx(mean_loss(model, row), rel=1e-5)
    assert ablate_on(model, padded).tokens == len(TEXT) - 1


def test_a_model_without_a_run_needs_a_text() -> None:
    with pytest.raises(ValueError, match="only a run has held-out text"):
        ablate(subject())
    with pytest.raises(ValueError, match="one token"):
        ablate(subject(), "a")


@PRESETS
def test_a_patch_grid_is_each_patch_in_turn(variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "AT_ONCE", 4)
    who = subject(**variant)
    grid = patch_grid(who, TEXT, OTHER, "c", "d")
    clean, corrupted = look(who, TEXT), look(who, OTHER)
    for layer, position in [(0, 0), (0, 9), (1, 4), (1, 9)]:
        address = f"blocks.{layer}.hook_resid_pre[position={position}]"
        logits = edit(who, OTHER, {address: replace(clean)}).logits_TV[-1]
        assert float(grid.logits_LT[layer, position]) == pytest.approx(float(logits[2] - logits[3]), abs=1e-4)
    assert grid.corrupted == pytest.approx(float(corrupted.logits_TV[-1, 2] - corrupted.logits_TV[-1, 3]), abs=1e-5)
    changed = [i for i, (a, b) in enumerate(zip(TEXT, OTHER, strict=True)) if a != b]
    same = [i for i in range(len(TEXT)) if i not in changed]
    assert grid.recovered_LT[0, same].abs().max() < 1e-4  # the same embedding is put where it was
    assert grid.recovered_LT[0, changed].abs().max() > 1e-3
    assert grid.recovered_LT.shape == (2, len(TEXT)) and grid.of == "logit of 'c' minus 'd'"


def test_the_last_position_of_the_last_sublayers_is_all_there_is() -> None:
    who = subject(n_layers=1)
    grids = [patch_grid(who, TEXT, OTHER, "c", name=name) for name in ("hook_attn_out", "attn.hook_z")]
    torch.testing.assert_close(grids[0].logits_LT, grids[1].logits_LT)
    assert not (grids[0].recovered_LT[0, :-1].abs() > 1e-5).any()


@pytest.mark.parametrize(
    ("corrupted", "name", "says"),
    [
        ("abc", "hook_resid_pre", "as many tokens, not 10 .* and 3 "),
        (OTHER, "attn.hook_pattern", "no row for each position"),
        (OTHER, "hook_resid_pr", "did you mean"),
    ],
)
def test_what_cannot_be_patched_is_refused(corrupted: str, name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        patch_grid(subject(), TEXT, corrupted, "c", name=name)
