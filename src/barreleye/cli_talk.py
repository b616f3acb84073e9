"""The verbs that let a model write: chat, generate."""

import contextlib
import itertools
import sys
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from barreleye.config import Sampling
from barreleye.options import RunArgument, WithoutOption, with_knobs

EngineOption = Annotated[str, typer.Option(help="auto, fast, int8, torch or plain: what decodes.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
PATIENCE = 1.5  # seconds


@with_knobs("sampling")
def chat(
    run: RunArgument,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Answer this and leave (repeat it for a conversation).")
    ] = None,
    character: Annotated[str | None, typer.Option("--as", help="Which character of a mix talks.")] = None,
    system: Annotated[str, typer.Option(help="A system turn to begin with.")] = "",
    as_typed: Annotated[bool, typer.Option("--as-typed", help="Do not mend typos before the model reads.")] = False,
    without: WithoutOption = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "cpu",
    **options: Any,
) -> None:
    """Talk to a character."""
    from barreleye.data import spelling
    from barreleye.inference.chat import Chat

    opened, model, tokenizer = load(run, device, engine, without)
    if tokenizer.chat is None:
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


@with_knobs("sampling")
def generate(
    run: RunArgument,
    prompt: Annotated[str | None, typer.Option(help="The text to go on from (default: a new line).")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="How many tokens to write.")] = 300,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text (may be repeated).")] = None,
    without: WithoutOption = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "cpu",
    **options: Any,
) -> None:
    """Let a model go on with a text."""
    from barreleye.inference import generate as inference

    if prompt == "":
        raise ValueError("--prompt is empty; give the model something to go on from")
    if stop and "" in stop:
        raise ValueError("--stop is empty; give the text to end before")
    _, model, tokenizer = load(run, device, engine, without)
    prompt = prompt or beginning(tokenizer)
    pieces = inference.generate(model, tokenizer, prompt, max_tokens, Sampling(**options), stop or ())
    for piece in itertools.chain([prompt], pieces):
        print(piece, end="", flush=True)
    print()


def cast(run: Any, character: str | None) -> str:
    """The system turn for a character of a mix: the first one, unless told."""
    there = run.characters
    if character is None:
        return there[0] if there else ""
    if character not in there:
        known = f"it has {', '.join(there)}" if there else "it has one character; leave out --as"
        raise ValueError(f"--as {character}: {run.path} has learned no such character; {known}")
    return character


def load(run: str, device: str, engine: str, without: list[str] | None = None) -> tuple[Any, Any, Any]:
    """The run, its model ready to be decoded (with some of its parts taken out), and its tokenizer."""
    from barreleye.inference.engine import make_decoder
    from barreleye.run import Run
    from barreleye.training.device import pick_device

    device, opened = pick_device(device), Run(run)
    tokenizer = opened.tokenizer  # first: it is the faster one to find wrong
    model = opened.load_model(device)
    if without:
        from barreleye.lens.edits import edited, zero

        if engine not in ("auto", "torch"):
            raise ValueError(f"--without needs every activation, which --engine {engine} does not show; leave it out")
        return opened, edited((model, tokenizer), dict.fromkeys(without, zero)), tokenizer
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
