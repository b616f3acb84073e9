from pathlib import Path
from typing import Any

import pytest
import torch

from barreleye.lens.timeline import diff, timeline
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


def test_a_timeline_asks_each_snapshot(run: Run) -> None:
    tokens_BT = torch.tensor([run.tokenizer.encode("3 fish in the deep")])

    def last_logits(model: torch.nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return model(tokens_BT)[0, -1]  # type: ignore[no-any-return]

    found = timeline(run, last_logits)
    assert list(found) == run.snapshots() and len(found) == 20
    for step in (0, 4, 40):
        assert torch.equal(found[step], last_logits(run.load_model(step=step)))
    sure = {step: float(logits.softmax(-1)[run.tokenizer.encode(" ")[0]]) for step, logits in found.items()}
    assert sure[0] < 0.1 < 0.2 < sure[40]  # it has learned that a word ends here


def test_a_run_without_snapshots_has_no_timeline(run: Run, tmp_path: Path) -> None:
    bare = grow(text=run.path.parent / "sea.txt", out=tmp_path / "r", steps=2, snapshots=0, **TINY)
    assert not (bare.path / "snapshots").exists()
    with pytest.raises(ValueError, match="kept no snapshots; train it with --snapshots 20"):
        timeline(bare, lambda model: 0)


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


def test_two_runs_differ(run: Run, tmp_path: Path) -> None:
    other = grow(text=run.path.parent / "sea.txt", out=tmp_path / "r", steps=2, seed=5, **TINY)
    changes = diff(run, other)
    assert changes[0].relative > 0.5 and all(c.relative == 0 for c in diff(run, run))
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
