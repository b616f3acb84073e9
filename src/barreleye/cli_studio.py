"""The verb that opens the page: studio."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer


def studio(
    folder: Annotated[Path, typer.Argument(help="Where the runs are, and will be.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: one that is free.")] = 0,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
) -> None:
    """Open the studio: grow, watch, talk and look inside, on a page of this machine."""
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ValueError(f"the studio needs {' and '.join(missing)}: pip install 'barreleye[studio]'")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name the one where the runs are")
    from barreleye.studio.app import serve

    serve(folder, port, open_page)
