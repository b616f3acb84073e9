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


def test_figures_carry_what_was_computed() -> None:
    who = subject()
    view = look(who, TEXT)
    tokens = figures.token_figure(view)
    assert list(tokens.data[0].y)[1:] == pytest.approx(view.surprise_T[1:].tolist())
    assert list(tokens.data[1].y)[1:] == pytest.approx(view.entropy_T[:-1].tolist())
    lens = logit_lens(view, sublayers=True)
    heat = figures.logit_lens_figure(view, lens).data[0]
    assert heat.text[-1][3] == LETTERS.token_text(int(view.logits_TV[3].argmax())) and len(heat.z) == 5
    found = attribute(view, "c")
    bars = figures.attribution_figure(found).data[0]
    assert bars.y[-1] == found.largest(1)[0][0] and len(bars.x) == len(found.names)
    ablation = ablate(who, TEXT)
    rises = torch.tensor(figures.ablation_figure(ablation).data[0].z)
    torch.testing.assert_close(rises, torch.cat([ablation.heads_LH, ablation.mlps_L[:, None]], 1))
    assert len(figures.ablation_figure(ablate(subject(d_ff=0), TEXT)).data[0].x) == 4
    grid = patch_grid(who, TEXT, OTHER, "c")
    drawn = figures.patch_figure(grid).data[0]
    assert drawn.x[0] == "0 a/q" and drawn.x[3] == "3 a" and len(drawn.z) == 2
    saliency = gradient_x_input(view, "c")
    assert list(figures.saliency_figure(saliency).data[0].y) == pytest.approx(saliency.scores_T.tolist())
    points = figures.pca_figure(pca(who.model.embed.weight.detach()), [LETTERS.token_text(i) for i in range(17)])
    assert len(points.data[0].x) == 17 and "of the variance" in points.layout.xaxis.title.text


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
