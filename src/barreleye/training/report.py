"""The course of a training as a page: `reports/learning.html`, where plotly is installed."""

from pathlib import Path
from typing import Any

from barreleye.files import write_file
from barreleye.reports.page import Sample, Section, page
from barreleye.run import Run

SCORED = {
    "all": ("held out, all tokens", "#009e73"),
    "replies": ("held out, replies to unseen prompts", "#d55e00"),
}
"""Part of the held-out side -> its name and colour (Okabe and Ito 2008: told apart by the colour-blind too)."""


def write_learning_report(run: Run) -> Path | None:
    """Interactive curves of a run's record; None where plotly is not installed or nothing was recorded."""
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError:
        return None
    lines = run.metrics()
    steps = [line for line in lines if "loss" in line]
    held_out = [line for line in lines if "held_out" in line]
    if not steps:
        return None
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, row_heights=[0.6, 0.2, 0.2], vertical_spacing=0.04)
    x = [line["step"] for line in steps]
    loss = [line["loss"] for line in steps]
    figure.add_trace(go.Scatter(x=x, y=loss, name="training, each step", line_color="rgba(128,150,175,0.4)"), 1, 1)
    figure.add_trace(go.Scatter(x=x, y=smoothed(loss), name="training, smoothed", line_color="#2a8fc7"), 1, 1)
    for part, (name, color) in SCORED.items():
        scored = [line for line in held_out if line["held_out"][part]]
        if scored:
            figure.add_trace(
                go.Scatter(
                    x=[line["step"] for line in scored],
                    y=[line["held_out"][part]["loss"] for line in scored],
                    customdata=[line["held_out"][part]["bits_per_byte"] for line in scored],
                    hovertemplate="%{y:.3f} nats, %{customdata:.3f} bits per byte",
                    name=name,
                    mode="lines+markers",
                    line_color=color,
                ),
                1,
                1,
            )
    figure.add_trace(
        go.Scatter(x=x, y=[line["grad_norm"] for line in steps], name="gradient norm", line_color="#cc79a7"),
        2,
        1,
    )
    figure.add_trace(
        go.Scatter(x=x, y=[line["rate"] for line in steps], name="rate, share of peak", line_color="#e69f00"),
        3,
        1,
    )
    figure.update_yaxes(title_text="loss, nats per token", row=1, col=1)
    figure.update_yaxes(title_text="gradient", row=2, col=1)
    figure.update_yaxes(title_text="rate", row=3, col=1)
    figure.update_xaxes(title_text="step", row=3, col=1)
    figure.update_layout(hovermode="x unified", height=800, legend=dict(orientation="h", y=1.02, yanchor="bottom"))
    sections = [Section("Loss, gradient and rate", figures=[figure])]
    if samples := _samples(lines):
        sections.append(Section("What it said on the way", samples=samples))
    file = run.path / "reports" / "learning.html"
    file.parent.mkdir(exist_ok=True)
    write_file(file, page(f"How {run.name} learned", _summary(run, lines), sections).encode())
    return file


def _summary(run: Run, lines: list[dict[str, Any]]) -> list[str]:
    steps = f"{lines[-1]['step']:,} of {run.config.train.steps:,} steps"
    words = [f"{steps} on {run.config.data.kind} {', '.join(run.config.data.sources)}."]
    scores: dict[str, Any] = next((line["held_out"] for line in reversed(lines) if "held_out" in line), {})
    for part, (name, _) in SCORED.items():
        if score := scores.get(part):
            per_byte = f"{score['bits_per_byte']:.3f} bits per byte"
            words.append(f"{name.capitalize()}: {score['loss']:.3f} nats per token, {per_byte}.")
    return words


def _samples(lines: list[dict[str, Any]]) -> list[Sample]:
    """The same prompts again and again; the latest answers stand open."""
    asked = [line for line in lines if line.get("samples")]
    return [
        Sample(
            f"step {line['step']:,}",
            [turn for said in line["samples"] for turn in (("user", said["prompt"]), ("assistant", said["reply"]))],
            is_open=line is asked[-1],
        )
        for line in asked
    ]


def smoothed(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential moving average, corrected for its start (Kingma and Ba 2015, section 3)."""
    mean, weight, result = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result
