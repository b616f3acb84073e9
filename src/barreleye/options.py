"""Command-line options made from the configuration's fields, so that none is written twice."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from barreleye.config import SECTIONS, Sampling

KNOBS = SECTIONS | {"sampling": Sampling}
RunArgument = Annotated[str, typer.Argument(help="A run: its folder, or its name under runs/.")]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ADDRESS", help='Take out a part, as "blocks.1.attn.hook_z[head=3]" (may be repeated).'),
]
NOT_OPTIONS = {"kind", "source", "from_run", "vocab_size"}  # given by other arguments, or by the tokenizer


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
