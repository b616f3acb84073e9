"""The command line: one thin verb per capability, which parses, calls one library function, and prints.

Nothing heavy is imported before the verb that needs it, so that `barreleye --help` answers at once.
"""

import dataclasses
import errno
import functools
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from barreleye.cli_data import data_app, persona_app
from barreleye.cli_export import export
from barreleye.cli_hub import import_, push
from barreleye.cli_look import ablate, look
from barreleye.cli_studio import studio
from barreleye.cli_talk import chat, generate
from barreleye.config import PRESETS
from barreleye.options import RunArgument, with_knobs

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Grow a small language model, talk to it, look inside.",
)
app.add_typer(persona_app, name="persona")
app.add_typer(data_app, name="data")

# click's, or that of typer's own copy of click: they differ by version, their family does not.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

GROW, TALK, LOOK, CARRY = "Grow", "Talk", "Look", "Carry"
ENDED_BY_PIPE = 128 + 13  # what a shell reports of a program that wrote to a closed pipe
LONGEST_LINE = 1000
NO_SPACE = "make room there"
HINTS: dict[int | None, str] = {errno.ENOSPC: NO_SPACE, errno.EDQUOT: NO_SPACE, errno.EFBIG: NO_SPACE}


def main() -> None:
    """Run the command line. A person's mistake is one line on standard error and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a character that the terminal lacks stops nothing
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="barreleye", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a failure is still ours to report
        sys.exit(code)
    except UsageError as error:
        fail(f"{error.format_message()} ({command_of(error)} --help lists what there is)")  # type: ignore[attr-defined]
    except ValueError as error:
        fail(str(error))
    except BrokenPipeError:
        give_up_stdout()
        sys.exit(ENDED_BY_PIPE)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        hint = HINTS.get(error.errno, "check that path, or choose another")
        fail(f"{place}{error.strerror or error}; {hint}; nothing that was saved before is lost")
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


def command_of(error: Any) -> str:
    return error.ctx.command_path if error.ctx else "barreleye"


def fail(message: str) -> None:
    line = " ".join(message.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(line) > LONGEST_LINE:  # something absurd was quoted: what is wrong stands before it, what to do after
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    print(f"barreleye: {line}", file=sys.stderr)
    give_up_stdout()
    sys.exit(2)


def give_up_stdout() -> None:
    """What standard output refuses now is not tried again at exit, where it would be a traceback."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command(rich_help_panel=GROW)
@with_knobs("train", "model", "data")
def train(
    persona: Annotated[str | None, typer.Argument(help="A character: its name, or its sheet (YAML).")] = None,
    mix: Annotated[str | None, typer.Option(help="Learn several characters, as fish:0.5,cat:0.5.")] = None,
    text: Annotated[str | None, typer.Option(help='Learn from a text file, or "shakespeare".')] = None,
    chats: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Learn from chats: JSON, CSV, Parquet, owner/data-set (may be repeated)."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"One of: {', '.join(PRESETS)} (fish unless told; tiny for text).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder (default: runs/<name>).")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a run from where it stopped.")] = None,
    from_run: Annotated[str | None, typer.Option("--from", metavar="RUN", help="Start from a run's weights.")] = None,
    track: Annotated[
        str | None, typer.Option(help="Mirror the record into tensorboard, wandb or trackio, on this machine.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing on the way.")] = False,
    talk: Annotated[bool, typer.Option("--talk", help="Chat with it as soon as it is grown.")] = False,
    **options: Any,
) -> None:
    """Grow a model from a character, a text or chats."""
    if talk and text is not None:
        raise ValueError("--talk is for characters and chats; a model of text goes on with it: barreleye generate RUN")
    if resume is not None:
        given = {
            "a character": persona,
            "--mix": mix,
            "--text": text,
            "--chats": chats,
            "--preset": preset,
            "--out": out,
            "--from": from_run,
        }
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"--resume goes on with a run as it was: leave out {name}")
    from barreleye.training import grow

    if resume is not None:
        run = grow.resume(resume, quiet=quiet, track=track, **options)
    else:
        sources: dict[str, Any] = dict(mix=mix, text=text, chats=chats)
        where: dict[str, Any] = dict(preset=preset, out=out, from_run=from_run, quiet=quiet, track=track)
        run = grow.grow(persona, **sources, **where, **options)
    if talk and run.step >= run.config.train.steps:  # not after Ctrl-C: who stops it wants to leave
        chat(str(run.path))


app.command(rich_help_panel=TALK)(chat)
app.command(rich_help_panel=TALK)(generate)
app.command(rich_help_panel=LOOK)(look)
app.command(rich_help_panel=LOOK)(studio)
app.command(rich_help_panel=LOOK)(ablate)
app.command(rich_help_panel=CARRY)(export)
app.command(rich_help_panel=CARRY, name="import")(import_)
app.command(rich_help_panel=CARRY)(push)


@app.command(rich_help_panel=LOOK)
@with_knobs("model")
def count(
    preset: Annotated[str, typer.Argument(help=f"One of: {', '.join(PRESETS)}.")] = "fish",
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Rows of the embedding.")] = None,
    **options: Any,
) -> None:
    """Show every component of a model: shape, parameters, FLOPs, memory."""
    from barreleye import config
    from barreleye.model.count import count as count_model
    from barreleye.show import count_table

    chosen = config.preset(preset)
    model = dataclasses.replace(chosen.model, vocab_size=vocab_size or chosen.usual_vocab, **options)
    count_table(preset, model, chosen.train, count_model(model, chosen.train.batch_tokens, chosen.train.optimizer))


@app.command(rich_help_panel=LOOK)
def runs(folder: Annotated[Path, typer.Argument(help="Where the runs are.")] = Path("runs")) -> None:
    """List the runs here."""
    from barreleye.run import list_runs
    from barreleye.show import runs_table

    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; `barreleye train` makes one")
    runs_table(list_runs(folder))


@app.command(rich_help_panel=LOOK, name="eval")
def evaluate(
    run: RunArgument,
    other: Annotated[str | None, typer.Argument(help="Another run, to put beside it.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what was measured already.")] = False,
) -> None:
    """Judge a run: against baselines, by heart or not, in character, on topic, what it remembers."""
    from barreleye.evaluation import evaluate as judge
    from barreleye.evaluation import report
    from barreleye.run import Run
    from barreleye.show import show_report

    opened = [Run(name) for name in (run, other) if name is not None]
    evaluations = []
    for each in opened:
        evaluation = None if again else judge.saved(each)
        if evaluation is None:
            evaluation = judge.evaluate(each, functools.partial(print, f"{each.name}:", flush=True))
            judge.save(each, evaluation)
        report.write_evaluation_page(each, evaluation)
        evaluations.append(evaluation)
    if other is None:
        show_report(report.summary(evaluations[0]), report.sections(evaluations[0]))
        print(f"as a page: {opened[0].path / 'reports' / 'evaluation.html'}")
    else:
        a, b = evaluations
        show_report(*report.comparison(a, b, judge.compare(a, b)))


@app.command(rich_help_panel=LOOK)
def doctor(run: RunArgument) -> None:
    """Say what went wrong while a run learned, on what evidence, and what to try."""
    from barreleye.run import Run
    from barreleye.show import show_findings
    from barreleye.training import bands
    from barreleye.training.doctor import diagnose, unseen

    opened = Run(run)
    show_findings(diagnose(opened), unseen(opened), bands.compare(opened))
