"""Which run is meant: a name is compared with what lies in the folder, and never becomes a path."""

from pathlib import Path

from barreleye.run import Run


class NoSuchRun(KeyError):
    """404: the folder has no run of this name."""

    def __str__(self) -> str:
        return str(self.args[0])


def run_named(folder: Path, name: str) -> Run:
    """The run of this name in the folder. Raises NoSuchRun where there is none, ValueError where it is damaged."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name == name and (entry / "config.toml").is_file():
            return Run(entry.absolute())
    raise NoSuchRun(f"there is no run {name[:100]!r} here")
