"""A folder to be carried away: whole or absent, and never over what is there."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from barreleye.files import PARTIAL, sync_folder


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write into, renamed to `path` once all is well. Raises ValueError where `path` holds
    something."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is there already; remove it, or choose another --out")
    path = path.absolute()
    partial = path.with_name(f".{path.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.rmdir()
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(path.parent)
