"""The verb that carries a run to other tools: export."""

from pathlib import Path
from typing import Annotated

import typer

FORMATS = {
    "huggingface": "transformers",
    "gguf": "llama.cpp, Ollama",
    "onnx": "ONNX Runtime, transformers.js",
    "plain": "NumPy alone",
    "html": "a browser: one page to talk and look in",
}


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help='A run: its folder, or its name under runs/; or "check".')],
    to: Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of: {', '.join(FORMATS)}; after check, the run.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The folder to write (default: NAME-FORMAT, here); html: the file (default: NAME.html)."
        ),
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="gguf: f32, f16 or q8_0 (default: f16).")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="onnx: also with matrices in 8 bits.")] = False,
    snapshots: Annotated[int | None, typer.Option(help="html: moments of the training to slide through.")] = None,
) -> None:
    """Write a run as other tools read it; `export check RUN` compares what they compute with what the run does."""
    from barreleye.config import did_you_mean
    from barreleye.run import Run

    if run in FORMATS and to not in FORMATS:
        run, to = to, run  # the other way round is as clear
    if run == "check" and to not in FORMATS:
        if out is not None or quantize is not None or int8 or snapshots is not None:
            raise ValueError("export check writes every format and keeps none; leave out its options")
        check(to)
        return
    if to not in FORMATS:
        raise ValueError(f"there is no format {to!r}{did_you_mean(to, list(FORMATS))}")
    for option, given, only in (
        ("--quantize", quantize is not None, "gguf"),
        ("--int8", int8, "onnx"),
        ("--snapshots", snapshots is not None, "html"),
    ):
        if given and to != only:
            raise ValueError(f"{option} is for {only}; leave it out")
    opened = Run(run)
    out = out or Path(f"{opened.name}.html" if to == "html" else f"{opened.name}-{to}")
    try:
        if to == "gguf":
            from barreleye.export.gguf import export_gguf

            written = export_gguf(opened, out, quantize or "f16")
        elif to == "onnx":
            from barreleye.export.onnx import export_onnx

            written = export_onnx(opened, out, int8)
        elif to == "huggingface":
            from barreleye.export.huggingface import export_huggingface

            written = export_huggingface(opened, out)
        elif to == "html":
            from barreleye.export.html import export_html

            written = export_html(opened, out, snapshots or 0)
        else:
            from barreleye.export.plain import export_plain

            written = export_plain(opened, out)
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed; pip install 'barreleye[export]'") from None
    for file in written:
        print(file)


def check(run: str) -> None:
    import dataclasses

    from rich.console import Console
    from rich.progress import track

    from barreleye.export.check import check as compare
    from barreleye.files import to_json, write_file
    from barreleye.run import Run
    from barreleye.show import parity_table

    opened = Run(run)
    console = Console(stderr=True)
    asking = track(
        compare(opened), "asking each program", console=console, transient=True, disable=not console.is_terminal
    )
    rows = list(asking)
    parity_table(opened.name, rows)
    (opened.path / "reports").mkdir(exist_ok=True)
    write_file(opened.path / "reports" / "export.json", to_json([dataclasses.asdict(row) for row in rows]))
