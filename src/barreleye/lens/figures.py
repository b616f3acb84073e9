"""Drawings of what the lens computes: plotly figures (the extra `report`), and tokens as HTML that needs nothing."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from barreleye.lens.attribution import Attribution, LogitLens
from barreleye.lens.gradients import Saliency
from barreleye.lens.sweeps import Ablation, PatchGrid
from barreleye.lens.timeline import Difference
from barreleye.lens.view import View
from barreleye.lens.weights import PCA
from barreleye.reports.page import FIGURE_STYLE

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_SURPRISED = 8.0  # bits, from which on the colour is full
MOST_PATTERNS = 64  # heads on one wall
# Blue and vermilion are told apart by the colour-blind too. Where something is written in the cells they are opaque, as
# plotly picks the ink by their colour; where not, they fade into the paper, light or dark.
DIVERGING = [[0, "#2a8fc7"], [0.5, "#eef3f6"], [1, "#d55e00"]]
SEQUENTIAL = [[0, "#eef3f6"], [1, "#2a8fc7"]]
FADING = [[0, "rgba(42,143,199,0.05)"], [0.2, "rgba(42,143,199,0.5)"], [1, "#2a8fc7"]]  # steep, as attention is spread
DASHES = ("solid", "dash", "dot", "dashdot")
LINE, CELL, WORD, BAR = 22, 60, 76, 120  # pixels: a row, a cell with a number, with a token, the bar of colours
LONGEST = 12  # letters of a token in a cell


def tokens_html(view: View) -> str:
    """The text, each token the redder the less the model expected it; the pointer shows what it did expect."""
    spans = []
    for t, (token, bits) in enumerate(zip(view.tokens, view.surprise_T.tolist(), strict=True)):
        known = not math.isnan(bits)
        guesses = [f"{guess} {p:.0%}" for guess, p in view.top(t - 1)] if known else []
        label = f"{bits:.2f} bits; expected: {', '.join(guesses)}" if known else "nothing came before"
        shade = min(1.0, max(0.0, bits / MOST_SURPRISED)) if known else 0.0
        spans.append(
            f'<span title="{escape(label)}" style="background:rgba(213,94,0,{shade:.2f})">{escape(token)}</span>'
        )
    then = ", ".join(f"{token} {p:.0%}" for token, p in view.top())
    loss = f"mean loss {view.loss:.3f} nats per token; " if len(view.ids) > 1 else ""
    style = "font-family:monospace;line-height:1.9;white-space:pre-wrap;overflow-wrap:anywhere"
    return f'<div style="{style}">{" ".join(spans)}</div><p>{escape(f"{loss}next: {then}")}</p>'


def token_figure(view: View) -> "Figure":
    """The surprise of each token, and how undecided the model was before it, in bits."""
    figure = _figure(height=340, yaxis_title="bits", xaxis_tickangle=-60)
    labels = _numbered(view.tokens)
    figure.add_bar(x=labels, y=view.surprise_T.tolist(), name="surprise", hovertemplate="%{y:.2f} bits")
    before = [None, *view.entropy_T[:-1].tolist()]
    figure.add_scatter(x=labels, y=before, name="entropy before it", mode="markers", hovertemplate="%{y:.2f} bits")
    return figure


def attention_wall(view: View) -> "Figure":
    """Every head of every layer, from the first; queries go down, keys to the right."""
    from plotly.subplots import make_subplots

    go, config = _plotly(), view.model.config
    layers = min(config.n_layers, max(1, MOST_PATTERNS // config.n_heads))
    columns = next(n for n in range(min(8, config.n_heads), 0, -1) if config.n_heads % n == 0)
    rows = layers * config.n_heads // columns
    height = rows * (min(190, 860 // columns) + 24)
    titles = [f"{layer}.{head}" for layer in range(layers) for head in range(config.n_heads)]
    gaps = dict(horizontal_spacing=0.01, vertical_spacing=24 / height)
    figure = make_subplots(rows, columns, subplot_titles=titles, **gaps)
    labels = _numbered(view.tokens)
    patterns = [x_QK for layer in range(layers) for x_QK in view[f"blocks.{layer}.attn.hook_pattern"].tolist()]
    for panel, pattern_QK in enumerate(patterns):
        heat = go.Heatmap(
            x=labels,
            y=labels,
            z=[[round(x, 3) for x in row] for row in pattern_QK],
            zmin=0,
            zmax=1,
            colorscale=FADING,
            showscale=False,
            hovertemplate="%{y} looks at %{x}: %{z:.2f}<extra></extra>",
        )
        figure.add_trace(heat, panel // columns + 1, panel % columns + 1)
    figure.update_xaxes(showticklabels=False, showgrid=False)
    figure.update_yaxes(showticklabels=False, showgrid=False, autorange="reversed")
    figure.update_annotations(font_size=12)
    return figure.update_layout(template=FIGURE_STYLE, height=height + 60, margin=dict(l=0, r=0, b=8))


def logit_lens_figure(view: View, lens: LogitLens) -> "Figure":
    """The likeliest token after each position, a row for each, and how likely it was; the stream flows to the right."""
    guesses_TN = [[view.tokenizer.token_text(i) for i in row] for row in lens.ids_NTK[..., 0].T.tolist()]
    figure = _heatmap(
        lens.probs_NTK[..., 0].T,
        [name.removeprefix("blocks.").replace("hook_", "") for name in lens.names],
        _numbered(view.tokens),
        SEQUENTIAL,
        (0, 1),
        "%{customdata} %{z:.0%} after %{y}, at %{x}",
        "%{text}",
        WORD,
    )
    short = [[guess if len(guess) <= LONGEST else f"{guess[: LONGEST - 1]}…" for guess in row] for row in guesses_TN]
    figure.update_traces(text=short, customdata=guesses_TN, colorbar_tickformat=".0%")
    return figure.update_yaxes(autorange="reversed")


def attribution_figure(found: Attribution, k: int = 25) -> "Figure":
    """The parts that matter most, the largest on top."""
    return _bars(found.largest(k), f"{found.of} = {found.logit:+.3f}", "+.3f")


def saliency_figure(found: Saliency) -> "Figure":
    """What each token of the prompt did for the logit."""
    figure = _figure(height=340, xaxis_title=found.of, yaxis_title="adds to the logit", xaxis_tickangle=-60)
    hover = "%{x}: %{y:+.3f}<extra></extra>"
    return figure.add_bar(x=_numbered(found.tokens), y=found.scores_T.tolist(), hovertemplate=hover)


def ablation_figure(found: Ablation) -> "Figure":
    """The rise of the loss without each head and each feed-forward layer. Colours go as far as the heads do: next to
    the first feed-forward layer, all heads would look alike."""
    columns = [f"head {head}" for head in range(found.heads_LH.shape[1])]
    rises = found.heads_LH
    if len(found.mlps_L):
        rises, columns = torch.cat([rises, found.mlps_L[:, None]], 1), [*columns, "feed-fwd"]
    rows = [f"layer {layer}" for layer in range(len(rises))]
    most = float(found.heads_LH.abs().max())
    return _heatmap(rises, columns, rows, DIVERGING, (-most, most), "%{y}, %{x}: %{z:+.4f} nats", "%{z:+.3f}")


def patch_figure(found: PatchGrid) -> "Figure":
    """How much of the clean logit each layer and position brings back: 0 nothing, 1 all."""
    pairs = zip(found.tokens, found.corrupted_tokens, strict=True)
    rows = _numbered([here if here == other else f"{here}/{other}" for here, other in pairs])
    columns = [f"layer {layer}" for layer in range(len(found.logits_LT))]
    label = "%{y}, %{x}: %{z:.2f} recovered"
    figure = _heatmap(found.recovered_LT.T, columns, rows, DIVERGING, (-1, 1), label, "%{z:.2f}")
    return figure.update_yaxes(autorange="reversed")


def pca_figure(found: PCA, labels: list[str]) -> "Figure":
    """Vectors on their first two principal axes."""
    x, y = found.coordinates_NK[:, 0].tolist(), found.coordinates_NK[:, 1].tolist()
    axes = [f"axis {i + 1}: {share:.0%} of the variance" for i, share in enumerate(found.share_K[:2].tolist())]
    figure = _figure(height=560, xaxis_title=axes[0], yaxis_title=axes[1])
    return figure.add_scatter(x=x, y=y, text=labels, mode="markers", hovertemplate="%{text}<extra></extra>")


def diff_figure(changes: Sequence[Difference], k: int = 25) -> "Figure":
    """The parameters that differ most, the first on top."""
    changed = [(change.name, change.relative) for change in changes[:k]]
    return _bars(changed, "change, as a share of the size", ".1%").update_xaxes(tickformat=".0%")


def timeline_figure(found: Mapping[int, Any], names: Sequence[str], of: str) -> "Figure":
    """What `timeline` found at each recorded step, a line for each of `names`.

    found: by step, a number or a tensor of as many as there are names. of: what they are. The steps stand evenly, as
    they were recorded, so that the first ones, where most happens, have room.
    """
    figure = _figure(height=400, xaxis_title="recorded step", xaxis_type="category", yaxis_title=of)
    steps = [f"{step:,}" for step in found]
    values = [torch.as_tensor(each).flatten().tolist() for each in found.values()]
    colours = len(FIGURE_STYLE["layout"]["colorway"])
    for i, (name, line) in enumerate(zip(names, zip(*values, strict=True), strict=True)):
        dash = DASHES[i // colours % len(DASHES)]
        figure.add_scatter(x=steps, y=line, name=name, line_dash=dash, hovertemplate="step %{x}: %{y:.3g}")
    return figure.update_layout(showlegend=True)


def slider(figures: Mapping[int, "Figure"]) -> "Figure":
    """Figures of one form, by step, as one that opens on the last and has a slider back in time."""
    go, last = _plotly(), figures[max(figures)]
    traces = {step: [trace.to_plotly_json() for trace in figure.data] for step, figure in sorted(figures.items())}
    # What is the same at all steps is not written again: of a wall of heads, the labels would be most of the page.
    moving = [
        {key for step in traces for key, value in traces[step][i].items() if value != trace.get(key)} | {"type"}
        for i, trace in enumerate(traces[max(figures)])
    ]
    frames = [
        go.Frame(name=str(step), data=[{k: trace[k] for k in keys} for trace, keys in zip(each, moving, strict=True)])
        for step, each in traces.items()
    ]
    at_once = dict(mode="immediate", frame=dict(duration=0, redraw=True), transition_duration=0)
    figure = go.Figure(last.data, last.layout, frames)
    steps = [dict(label=frame.name, method="animate", args=[[frame.name], at_once]) for frame in frames]
    # Above, where a long text does not hide it, and no wider than a phone.
    place = dict(y=1, yanchor="bottom", pad=dict(t=0, b=30), lenmode="pixels", len=240, font_size=10)
    now = dict(prefix="step ", font_size=14)
    control = dict(active=len(steps) - 1, steps=steps, currentvalue=now, **place)
    return figure.update_layout(sliders=[control], height=last.layout.height + 90)


def _bars(parts: Sequence[tuple[str, float]], of: str, number: str) -> "Figure":
    names, values = zip(*reversed(parts), strict=True)
    figure = _figure(height=LINE * len(names) + 90, xaxis_title=of)
    return figure.add_bar(x=values, y=names, orientation="h", hovertemplate=f"%{{y}}: %{{x:{number}}}<extra></extra>")


def _heatmap(
    values: Tensor,
    columns: list[str],
    rows: list[str],
    colours: list[list[Any]],
    limits: tuple[float, float],
    label: str,
    text: str,
    cell: int = CELL,
) -> "Figure":
    """The first row at the bottom. As wide as its cells need to be read: a page scrolls sideways where it is narrow."""
    height = max(LINE * len(rows), BAR) + 60
    figure = _figure(width=cell * len(columns) + 180, height=height, margin_b=8)
    figure.add_heatmap(
        x=columns,
        y=rows,
        z=[[round(x, 4) for x in row] for row in values.tolist()],
        zmin=limits[0],
        zmax=limits[1],
        colorscale=colours,
        colorbar=dict(thickness=12, len=BAR, lenmode="pixels", y=1, yanchor="top"),
        texttemplate=text,
        textfont_size=11,
        hovertemplate=f"{label}<extra></extra>",
        xgap=1,
        ygap=1,
    )
    figure.update_xaxes(side="top", showgrid=False, showline=False)
    return figure.update_yaxes(showgrid=False, showline=False)


def _numbered(tokens: list[str]) -> list[str]:
    """Labels of an axis, which must differ."""
    return [f"{i} {token}" for i, token in enumerate(tokens)]


def _figure(**layout: Any) -> "Figure":
    figure: Figure = _plotly().Figure(layout=dict(template=FIGURE_STYLE))
    return figure.update_layout(**layout)


def _plotly() -> Any:
    try:
        import plotly.graph_objects as go
    except ImportError:
        raise ValueError("figures take plotly, which is not installed; pip install 'barreleye[report]'") from None
    return go
