import contextlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from barreleye.data.batches import IGNORE
from barreleye.lens import sweeps
from barreleye.lens.edits import EditTap, edit, mean, replace, zero
from barreleye.lens.neurons import collect
from barreleye.lens.sweeps import ablate, ablate_on, held_out_tokens, mean_loss, mean_outputs, patch_grid
from barreleye.lens.view import look
from barreleye.run import Run
from barreleye.training.grow import grow
from barreleye.training.material import held_out_batches

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
    rises = {}
    for at in ["blocks.1.attn.hook_z[head=2]", *(f"blocks.{i}.hook_mlp_out" for i in range(len(found.mlps_L)))]:
        shorter = edit(who, ids[:-1], {at: change})
        losses = -shorter.logits_TV.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
        rises[at] = pytest.approx(float(losses.mean()) - found.loss, abs=1e-5)
    assert [float(found.heads_LH[1, 2]), *found.mlps_L.tolist()] == [*rises.values()]


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
    here, there = ablate_on(model, row, mean), ablate_on(model, padded, mean)
    torch.testing.assert_close(here.heads_LH, there.heads_LH, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(here.mlps_L, there.mlps_L, atol=1e-5, rtol=1e-4)


def test_the_mean_is_that_of_all_batches() -> None:
    """A text of its own row or batch has no say of its own in what stands for a head."""
    model = subject().model
    rows = torch.tensor([LETTERS.encode(TEXT), LETTERS.encode(OTHER)])
    together = ablate_on(model, [(rows[:, :-1], rows[:, 1:])], mean)
    apart = ablate_on(model, [(row[None, :-1], row[None, 1:]) for row in rows], mean)
    torch.testing.assert_close(together.heads_LH, apart.heads_LH, atol=1e-5, rtol=1e-4)
    z = torch.cat([look(subject(), row[:-1])["blocks.1.attn.hook_z"] for row in rows])
    edits = {"blocks.1.attn.hook_z[head=2]": replace(z.mean(0)[2])}
    losses = [mean_loss(model, [(row[None, :-1], row[None, 1:])], EditTap(model, edits)) for row in rows]
    assert float(together.heads_LH[1, 2]) == pytest.approx(sum(losses) / 2 - together.loss, abs=1e-5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("grown")
    shape: dict[str, Any] = dict(n_layers=1, n_heads=2, d_model=16, d_ff=24, context_length=32, steps=0, quiet=True)
    shape |= dict(preset="tiny", batch_tokens=64, device="cpu", threads=1, precision="float32", vocab=300)
    (folder / "sea.txt").write_text("".join(f"the fish {n} swam by\n" for n in range(9000)))
    turns = [[("user", f"what of {n}?"), ("assistant", f"{n} fish " * (1 + n % 4))] for n in range(6000)]
    chats = [{"messages": [{"role": role, "content": content} for role, content in chat]} for chat in turns]
    (folder / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    return {
        "text": grow(text=str(folder / "sea.txt"), out=folder / "text", **shape),
        "chats": grow(chats=str(folder / "chats.jsonl"), out=folder / "chats", **shape),
    }


@pytest.mark.parametrize("kind", ["text", "chats"])
def test_as_many_held_out_tokens_are_read_as_told_spread_over_all(runs: dict[str, Run], kind: str) -> None:
    run = runs[kind]
    everything = [*held_out_batches(run.corpus().held_out, run.tokenizer, 32)()]
    rows = [tuple(row) for tokens, _, _ in everything for row in tokens.tolist()]
    lengths = torch.tensor([int((row != IGNORE).sum()) for _, targets, _ in everything for row in targets])
    assert lengths.sum() > 6000
    for asked in (100, 1000, 4096):
        found = held_out_tokens(run, asked)
        read = sum(int((targets != IGNORE).sum()) for _, targets in found)
        assert asked <= read < asked + 32
        chosen = [tuple(row) for tokens, _ in found for row in tokens.tolist()]
        assert read / len(chosen) == pytest.approx(float(lengths.float().mean()), rel=0.25)  # long and short alike
        if kind == "text":  # whose rows differ
            at = [rows.index(row) for row in chosen]
            assert at == sorted(set(at))
            assert max(b - a for a, b in itertools.pairwise([*at, len(rows)])) <= 3 * len(rows) / len(at)
    assert sum(tokens.shape[0] for tokens, _ in held_out_tokens(run, 10**9)) == len(rows)
    assert ablate(run).tokens == sum(int((targets != IGNORE).sum()) for _, targets in held_out_tokens(run))


def test_batches_go_where_the_model_is() -> None:
    """A model of no device shows where its tokens arrive, on a machine that has but one."""
    model, arrived = subject().model.to("meta"), []
    model.register_forward_pre_hook(lambda module, given: arrived.append(given[0].device.type))
    rows = [(torch.tensor([[1, 2]]), torch.tensor([[2, 3]]))]
    for reads in (collect, mean_loss, mean_outputs):
        with contextlib.suppress(NotImplementedError, RuntimeError):
            reads(model, rows)
    assert set(arrived) == {"meta"}


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
    assert grid.recovered_LT.shape == (2, len(TEXT)) and grid.of == "logit of 'c' minus 'd' after 'q' (position 9)"


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
        (OTHER, "hook_resid_*", "no 'blocks.0.hook_resid_\\*' to be patched"),
        (OTHER, "attn.hook_result", "to be patched; did you mean"),
        (OTHER, "hook_resid_pre_grad", "to be patched; did you mean"),
        (OTHER, "hook_resid_pre[position=3]", "to be patched; did you mean"),
        (TEXT, "hook_resid_pre", "the two prompts give the same logit of 'c' after 'q'"),
    ],
)
def test_what_cannot_be_patched_is_refused(corrupted: str, name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        patch_grid(subject(), TEXT, corrupted, "c", name=name)
