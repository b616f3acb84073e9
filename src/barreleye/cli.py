"""The command line: one thin verb per capability, which parses, calls one library function, and prints.

Nothing heavy is imported before the verb that needs it, so that `barreleye --help` answers at once.
"""

import contextlib
import dataclasses
import errno
import functools
import io
import itertools
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from barreleye.cli_data import data_app, persona_app
from barreleye.config import PRESETS, Sampling
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

GROW, TALK, LOOK = "Grow", "Talk", "Look"
ENDED_BY_PIPE = 128 + 13  # what a shell reports of a program that wrote to a closed pipe
LONGEST_LINE = 1000
PATIENCE = 1.5  # seconds
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
        run = grow.resume(resume, quiet=quiet, **options)
    else:
        sources: dict[str, Any] = dict(mix=mix, text=text, chats=chats)
        run = grow.grow(persona, **sources, preset=preset, out=out, from_run=from_run, quiet=quiet, **options)
    if talk and run.step >= run.config.train.steps:  # not after Ctrl-C: who stops it wants to leave
        chat(str(run.path))


@app.command(rich_help_panel=TALK)
@with_knobs("sampling")
def chat(
    run: RunArgument,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Answer this and leave (repeat it for a conversation).")
    ] = None,
    character: Annotated[str | None, typer.Option("--as", help="Which character of a mix talks.")] = None,
    system: Annotated[str, typer.Option(help="A system turn to begin with.")] = "",
    as_typed: Annotated[bool, typer.Option("--as-typed", help="Do not mend typos before the model reads.")] = False,
    engine: Annotated[str, typer.Option(help="auto, fast, int8 or torch: what decodes.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "cpu",
    **options: Any,
) -> None:
    """Talk to a character."""
    from barreleye.data import spelling
    from barreleye.inference.chat import Chat

    opened, model, tokenizer = load(run, device, engine)
    if not tokenizer.special_ids:
        raise ValueError(f"{run} learned text, not chats; try: barreleye generate {run}")
    if prompt and not all(text.strip() for text in prompt):
        raise ValueError("--prompt is empty; say something")
    conversation = Chat(model, tokenizer, Sampling(**options), system or cast(opened, character))
    read = spelling.as_typed if as_typed else opened.spelling()
    for typed in prompt or ask_person():
        if (text := read(typed)) != typed:
            print(f"(read as: {text})", file=sys.stderr)
        try:
            for piece in conversation.stream(text):
                print(piece, end="", flush=True)
        except ValueError as error:  # too long, or a character the model has not seen: no reason to hang up
            if prompt:
                raise
            print(f"({error})", end="")
        print()


@app.command(rich_help_panel=TALK)
@with_knobs("sampling")
def generate(
    run: RunArgument,
    prompt: Annotated[str | None, typer.Option(help="The text to go on from (default: a new line).")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="How many tokens to write.")] = 300,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text (may be repeated).")] = None,
    engine: Annotated[str, typer.Option(help="auto, fast, int8 or torch: what decodes.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "cpu",
    **options: Any,
) -> None:
    """Let a model go on with a text."""
    from barreleye.inference import generate as inference

    if prompt == "":
        raise ValueError("--prompt is empty; give the model something to go on from")
    if stop and "" in stop:
        raise ValueError("--stop is empty; give the text to end before")
    _, model, tokenizer = load(run, device, engine)
    prompt = prompt or beginning(tokenizer)
    pieces = inference.generate(model, tokenizer, prompt, max_tokens, Sampling(**options), stop or ())
    for piece in itertools.chain([prompt], pieces):
        print(piece, end="", flush=True)
    print()


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


def cast(run: Any, character: str | None) -> str:
    """The system turn for a character of a mix: the first one, unless told."""
    there = run.characters
    if character is None:
        return there[0] if there else ""
    if character not in there:
        known = f"it has {', '.join(there)}" if there else "it has one character; leave out --as"
        raise ValueError(f"--as {character}: {run.path} has learned no such character; {known}")
    return character


def load(run: str, device: str, engine: str) -> tuple[Any, Any, Any]:
    """The run, its model ready to be decoded, and its tokenizer."""
    from barreleye.inference.engine import make_decoder
    from barreleye.run import Run
    from barreleye.training.device import pick_device

    device, opened = pick_device(device), Run(run)
    tokenizer = opened.tokenizer  # first: it is the faster one to find wrong
    model = opened.load_model(device)
    waiting = threading.Timer(
        PATIENCE, print, ["(getting ready; the first time takes longer ...)"], {"file": sys.stderr}
    )
    if sys.stderr is not None and sys.stderr.isatty():
        waiting.start()
    try:
        decoder, reason = make_decoder(model, engine)
    finally:
        waiting.cancel()
    if reason:
        print(f"(decoding with torch, which is slower: {reason})", file=sys.stderr)
    return opened, decoder, tokenizer


def beginning(tokenizer: Any) -> str:
    """A new line where the model knows one, else the first character that it knows."""
    try:
        tokenizer.encode("\n")
    except ValueError:
        return str(tokenizer.decode([0]))
    return "\n"


def ask_person() -> Iterator[str]:
    """Lines typed by a person (with history, where the terminal has it), until end of file or `/quit`."""
    if sys.stdin is None:
        raise ValueError("standard input is closed; give --prompt TEXT")
    on_terminal = sys.stdin.isatty()
    if on_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # makes input() editable
        print("say something (an empty line or Ctrl-D leaves)")
    while True:
        try:
            text = input("> " if on_terminal else "")
        except EOFError:
            return
        except UnicodeDecodeError:
            raise ValueError("standard input is not UTF-8; give --prompt TEXT") from None
        if not text.strip() or text.strip() == "/quit":
            return
        yield text
