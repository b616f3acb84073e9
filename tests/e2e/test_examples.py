"""The examples, run as a learner would run them: each learns what it says, on what it has not seen."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import barreleye

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 60  # lines: an example is a page
RETURN_OF_MAIN = "import json, runpy, sys; print(json.dumps(runpy.run_path(sys.argv[1])['main']()))"


def figures(name: str) -> Any:
    """What the `main` of an example returns, in a process of its own: examples change the package's parts."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", RETURN_OF_MAIN, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(Path(barreleye.__file__).parents[1])},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_is_a_page(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adder.py", "sort.py"])
def test_is_exact_on_what_it_has_not_seen(name: str) -> None:
    assert figures(name) >= 0.99


@pytest.mark.slow
def test_own_part_learns_and_attention_to_what_is_near_helps() -> None:
    losses = figures("own_part.py")
    # Measured: 2.06, 2.04, 1.46. Knowing no more than how frequent each letter is would be 3.0.
    assert losses["as it comes"] < 2.4
    assert losses["snake activation"] < 2.4
    assert losses["ALiBi"] < losses["as it comes"] - 0.3
