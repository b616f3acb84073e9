"""The model card of a run: what its folder knows of it, written into its model folder."""

import json
from pathlib import Path
from typing import Any

from barreleye.files import write_file
from barreleye.model.card import card_of
from barreleye.run import Run


def write_model_card(run: Run) -> None:
    """README.md of the model folder."""
    write_file(run.path / "model" / "README.md", model_card(run).encode())


def model_card(run: Run, data_set: str = "") -> str:
    """Markdown, as `card_of`, with the figures that there are; an evaluation where the weights are still those."""
    evaluation = _read(run.path / "reports" / "evaluation.json")
    return card_of(
        run.name,
        run.config,
        (run.path / "model" / "chat_template.jinja").exists(),
        lines=run.metrics(),
        split=_read(run.path / "data" / "report.json"),
        evaluation=evaluation if evaluation.get("step") == run.step else {},
        data_set=data_set,
    )


def _read(file: Path) -> dict[str, Any]:
    """Nothing for a file that is missing or damaged: a card shows what there is."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
