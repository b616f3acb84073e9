import subprocess
import sys
from pathlib import Path

import pytest
import torch

from barreleye.lens import figures, report
from barreleye.lens.attention import classify_heads
from barreleye.lens.attribution import attribute, logit_lens
from barreleye.lens.gradients import gradient_x_input
from barreleye.lens.sweeps import ablate, patch_grid
from barreleye.lens.timeline import Difference
from barreleye.lens.view import look
from barreleye.lens.weights import pca

sys.path.insert(0, str(Path(__file__).parent))
from subjects import LETTERS, OTHER, PRESETS, TEXT, subject


def test_the_wall_shows_every_head() -> None:
    view = look(subject(), TEXT)
    wall = figures.attention_wall(view)
    assert len(wall.data) == 2 * 4
    shown = torch.tensor(wall.data[5].z)
    torch.testing.assert_close(shown, view["blocks.1.attn.hook_pattern"][1], atol=5e-4, rtol=0)
    assert [note.text for note in wall.layout.annotations][5] == "1.1"


@pytest.mark.parametrize(("heads", "columns"), [(12, 6), (16, 8), (5, 5)])
def test_a_wall_of_many_heads_is_no_wider_than_eight(heads: int, columns: int) -> None:
    wall = figures.attention_wall(look(subject(n_heads=heads, d_model=4 * heads), TEXT))
    assert len(wall.data) == 2 * heads and len({axis.domain for axis in wall.select_xaxes()}) == columns


def test_figures_carry_what_was_computed() -> None:
    who = subject()
    view = look(who, TEXT)
    tokens = figures.token_figure(view)
    assert list(tokens.data[0].y)[1:] == pytest.approx(view.surprise_T[1:].tolist())
    assert list(tokens.data[1].y)[1:] == pytest.approx(view.entropy_T[:-1].tolist())
    lens = logit_lens(view, sublayers=True)
    heat = figures.logit_lens_figure(view, lens).data[0]
    assert heat.text[3][-1] == LETTERS.token_text(int(view.logits_TV[3].argmax())) and len(heat.z[0]) == 5
    assert heat.y[0] == "0 a" and figures.logit_lens_figure(view, lens).layout.yaxis.autorange == "reversed"
    found = attribute(view, "c")
    bars = figures.attribution_figure(found).data[0]
    assert bars.y[-1] == found.largest(1)[0][0] and len(bars.x) == len(found.names)
    ablation = ablate(who, TEXT)
    drawn = figures.ablation_figure(ablation).data[0]
    expected = torch.cat([ablation.heads_LH, ablation.mlps_L[:, None]], 1)
    torch.testing.assert_close(torch.tensor(drawn.z), expected, atol=5e-5, rtol=0)
    assert drawn.zmax == -drawn.zmin == pytest.approx(float(ablation.heads_LH.abs().max()))
    assert len(figures.ablation_figure(ablate(subject(d_ff=0), TEXT)).data[0].x) == 4
    grid = patch_grid(who, TEXT, OTHER, "c")
    drawn = figures.patch_figure(grid).data[0]
    assert drawn.y[0] == "0 a/q" and drawn.y[3] == "3 a" and len(drawn.z[0]) == 2
    saliency = gradient_x_input(view, "c")
    assert list(figures.saliency_figure(saliency).data[0].y) == pytest.approx(saliency.scores_T.tolist())
    points = figures.pca_figure(pca(who.model.embed.weight.detach()), [LETTERS.token_text(i) for i in range(17)])
    assert len(points.data[0].x) == 17 and "of the variance" in points.layout.xaxis.title.text


def test_a_slider_moves_what_changes_and_opens_on_the_last() -> None:
    looks = {step: look(subject(seed=step), TEXT) for step in (8, 0)}
    figure = figures.slider({step: figures.attention_wall(view) for step, view in looks.items()})
    alone = {step: figures.attention_wall(view) for step, view in looks.items()}
    assert [frame.name for frame in figure.frames] == ["0", "8"]
    assert list(figure.data[3].z) == list(alone[8].data[3].z) and figure.layout.sliders[0].active == 1
    for frame in figure.frames:
        assert [trace.z for trace in frame.data] == [trace.z for trace in alone[int(frame.name)].data]
        assert all(trace.x is None and trace.colorscale is None for trace in frame.data)
    assert [step.args[0] for step in figure.layout.sliders[0].steps] == [("0",), ("8",)]
    assert len(figure.layout.annotations) == 8  # the titles of the wall stay


