"""The course of a training as a page: `reports/learning.html`, where plotly is installed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from barreleye.files import write_file
from barreleye.reports.page import Sample, Section, Table, page
from barreleye.run import Run

SCORED = {
    "all": ("held out, all tokens", "#009e73"),
    "replies": ("held out, replies to unseen prompts", "#d55e00"),
}
"""Part of the held-out side -> its name and colour (Okabe and Ito 2008: told apart by the colour-blind too)."""
LOG_AXIS = dict(type="log", exponentformat="power", nticks=3)
BY_DEPTH = ["#2a8fc7", "#cc79a7", "#d55e00"]  # from the first block to the last


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
    for row, (key, name, color) in enumerate(
        (("grad_norm", "gradient norm", "#cc79a7"), ("rate", "rate", "#e69f00")), 2
    ):
        y = [line[key] for line in steps]
        figure.add_trace(go.Scatter(x=x, y=y, name=name, line_color=color, showlegend=False), row, 1)
    figure.update_yaxes(title_text="loss, nats per token", row=1, col=1)
    figure.update_yaxes(title_text="gradient norm", **LOG_AXIS, row=2, col=1)
    figure.update_yaxes(title_text="rate / peak", row=3, col=1)
    figure.update_xaxes(title_text="step", row=3, col=1)
    figure.update_layout(hovermode="x unified", height=800)
    sections = [Section("Loss, gradient and rate", figures=[figure])]
    if findings := [line["finding"] for line in lines if "finding" in line]:
        rows = [("note: " * f["is_note"] + f["name"], f["evidence"], f["advice"]) for f in findings]
        table = Table(("what", "seen", "try"), rows)
        sections.append(Section("What the doctor found", tables=[table]))
    if probes := {line["step"]: line["probe"] for line in lines if "probe" in line}:
        words = [
            "On a fixed batch of training, without dropout; docs/run-folder.md says what each figure is. Blue is the "
            "first block, orange the last; dotted lines are feed-forward layers. A click on a block hides it."
        ]
        sections.append(Section("Inside", words, figures=[_inside(probes)]))
    if samples := _samples(lines):
        sections.append(Section("What it said on the way", samples=samples))
    file = run.path / "reports" / "learning.html"
    file.parent.mkdir(exist_ok=True)
    write_file(file, page(f"How {run.name} learned", _summary(run, lines), sections).encode())
    return file


def _inside(probes: dict[int, dict[str, Any]]) -> Any:
    """What the probe saw, a panel each: gradients, updates, size of the residual stream, attention, dead units. A block
    has one colour in all of them."""
    import plotly.graph_objects as go
    from plotly.colors import sample_colorscale
    from plotly.subplots import make_subplots

    panels: dict[str, Callable[[dict[str, Any]], dict[str, float | None]]] = {
        "gradient norm": lambda probe: probe["gradient_norm"],
        "update / weight": lambda probe: probe.get("update_ratio", {}),
        "std of the residual stream behind each block": lambda probe: {
            at: found["std"] for at, found in probe["activations"].items() if "resid_post" in at
        },
        "entropy of each head, share of the most possible": lambda probe: {
            f"{at} head {h}": entropy
            for at, heads in probe["attention_entropy"].items()
            for h, entropy in enumerate(heads)
        },
        "share of dead units": lambda probe: probe["dead"],
    }
    figure = make_subplots(len(panels), 1, shared_xaxes=True, vertical_spacing=0.04, subplot_titles=[*panels])
    depth = len(next(iter(probes.values()))["attention_entropy"])
    colors = sample_colorscale(BY_DEPTH, [block / max(1, depth - 1) for block in range(depth)])
    color_of = {f"block {block}": color for block, color in enumerate(colors)} | {"the rest": "#7a8a99"}
    for group, color in color_of.items():
        figure.add_scatter(x=[None], y=[None], name=group, legendgroup=group, line_color=color)
    for row, values_of in enumerate(panels.values(), 1):
        values = {step: values_of(probe) for step, probe in probes.items()}
        for name in dict.fromkeys(name for found in values.values() for name in found):
            steps = [step for step, found in values.items() if name in found]
            group = f"block {name.split('.')[1]}" if name.startswith("blocks.") else "the rest"
            line = go.Scatter(x=steps, y=[values[step][name] for step in steps], name=name, legendgroup=group)
            line.update(line_color=color_of[group], line_dash="dot" if ".mlp" in name else None, showlegend=False)
            figure.add_trace(line, row, 1)
        if row < 3:
            figure.update_yaxes(**LOG_AXIS, row=row, col=1)
    figure.update_xaxes(title_text="step", row=len(panels), col=1)
    figure.update_annotations(font_size=12)
    figure.update_layout(height=240 * len(panels), hovermode="closest")
    return figure


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
