"""Small models of every variant, with a tokenizer, to look into."""

import sys
from pathlib import Path
from typing import Any

import pytest

from barreleye.data.tokenizer import learn_characters
from barreleye.lens.subject import Subject

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from test_transformer import CONTEXT, EVERY_VARIANT, VARIANTS, VOCAB, build

LETTERS = learn_characters("abcdefghijklmnopq")
TEXT, OTHER = "abcadeabcq", "qbcadeanom"

assert LETTERS.vocab_size == VOCAB

MODERN: dict[str, Any] = dict(positions="rope", norm="rmsnorm", activation="swiglu", n_kv_heads=2, bias=False)
PRESETS = pytest.mark.parametrize("variant", [{}, MODERN, dict(d_ff=0)], ids=["vanilla", "modern", "attention only"])

__all__ = ["CONTEXT", "EVERY_VARIANT", "LETTERS", "MODERN", "OTHER", "PRESETS", "TEXT", "VARIANTS", "subject"]


def subject(**knobs: Any) -> Subject:
    return Subject(build(**knobs), LETTERS)
