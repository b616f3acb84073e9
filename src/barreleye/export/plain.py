"""A folder that runs with only NumPy installed: the pages of `inference/plain*.py`, and the run's own files."""

import dataclasses
import inspect
from pathlib import Path
from types import ModuleType

from barreleye.export.folder import whole_folder
from barreleye.files import copy_file, to_json, write_file
from barreleye.inference import plain, plain_chat, plain_text, plain_weights
from barreleye.run import Run

PAGES: dict[str, ModuleType] = {
    "plain": plain,
    "weights": plain_weights,
    "tokenizer": plain_text,
    "chat": plain_chat,
}


def export_plain(run: Run, out: Path) -> list[Path]:
    """Write the run's model as a folder of Python pages, weights and tokenizer; `python chat.py` talks in it.

    Returns the files written. Raises ValueError where `out` holds something, or the model has a part of its own."""
    plain_weights.load_weights(run.path / "model" / "model.safetensors", run.config.model)  # else it would not run
    plain_text.PlainTokenizer(run.path / "model" / "tokenizer.json")
    with whole_folder(out) as folder:
        for name, page in PAGES.items():
            write_file(folder / f"{name}.py", apart(inspect.getsource(page)).encode())
        chat = run.tokenizer.chat
        knobs = dataclasses.asdict(run.config.model)
        knobs["chat"] = chat and {"tidy": chat.tidy, "system": chat.system}
        write_file(folder / "config.json", to_json(knobs))
        for name in ("model.safetensors", "tokenizer.json"):
            copy_file(run.path / "model" / name, folder / name)
        write_file(folder / "README.md", readme(run.name).encode())
        written = sorted(folder.iterdir())
    return [out / file.name for file in written]


def apart(source: str) -> str:
    """A page as it stands alone: it imports the other pages from beside it."""
    for name, page in PAGES.items():
        source = source.replace(f"from {page.__name__} import", f"from {name} import")
    return source


def readme(name: str) -> str:
    return f"""# {name}

A language model of Barreleye, and all the code that it takes to run it.
It needs Python 3.11 and NumPy: `python chat.py`.

- `plain.py`: the whole model and the sampler
- `tokenizer.py`: text to token ids
- `weights.py`: reads `model.safetensors`
- `chat.py`: the conversation
- `config.json`: the model's knobs, and how a chat is spelled
"""
