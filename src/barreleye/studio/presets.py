"""What a training may be started with: the characters of the house, and what each preset sets the knobs to."""

import dataclasses
from typing import Any

from fastapi import APIRouter

from barreleye.config import PRESETS
from barreleye.data.sheet_file import persona_names

router = APIRouter()


@router.get("/api/presets")
def presets() -> dict[str, Any]:
    """{characters: names, presets: {name: {about, knobs}}}."""
    found = {
        name: {"about": each.about, "knobs": dataclasses.asdict(each.model) | dataclasses.asdict(each.train)}
        for name, each in PRESETS.items()
    }
    return {"characters": persona_names(), "presets": found}
