"""The command line: one thin verb per capability, which parses, calls one library function, and prints.

Nothing heavy is imported before the verb that needs it, so that `barreleye --help` answers at once.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from barreleye.config import PRESETS, SECTIONS, Sampling

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Grow a small language model, talk to it, look inside.",
)
persona_app = typer.Typer(no_args_is_help=True, help="Character sheets: list them, sample them, check them.")
app.add_typer(persona_app, name="persona")

# click's, or that of typer's own copy of click: they differ by version, their family does not.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

GROW, TALK, LOOK = "Grow", "Talk", "Look"
KNOBS = SECTIONS | {"sampling": Sampling}
NOT_OPTIONS = {"kind", "source", "vocab_size"}  # given by other arguments, or by the tokenizer


def main() -> None:
    """Run the command line. A person's mistake is one line on standard error and exit code 2."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="barreleye", standalone_mode=False))
    except UsageError as error:
        fail(f"{error.format_message()} (barreleye --help lists what there is)")  # type: ignore[attr-defined]
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        fail(f"{place}{error.strerror or error}; nothing that was saved before is lost")
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


def fail(message: str) -> None:
    line = " ".join(message.split())
    print(f"barreleye: {line}", file=sys.stderr)
    sys.exit(2)


def with_knobs(*sections: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb one option for each field of these configuration sections; the verb gets those that were used as
    `**options`."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(verb)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        added = [
            inspect.Parameter(
                knob.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    knob.type | None,  # type: ignore[operator]
                    typer.Option(help=knob.metadata["help"], rich_help_panel=section, show_default=False),
                ],
            )
            for section in sections
            for knob in dataclasses.fields(KNOBS[section])
            if knob.name not in NOT_OPTIONS
        ]
        names = {parameter.name for parameter in added}

        def wrapped(**given: Any) -> None:
            options = {name: given.pop(name) for name in names if name in given}
            verb(**given, **{name: value for name, value in options.items() if value is not None})

        wrapped.__name__, wrapped.__doc__ = verb.__name__, verb.__doc__
        wrapped.__signature__ = signature.replace(parameters=own + added)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in own + added}
        return wrapped

    return decorate


RunArgument = Annotated[str, typer.Argument(help="A run: its folder, or its name under runs/.")]


@app.command(rich_help_panel=GROW)
@with_knobs("train", "model", "data")
def train(
    persona: Annotated[str | None, typer.Argument(help="A character: its name, or its sheet (YAML).")] = None,
    text: Annotated[str | None, typer.Option(help='Learn from a text file, or "shakespeare".')] = None,
    chats: Annotated[str | None, typer.Option(help="Learn from chats (JSONL).")] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"One of: {', '.join(PRESETS)} (fish unless told; tiny for text).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder (default: runs/<name>).")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a run from where it stopped.")] = None,
    from_run: Annotated[str | None, typer.Option("--from", metavar="RUN", help="Start from a run's weights.")] = None,
    quiet: Annotated[bool, typer.Option(help="Print nothing on the way.")] = False,
    **options: Any,
) -> None:
    """Grow a model from a character, a text or chats."""
    if resume is not None:
        given = {
            "a character": persona,
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
        grow.resume(resume, quiet=quiet, **options)
    else:
        preset = preset or ("tiny" if text else "fish")
        grow.grow(persona, text=text, chats=chats, preset=preset, out=out, from_run=from_run, quiet=quiet, **options)


@app.command(rich_help_panel=TALK)
@with_knobs("sampling")
def chat(
    run: RunArgument,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Answer this and leave (repeat it for a conversation).")
    ] = None,
    system: Annotated[str, typer.Option(help="A system turn to begin with.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    **options: Any,
) -> None:
    """Talk to a character."""
    from barreleye.inference.chat import Chat

    model, tokenizer = load(run, device)
    if not tokenizer.special_ids:
        raise ValueError(f"{run} learned text, not chats; try: barreleye generate {run}")
    conversation = Chat(model, tokenizer, Sampling(**options), system)
    for text in prompt if prompt is not None else ask_person():
        for piece in conversation.stream(text):
            print(piece, end="", flush=True)
        print()


@app.command(rich_help_panel=TALK)
@with_knobs("sampling")
def generate(
    run: RunArgument,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")] = "\n",
    max_tokens: Annotated[int, typer.Option(min=1, help="How many tokens to write.")] = 300,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text (may be repeated).")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    **options: Any,
) -> None:
    """Let a model go on with a text."""
    from barreleye.inference import generate as inference

    if not prompt:
        raise ValueError("--prompt is empty; give the model something to go on from")
    model, tokenizer = load(run, device)
    print(prompt, end="", flush=True)
    for piece in inference.generate(model, tokenizer, prompt, max_tokens, Sampling(**options), stop or ()):
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


@persona_app.command("list")
def persona_list() -> None:
    """List the characters that come with the package."""
    from barreleye.data.sheet_file import load_persona, persona_names

    for name in persona_names():
        print(f"{name:10} {load_persona(name).description}")


@persona_app.command("sample")
def persona_sample(
    persona: Annotated[str, typer.Argument(help="A character's name, or a sheet.")],
    n: Annotated[int, typer.Option("-n", min=1, max=100_000, help="How many conversations.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other conversations.")] = 1,
) -> None:
    """Print conversations composed from a character sheet."""
    from barreleye.data.persona import converse
    from barreleye.data.sheet_file import load_persona

    sheet = load_persona(persona)
    for conversation in converse(sheet, {name: topic.ask for name, topic in sheet.all_topics.items()}, n, seed):
        print(f"-- {conversation.topic}")
        for message in conversation.messages:
            print(f"{'>' if message.role == 'user' else ' '} {message.content}")


@persona_app.command("check")
def persona_check(persona: Annotated[str, typer.Argument(help="A character's name, or a sheet.")]) -> None:
    """Say whether a character sheet is in order, and how much it can say."""
    from barreleye.data.persona import check
    from barreleye.show import persona_report

    persona_report(check(persona))


def load(run: str, device: str) -> tuple[Any, Any]:
    from barreleye.run import Run
    from barreleye.training.device import check_device

    check_device(device)
    opened = Run(run)
    return opened.load_model(device), opened.tokenizer


def ask_person() -> Any:
    """Lines typed by a person (with history, where the terminal has it), until end of file or `/quit`."""
    if sys.stdin.isatty():
        import contextlib

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # makes input() editable
        print("say something (an empty line or Ctrl-D leaves)")
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if not text.strip() or text.strip() == "/quit":
            return
        yield text
