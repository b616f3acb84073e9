from pathlib import Path
from typing import Any

import pytest
import torch

from barreleye.lens.edits import edit, zero
from barreleye.lens.timeline import diff, timeline
from barreleye.lens.view import look
from barreleye.run import Run
from barreleye.training.grow import grow

TEXT = "".join(f"{n} fish in the {'deep' if n % 2 else 'dark'} sea, {n * 7 % 10} come back.\n" for n in range(60))
TINY: dict[str, Any] = dict(
    n_layers=2, n_heads=2, d_model=32, d_ff=64, context_length=32, batch_tokens=128, device="cpu", threads=1,
    quiet=True, eval_every=1000, sample_every=1000, record_every=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "sea.txt").write_text(TEXT)
    return grow(text=folder / "sea.txt", out=folder / "r", steps=40, warmup_steps=5, **TINY)


ASKED = "3 fish in the deep"


def test_a_timeline_asks_each_snapshot(run: Run) -> None:
    found = timeline(run, ASKED, lambda view: view.logits_TV[-1])
    assert list(found) == run.snapshots() and len(found) == 20
    for step in (0, 4, 40):
        assert torch.equal(found[step], look(run, ASKED, step).logits_TV[-1])
    sure = {step: float(logits.softmax(-1)[run.tokenizer.encode(" ")[0]]) for step, logits in found.items()}
    assert sure[0] < 0.1 < 0.2 < sure[40]  # it has learned that a word ends here


def test_what_a_timeline_found_stays_what_it_was(run: Run) -> None:
    """A view asks its model again for what it does not hold, and positions are a part of the model."""
    views = timeline(run, ASKED, lambda view: view, names="hook_pos_embed")
    for step in (0, 4, 40):
        then = look(run, ASKED, step)
        for name in ("hook_pos_embed", "blocks.0.attn.hook_result", "blocks.1.hook_resid_pre_grad"):
            assert torch.equal(views[step][name], then[name]), (step, name)
        names = [[name for name, _ in view.model.named_parameters()] for view in (views[step], then)]
        assert names[0] == names[1]  # the embedding is the output head in both


def test_a_timeline_under_edits_and_by_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path.parent)
    edits = {"blocks.0.hook_mlp_out": zero}
    found = timeline("r", ASKED, lambda view: view.loss, edits)
    assert found[40] == edit("r", ASKED, edits, step=40).loss != look("r", ASKED, step=40).loss


def test_a_run_without_snapshots_has_no_timeline(run: Run, tmp_path: Path) -> None:
    bare = grow(text=run.path.parent / "sea.txt", out=tmp_path / "r", steps=2, snapshots=0, **TINY)
    assert not (bare.path / "snapshots").exists()
    with pytest.raises(ValueError, match="kept no snapshots; train it with --snapshots 20"):
        timeline(bare, ASKED, lambda view: 0)
    with pytest.raises(ValueError, match="only a run has snapshots"):
        timeline((run.load_model(), run.tokenizer), ASKED, lambda view: 0)


def test_two_steps_differ_where_it_learned(run: Run) -> None:
    changes = diff(run, 0, 40)
    assert [c.relative for c in changes] == sorted((c.relative for c in changes), reverse=True)
    names = {name for name, _ in run.load_model().named_parameters()}
    assert {c.name for c in changes} == names
    zero_at_first = {c.name: c for c in changes}["blocks.0.attn.out.weight"]
    assert zero_at_first.norm_a == 0 and zero_at_first.relative == pytest.approx(2)
    a, b = run.load_model(step=0).state_dict(), run.load_model(step=40).state_dict()
    for change in changes:
        one, other = a[change.name], b[change.name]
        expected = (other - one).norm() / (one.norm() + other.norm()) * 2
        assert change.relative == pytest.approx(float(expected), rel=1e-5)
    assert all(c.relative == 0 for c in diff(run, 4, 4))


def test_two_steps_differ_in_what_they_do_on_a_text(run: Run) -> None:
    found = diff(run, 0, 40, text=ASKED)
    one, other = look(run, ASKED, 0), look(run, ASKED, 40)
    assert {each.name for each in found} == set(one.shapes)
    assert [each.relative for each in found] == sorted((each.relative for each in found), reverse=True)
    by_name = {each.name: each for each in found}
    a, b = (view["blocks.1.attn.hook_z"] for view in (one, other))
    expected = float((b - a).norm() / (a.norm() + b.norm()) * 2)
    assert by_name["blocks.1.attn.hook_z"].relative == pytest.approx(expected, rel=1e-4)
    assert 0 < by_name["blocks.0.attn.hook_attn_scores"].relative < 2  # where nothing is hidden from both
    assert all(each.relative == 0 for each in diff(run, 4, 4, text=ASKED))


def test_two_runs_differ(run: Run, tmp_path: Path) -> None:
    other = grow(text=run.path.parent / "sea.txt", out=tmp_path / "r", steps=2, seed=5, **TINY)
    changes = diff(run, other)
    assert changes[0].relative > 0.5 and all(c.relative == 0 for c in diff(str(run.path), run))
    wider = grow(text=run.path.parent / "sea.txt", out=tmp_path / "w", steps=0, **(TINY | {"d_ff": 96}))
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.\S+ is \(.*compare models of one shape"):
        diff(run, wider)


def test_what_diff_cannot_compare(run: Run) -> None:
    with pytest.raises(ValueError, match="give diff two runs, or a run and two of its steps"):
        diff(run, 4)
    with pytest.raises(ValueError, match="give diff two runs, or a run and two of its steps"):
        diff(run, run, 4)
    with pytest.raises(ValueError, match=r"no snapshot of step 5000; choose one of those kept: 0, 1, 2, "):
        diff(run, 0, 5000)
