"""A run as transformers reads it: a copy of its model folder, which is one from the first moment on."""

from pathlib import Path

from barreleye.export.folder import whole_folder
from barreleye.files import copy_file
from barreleye.model.huggingface import check_expressible
from barreleye.run import Run


def model_folder(run: Run) -> Path:
    """Where it lies. Raises ValueError, by name, for a model that no class of transformers computes, or that has no
    weights yet."""
    check_expressible(run.config.model)
    if not run.weights_file().is_file():
        raise ValueError(f"{run.path}: has no weights yet; train it first")
    return run.path / "model"


def export_huggingface(run: Run, out: Path) -> list[Path]:
    """Copy the model folder to the new folder `out`; returns the files written. Raises as `model_folder`."""
    source = model_folder(run)
    with whole_folder(out) as folder:
        files = sorted(file for file in source.iterdir() if file.is_file() and not file.name.startswith("."))
        for file in files:
            copy_file(file, folder / file.name)
    return [out / file.name for file in files]
