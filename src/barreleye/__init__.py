"""Barreleye: a small language model with a transparent head.

Names are imported when first used, so that `import barreleye` does not wait for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Config": "config",
    "DataConfig": "config",
    "ModelConfig": "config",
    "PRESETS": "config",
    "Sampling": "config",
    "TrainConfig": "config",
    "preset": "config",
    "Conversation": "data.chat_format",
    "Message": "data.chat_format",
    "Persona": "data.sheet",
    "load_persona": "data.sheet_file",
    "ChatBatches": "data.batches",
    "IGNORE": "data.batches",
    "TextBatches": "data.batches",
    "Tokenizer": "data.tokenizer",
    "learn_bpe": "data.tokenizer",
    "learn_characters": "data.tokenizer",
    "KVCache": "model.cache",
    "Transformer": "model.transformer",
    "count": "model.count",
    "Run": "run",
    "Chat": "inference.chat",
    "generate": "inference.generate",
    "View": "lens.view",
    "look": "lens.view",
    "add": "lens.edits",
    "edit": "lens.edits",
    "edited": "lens.edits",
    "knock_out": "lens.edits",
    "mean": "lens.edits",
    "replace": "lens.edits",
    "zero": "lens.edits",
    "diff": "lens.timeline",
    "timeline": "lens.timeline",
    "import_model": "export.importing",
    "widget": "export.widget",
    "grow": "training.grow",
    "resume": "training.grow",
    "Step": "training.loop",
    "train": "training.loop",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'barreleye' has no attribute {name!r}")
    return getattr(import_module(f"barreleye.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