def test_a_timeline_is_a_line_for_each_name() -> None:
    found = {0: torch.tensor([[0.1, 0.2]]), 2: torch.tensor([[0.3, 0.4]])}
    figure = figures.timeline_figure(found, ["0.0", "0.1"], "induction")
    assert [(line.name, line.x) for line in figure.data] == [("0.0", ("0", "2")), ("0.1", ("0", "2"))]
    assert list(figure.data[1].y) == pytest.approx([0.2, 0.4]) and figure.layout.yaxis.title.text == "induction"
    assert list(figures.timeline_figure({0: 1.5, 2: 2.5}, ["loss"], "nats").data[0].y) == [1.5, 2.5]
    many = figures.timeline_figure({0: torch.rand(24)}, [str(i) for i in range(24)], "")
    assert len({(i % 6, line.line.dash) for i, line in enumerate(many.data)}) == 24  # no two look alike
    with pytest.raises(ValueError, match="zip"):
        figures.timeline_figure(found, ["0.0"], "induction")


def test_what_changed_most_is_on_top() -> None:
    changes = [
        Difference("embed.weight", 1.5, 1, 2),
        Difference("blocks.0.attn.q.weight", 0.5, 1, 1),
        Difference("x", 0, 1, 1),
    ]
    bars = figures.diff_figure(changes, k=2).data[0]
    assert bars.y == ("blocks.0.attn.q.weight", "embed.weight") and bars.x == (0.5, 1.5)


@PRESETS
def test_the_report_says_it_in_words_and_tables(variant: dict[str, object]) -> None:
    who = subject(**variant)
    view = look(who, TEXT)
    sections = report.look_sections(view, classify_heads(who), drawn=True)
    assert [len(section.figures) for section in sections] == [1, 1, 1, 1, 1]
    assert not any(section.tables for section in sections[3:])  # which a terminal leaves out with their words
    tokens, heads, parts = (section.tables[0] for section in sections[:3])
    assert [row[1] for row in tokens.rows] == list(TEXT) and tokens.rows[0][2] == ""
    assert [row[0] for row in heads.rows] == [
        f"blocks.{i}.attn.hook_z[head={head}]" for i in (0, 1) for head in range(4)
    ]
    listed_all = len(attribute(view, 0).names) == len(parts.rows)
    assert ("largest are listed" in sections[2].words[0]) != listed_all
    largest = attribute(view, int(view.logits_TV[-1].argmax())).largest(1)[0]
    assert (parts.rows[0][0], float(parts.rows[0][1])) == (largest[0], pytest.approx(largest[1], abs=1e-3))
    assert "nats per token on 10 tokens" in report.look_summary(view)[0]
    past = {step: report.moment(look(subject(**variant, seed=step), TEXT), view) for step in (0, 4)}
    assert past[4].probs_K.shape == (5,)
    *_, learned, lens = report.look_sections(view, classify_heads(who), drawn=True, past=past)
    assert [line.name for line in learned.figures[0].data] == [token for token, _ in view.top()]
    assert [frame.name for frame in lens.figures[0].frames] == ["0", "4"]
    (ablation,) = report.ablation_sections(ablate(who, TEXT), drawn=True)
    rises = [float(row[1]) for row in ablation.tables[0].rows]
    assert rises == sorted(rises, reverse=True) and len(ablation.figures) == 1


def test_nothing_but_figures_takes_plotly() -> None:
    script = """
import sys; sys.modules["plotly"] = None
import torch
from barreleye import Transformer, ModelConfig, look
from barreleye.data.tokenizer import learn_characters
from barreleye.lens import attention, attribution, edits, gradients, neurons, report, sweeps, weights, figures
model = Transformer(ModelConfig(n_layers=1, n_heads=2, d_model=8, d_ff=16, context_length=8, vocab_size=3))
view = look((model, learn_characters("abc")), "abcab")
assert "<span" in view._repr_html_()
assert len(report.look_sections(view, attention.classify_heads(view.subject), drawn=False)) == 3
try: figures.token_figure(view)
except ValueError as error: print(error)
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'barreleye[report]'" in shown.stdout
