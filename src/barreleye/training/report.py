"""The course of a training as a page: `reports/learning.html`, where plotly is installed."""

from pathlib import Path

from barreleye.files import write_file
from barreleye.run import Run


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
    figure.add_trace(go.Scatter(x=x, y=loss, name="training, each step", line_color="#c7d3e3"), 1, 1)
    figure.add_trace(go.Scatter(x=x, y=smoothed(loss), name="training, smoothed", line_color="#0072b2"), 1, 1)
    for part, color in (("all", "#009e73"), ("replies", "#d55e00")):
        scored = [line for line in held_out if line["held_out"][part]]
        if scored:
            figure.add_trace(
                go.Scatter(
                    x=[line["step"] for line in scored],
                    y=[line["held_out"][part]["loss"] for line in scored],
                    customdata=[line["held_out"][part]["bits_per_byte"] for line in scored],
                    hovertemplate="%{y:.3f} nats, %{customdata:.3f} bits per byte",
                    name={"all": "held out, all tokens", "replies": "held out, replies to unseen prompts"}[part],
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
    figure.update_layout(title=f"How {run.name} learned", template="plotly_white", hovermode="x unified", height=800)
    page = run.path / "reports" / "learning.html"
    page.parent.mkdir(exist_ok=True)
    write_file(page, figure.to_html(include_plotlyjs=True).encode())
    return page


def smoothed(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential moving average, corrected for its start (Kingma and Ba 2015, section 3)."""
    mean, weight, result = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result
