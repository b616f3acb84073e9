"""Which run is meant: a name is compared with what lies in the folder, and never becomes a path."""

from collections.abc import Callable
from pathlib import Path

from barreleye.run import Run


class NoSuchRun(KeyError):
    """404: the folder has no run of this name."""

    def __str__(self) -> str:
        return str(self.args[0])


def run_named(folder: Path, name: str) -> Run:
    """The run of this name in the folder. Raises NoSuchRun where there is none, ValueError where it is damaged."""
    path = entry_named(folder, name, is_run)
    return Run(path.absolute())


def entry_named(folder: Path, name: str, counts: Callable[[Path], bool]) -> Path:
    """The folder of this name, if it counts as a run. Raises NoSuchRun."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name == name and counts(path):
            return path
    raise NoSuchRun(f"there is no run {name[:100]!r} here")


def is_run(path: Path) -> bool:
    """Whether a training wrote here, as far as one may look."""
    try:
        return (path / "config.toml").is_file()
    except OSError:
        return False
