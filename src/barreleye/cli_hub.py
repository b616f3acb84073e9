"""The verbs that bring models here, and take them to the Hugging Face Hub: import, push."""

from pathlib import Path
from typing import Annotated

import typer

from barreleye.options import RunArgument


def import_(
    source: Annotated[str, typer.Argument(help="A model folder, a nanoGPT ckpt.pt, or a name on the Hub.")],
    name: Annotated[str | None, typer.Option(help="The run to make (default: as the source is called).")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="DIR_OR_NAME", help="Where its tokenizer.json is, if not beside it.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="What a nanoGPT by characters learned from.")] = None,
    context_length: Annotated[int | None, typer.Option(min=1, help="Fewer positions than it knows.")] = None,
) -> None:
    """Make a run of a model from elsewhere: GPT-2, Llama, Mistral, Qwen; nanoGPT, GuppyLM."""
    from barreleye.export.importing import import_model
    from barreleye.model.count import count

    run = import_model(source, name, tokenizer=tokenizer, text=text, context_length=context_length, say=print)
    verb = "generate" if run.tokenizer.chat is None else "chat"
    print(f"{count(run.config.model).parameters:,} parameters in {run.path}; try: barreleye {verb} {run.path}")


def push(
    run: RunArgument,
    name: Annotated[str, typer.Argument(help="What to call it on the Hub, as owner/name.")],
    private: Annotated[bool, typer.Option("--private", help="Let nobody else see it.")] = False,
    data: Annotated[
        bool | None, typer.Option(help="Also what it learned from (default: where a character sheet made it).")
    ] = None,
) -> None:
    """Upload a run to the Hugging Face Hub: the model, and the conversations that it learned from."""
    from barreleye.export.hub import push as upload
    from barreleye.run import Run

    for address in upload(Run(run), name, private, data):
        print(address)
