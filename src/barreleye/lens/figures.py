"""Drawings of what the lens computes: plotly figures (the extra `report`), and tokens as HTML that needs nothing."""

import math
from html import escape
from typing import TYPE_CHECKING, Any

from torch import Tensor

from barreleye.lens.attribution import Attribution, LogitLens
from barreleye.lens.gradients import Saliency
from barreleye.lens.sweeps import Ablation, PatchGrid
from barreleye.lens.view import View
from barreleye.lens.weights import PCA

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_SURPRISED = 8.0  # bits, from which on the colour is full
MOST_PATTERNS = 64  # heads on one wall
DIVERGING = [[0, "#2a8fc7"], [0.5, "rgba(128,144,160,0.15)"], [1, "#d55e00"]]
SEQUENTIAL = [[0, "rgba(42,143,199,0.05)"], [1, "#2a8fc7"]]
CELL = 22  # pixels


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
    go = _plotly()
    figure = go.Figure()
    labels = _numbered(view.tokens)
    figure.add_bar(x=labels, y=view.surprise_T.tolist(), name="surprise", hovertemplate="%{y:.2f} bits")
    before = [None, *view.entropy_T[:-1].tolist()]
    figure.add_scatter(x=labels, y=before, name="entropy before it", mode="markers", hovertemplate="%{y:.2f} bits")
    figure.update_layout(height=340, yaxis_title="bits", xaxis_tickangle=-60)
    return figure


def attention_wall(view: View) -> "Figure":
    """Every head of every layer, a row of heads for each layer; queries go down, keys to the right."""
    from plotly.subplots import make_subplots

    go, config = _plotly(), view.model.config
    layers = min(config.n_layers, max(1, MOST_PATTERNS // config.n_heads))
    titles = [f"{layer}.{head}" for layer in range(layers) for head in range(config.n_heads)]
    figure = make_subplots(
        layers, config.n_heads, subplot_titles=titles, horizontal_spacing=0.01, vertical_spacing=0.2 / layers
    )
    labels = _numbered(view.tokens)
    for layer in range(layers):
        for head, pattern_QK in enumerate(view[f"blocks.{layer}.attn.hook_pattern"].tolist()):
            heat = go.Heatmap(
                x=labels,
                y=labels,
                z=[[round(x, 3) for x in row] for row in pattern_QK],
                zmin=0,
                zmax=1,
                colorscale=SEQUENTIAL,
                showscale=False,
                hovertemplate="%{y} looks at %{x}: %{z:.2f}<extra></extra>",
            )
            figure.add_trace(heat, layer + 1, head + 1)
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(showticklabels=False, autorange="reversed")
    figure.update_layout(height=170 * layers + 60)
    return figure


def logit_lens_figure(view: View, lens: LogitLens) -> "Figure":
    """The likeliest token after each position at each place in the stream, and how likely."""
    guesses = [[view.tokenizer.token_text(i) for i in row] for row in lens.ids_NTK[..., 0].tolist()]
    return _heatmap(
        lens.probs_NTK[..., 0],
        _numbered(view.tokens),
        [name.removeprefix("blocks.").replace("hook_", "") for name in lens.names],
        SEQUENTIAL,
        (0, 1),
        "%{text} %{z:.0%} after %{x}",
        guesses,
    )


def attribution_figure(found: Attribution, k: int = 25) -> "Figure":
    """The parts that matter most, the largest on top."""
    go = _plotly()
    names, values = zip(*reversed(found.largest(k)), strict=True)
    figure = go.Figure(go.Bar(x=values, y=names, orientation="h", hovertemplate="%{y}: %{x:+.3f}<extra></extra>"))
    figure.update_layout(height=CELL * len(names) + 90, xaxis_title=f"{found.of} = {found.logit:+.3f}")
    return figure


def saliency_figure(found: Saliency) -> "Figure":
    """What each token of the prompt did for the logit."""
    go = _plotly()
    figure = go.Figure(go.Bar(x=_numbered(found.tokens), y=found.scores_T.tolist(), hovertemplate="%{x}: %{y:+.3f}"))
    figure.update_layout(height=320, yaxis_title=found.of, xaxis_tickangle=-60)
    return figure


def ablation_figure(found: Ablation) -> "Figure":
    """The rise of the loss without each head and each feed-forward layer."""
    import torch

    columns = [f"head {head}" for head in range(found.heads_LH.shape[1])]
    rises = found.heads_LH
    if len(found.mlps_L):
        rises, columns = torch.cat([rises, found.mlps_L[:, None]], 1), [*columns, "feed-forward"]
    rows = [f"layer {layer}" for layer in range(len(rises))]
    return _heatmap(rises, columns, rows, DIVERGING, None, "%{y}, %{x}: %{z:+.4f} nats")


def patch_figure(found: PatchGrid) -> "Figure":
    """How much of the clean logit each layer and position brings back: 0 nothing, 1 all."""
    pairs = zip(found.tokens, found.corrupted_tokens, strict=True)
    columns = _numbered([here if here == other else f"{here}/{other}" for here, other in pairs])
    rows = [f"layer {layer}" for layer in range(len(found.logits_LT))]
    return _heatmap(found.recovered_LT, columns, rows, DIVERGING, (-1, 1), "%{y}, %{x}: %{z:.2f} recovered")


def pca_figure(found: PCA, labels: list[str]) -> "Figure":
    """Vectors on their first two principal axes."""
    go = _plotly()
    x, y = found.coordinates_NK[:, 0].tolist(), found.coordinates_NK[:, 1].tolist()
    figure = go.Figure(go.Scatter(x=x, y=y, text=labels, mode="markers", hovertemplate="%{text}<extra></extra>"))
    axes = [f"axis {i + 1}: {share:.0%} of the variance" for i, share in enumerate(found.share_K[:2].tolist())]
    figure.update_layout(height=560, xaxis_title=axes[0], yaxis_title=axes[1])
    return figure


def _heatmap(
    values: Tensor,
    columns: list[str],
    rows: list[str],
    colours: list[list[Any]],
    limits: tuple[float, float] | None,
    label: str,
    texts: list[list[str]] | None = None,
) -> "Figure":
    """The first row at the bottom, as a stream flows up. Without limits, as far as the values go either way of zero."""
    go = _plotly()
    low, high = limits or (-float(values.abs().max()), float(values.abs().max()))
    heat = go.Heatmap(
        x=columns,
        y=rows,
        z=values.tolist(),
        zmin=low,
        zmax=high,
        colorscale=colours,
        text=texts,
        texttemplate="%{text}" if texts else None,
        hovertemplate=f"{label}<extra></extra>",
    )
    figure = go.Figure(heat)
    figure.update_layout(height=CELL * max(4, len(rows)) + 150, xaxis_tickangle=-60)
    return figure


def _numbered(tokens: list[str]) -> list[str]:
    """Labels of an axis, which must differ."""
    return [f"{i} {token}" for i, token in enumerate(tokens)]


def _plotly() -> Any:
    try:
        import plotly.graph_objects as go
    except ImportError:
        raise ValueError("figures take plotly, which is not installed; pip install 'barreleye[report]'") from None
    return go
