"""The verbs on what a model learns from: character sheets, and the data of a run."""

from pathlib import Path
from typing import Annotated

import typer

from barreleye.options import RunArgument

persona_app = typer.Typer(help="Character sheets: begin one, check it, sample it, list them.")
data_app = typer.Typer(help="What a run learned from.")


@persona_app.command("list")
def persona_list() -> None:
    """List the characters that come with the package."""
    from barreleye.data.sheet_file import load_persona, persona_names
    from barreleye.show import personas_table

    personas_table([(name, load_persona(name)) for name in persona_names()])


@persona_app.command("sample")
def persona_sample(
    persona: Annotated[str, typer.Argument(help="A character's name, or a sheet.")],
    n: Annotated[int, typer.Option("-n", min=1, max=100_000, help="How many conversations.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other conversations.")] = 1,
) -> None:
    """Print conversations composed from a character sheet."""
    from barreleye.data.persona import converse
    from barreleye.data.sheet_file import load_persona
    from barreleye.show import show_conversations

    show_conversations(converse(load_persona(persona), n=n, seed=seed))


@persona_app.command("check")
def persona_check(
    persona: Annotated[str, typer.Argument(help="A character's name, or a sheet.")],
    strict: Annotated[bool, typer.Option(help="Exit with 2 if there is any finding.")] = False,
) -> None:
    """Say whether a character sheet is in order, and how much it can say."""
    from barreleye.data.persona_check import check
    from barreleye.show import persona_report

    checked = check(persona, key_words=True)
    persona_report(checked)
    if strict and checked.findings:
        raise ValueError(f"{persona}: there are findings, see above; cure them, or leave out --strict")


@persona_app.command("new")
def persona_new(
    name: Annotated[str, typer.Argument(help="What the character is called.")],
    out: Annotated[Path | None, typer.Option(help="The file to write (default: NAME.yaml, here).")] = None,
) -> None:
    """Write a small complete character sheet to start from."""
    from barreleye.data.sheet_file import write_new_sheet

    path = write_new_sheet(name, out)
    print(f"{path}: change it, then: barreleye persona check {path}; barreleye train {path}")


@data_app.command("report")
def data_report(run: RunArgument) -> None:
    """Measure what a run learned from: sizes, lengths, duplicates, the split. Writes reports/data.html."""
    from barreleye.evaluation import data_report as report
    from barreleye.run import Run
    from barreleye.show import show_report

    opened = Run(run)
    measured = report.data_report(opened)
    page = report.write_data_report(opened, measured)
    show_report(report.summary(measured), report.sections(measured))
    print(f"as a page: {page}")
    if measured.overlap:
        raise ValueError(f"{run}: {measured.overlap} held-out prompts are in training too; train it anew")
