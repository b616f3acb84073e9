import math
import sys

import pytest

from barreleye.run import Run
from barreleye.training.grow import grow
from barreleye.training.report import _inside, smoothed, write_learning_report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "sea.txt"
    text.write_text("".join(f"{n} fish swam {n * n} times up and {n * n * n} times down\n" for n in range(10, 40)))
    return grow(
        text=text, out=folder / "<b>sea", n_layers=1, n_heads=2, d_model=16, d_ff=32, context_length=16,
        batch_tokens=64, steps=5, eval_every=2, quiet=True, device="cpu",
    )  # fmt: skip


def test_the_page_has_the_curves_and_needs_no_network(run: Run) -> None:
    page = write_learning_report(run)
    assert page == run.path / "reports" / "learning.html"
    text = page.read_text(encoding="utf-8")
    assert "training, smoothed" in text and "held out, all tokens" in text and "gradient norm" in text
    assert 'src="http' not in text
    assert "update \\u002f weight" in text and "blocks.0.attn head 1" in text and "What the doctor found" not in text


def test_a_block_has_one_colour_in_every_panel(run: Run) -> None:
    probe = next(line["probe"] for line in run.metrics() if "probe" in line)
    twice = {
        part: values | {name.replace("blocks.0", "blocks.1"): value for name, value in values.items()}
        for part, values in probe.items()
        if isinstance(values, dict)
    }
    lines = _inside({0: twice, 5: twice}).data
    colors = {block: {line.line.color for line in lines if block in line.name} for block in ("blocks.0", "blocks.1")}
    assert len(colors["blocks.0"]) == len(colors["blocks.1"]) == 1 and colors["blocks.0"] != colors["blocks.1"]
    assert [line.name for line in lines if line.showlegend is None] == ["block 0", "block 1", "the rest"]
    assert {line.line.dash for line in lines if ".mlp" in line.name} == {"dot"}


def test_findings_stand_in_the_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = {"name": "too <loud>", "evidence": "9 dB", "advice": "less", "is_note": False}
    lines = [*run.metrics(), {"step": 5, "finding": finding}, {"step": 5, "finding": finding | {"is_note": True}}]
    monkeypatch.setattr(Run, "metrics", lambda self: lines)
    page = write_learning_report(run)
    assert page is not None
    text = page.read_text(encoding="utf-8")
    assert "What the doctor found" in text and ">too &lt;loud&gt;" in text and ">note: too" in text and "9 dB" in text


def test_replies_have_a_curve_where_they_were_scored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run.metrics()
    for line in lines:
        if "held_out" in line:
            line["held_out"]["replies"] = line["held_out"]["all"]
        if "loss" in line:
            line["grad_norm"] = None  # as where float16 overflowed
    monkeypatch.setattr(Run, "metrics", lambda self: lines)
    page = write_learning_report(run)
    assert page is not None and "replies to unseen prompts" in page.read_text(encoding="utf-8")


def test_nothing_recorded_is_no_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "metrics", lambda self: [])
    assert write_learning_report(run) is None


def test_without_plotly_there_is_no_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    assert write_learning_report(run) is None


def test_smoothing_is_a_mean_that_leans_on_the_latest() -> None:
    assert smoothed([]) == []
    assert smoothed([3.0] * 50) == pytest.approx([3.0] * 50)
    values = [math.sin(n) for n in range(30)]
    weights = [0.95 ** (29 - n) for n in range(30)]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert smoothed(values)[-1] == pytest.approx(expected)
