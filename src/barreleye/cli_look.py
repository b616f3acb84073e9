"""The verbs that look inside: look, ablate."""

from importlib.util import find_spec
from typing import Annotated, Any

import typer

from barreleye.options import RunArgument, WithoutOption

StepOption = Annotated[int | None, typer.Option(help="The model as it was at a recorded step.")]
AsTextOption = Annotated[bool, typer.Option("--as-text", help="Read the text as it is, not as said in a chat.")]


def look(
    run: RunArgument,
    text: Annotated[str, typer.Argument(help="What a person says to it, or the text to go on with.")],
    step: StepOption = None,
    without: WithoutOption = None,
    as_text: AsTextOption = False,
) -> None:
    """See what a model expected, where its heads look, and what makes its answer."""
    from barreleye.lens import report
    from barreleye.lens.attention import classify_heads
    from barreleye.lens.edits import edit, zero
    from barreleye.lens.timeline import timeline
    from barreleye.run import Run

    opened, edits = Run(run), dict.fromkeys(without or (), zero)
    view = edit(opened, text, edits, step, chat=False if as_text else None)
    kinds = classify_heads(opened, step, edits=edits)
    when = "as last saved" if step is None else f"at step {step}"
    asked = f"Asked {text!r}, {when}{', without ' * bool(edits)}{', '.join(edits)}."
    drawn, past = find_spec("plotly") is not None, {}
    if drawn and opened.snapshots():
        past = timeline(opened, view.ids, lambda then: report.moment(then, view), edits)
    summary = [asked, *report.look_summary(view)]
    _show(opened, "look", "A look inside", summary, report.look_sections(view, kinds, drawn, past))


def ablate(
    run: RunArgument,
    text: Annotated[str | None, typer.Argument(help="What to read (default: some of the held-out side).")] = None,
    step: StepOption = None,
    as_text: AsTextOption = False,
) -> None:
    """Take out each head and each feed-forward layer in turn: which one is missed?"""
    from barreleye.lens import report
    from barreleye.lens.sweeps import ablate as sweep
    from barreleye.run import Run

    opened = Run(run)
    found = sweep(opened, text, step=step, chat=False if as_text else None)
    drawn = find_spec("plotly") is not None
    _show(opened, "ablation", "What each part is worth", [], report.ablation_sections(found, drawn))


def _show(run: Any, name: str, title: str, summary: list[str], sections: list[Any]) -> None:
    """On the screen, and as a page of the run."""
    from barreleye.files import write_file
    from barreleye.reports.page import page
    from barreleye.show import show_report

    show_report(summary, sections)
    file = run.path / "reports" / f"{name}.html"
    file.parent.mkdir(exist_ok=True)
    write_file(file, page(f"{title}: {run.name}", summary, sections).encode())
    print(f"as a page: {file}")
