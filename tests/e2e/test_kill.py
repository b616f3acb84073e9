"""Trainings killed and interrupted, in processes of their own; benchmarks/kill_resume.py does it twenty times."""

import random
import signal
import sys
from pathlib import Path

import pytest

from barreleye.run import Run

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import kill_resume

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL, and no SIGINT for another process")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kill_resume.write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    kill_resume.finish(text, run)
    return run


def test_three_kills_change_no_byte(tmp_path: Path, text: Path, unbroken: Path) -> None:
    rng, run = random.Random(5), tmp_path / "killed"
    for _ in range(3):
        kill_resume.kill(text, run, rng)
    assert not Run(run).is_live and Run(run).step < kill_resume.STEPS
    kill_resume.finish(text, run)
    assert kill_resume.learned(run) == kill_resume.learned(unbroken)
    assert kill_resume.record(run) == kill_resume.record(unbroken)
    assert not list(run.rglob("*.partial"))


def test_ctrl_c_saves_and_leaves_and_changes_no_byte(tmp_path: Path, text: Path, unbroken: Path) -> None:
    run = tmp_path / "interrupted"
    process = kill_resume.start(text, run)
    kill_resume.wait_for_step(process, run, 13)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 0
    stopped = Run(run)
    steps = [line["step"] for line in stopped.metrics() if "loss" in line]
    assert 13 <= stopped.step == steps[-1] < kill_resume.STEPS
    assert stopped.load_state()[0] == stopped.step and stopped.load_model()
    kill_resume.finish(text, run)
    assert kill_resume.learned(run) == kill_resume.learned(unbroken)
    ours, theirs = ([line for line in kill_resume.record(each) if "loss" in line] for each in (run, unbroken))
    assert ours == theirs  # beside them stands what the model said when it was interrupted
