"""Kill trainings with SIGKILL at random moments, resume them, and compare what they become, byte for byte, with one
that nobody killed: the weights, the state, and all of the record but its clock.

    python benchmarks/kill_resume.py [--runs 20] [--kills 1]
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import tell

STEPS = 60
OPTIONS = (
    "--steps 60 --save-every 4 --sample-every 10 --eval-every 6 --dropout 0.1 --n-layers 2 --n-heads 2 --d-model 32 "
    "--d-ff 64 --context-length 32 --batch-tokens 256 --device cpu --threads 1 --quiet"
).split()


def write_text(folder: Path) -> Path:
    rng = random.Random(0)
    words = "fish swim deep dark water light snow krill eye glass and the in under".split()
    text = folder / "sea.txt"
    text.write_text("".join(" ".join(rng.choices(words, k=8)) + "\n" for _ in range(400)), encoding="utf-8")
    return text


def start(text: Path, run: Path) -> subprocess.Popen[str]:
    """Begin a training, or go on with it where something was saved."""
    saved = any((run / "state").glob("[0-9]*"))
    arguments = ["--resume", str(run)] if saved else ["--text", str(text), "--out", str(run), *OPTIONS]
    return subprocess.Popen([sys.executable, "-m", "barreleye", "train", *arguments], stdout=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Until so many steps are recorded, or the process ends; step 0 is reached when there is a folder."""
    record = run / "metrics.jsonl"
    while process.poll() is None and not (run.exists() if step == 0 else steps_in(record) >= step):
        time.sleep(0.001)


def steps_in(record: Path) -> int:
    return record.read_bytes().count(b'"grad_norm": ') if record.exists() else 0


def kill(text: Path, run: Path, rng: random.Random) -> int:
    """Kill a training a moment after a random step; returns the step it was to be killed after."""
    step = rng.randrange(STEPS - 10)
    process = start(text, run)
    wait_for_step(process, run, step)
    time.sleep(rng.uniform(0, 0.03))
    process.kill()
    process.communicate()
    return step


def finish(text: Path, run: Path) -> None:
    process = start(text, run)
    process.communicate()
    assert process.returncode == 0, f"the training left with exit code {process.returncode}"


def learned(run: Path) -> bytes:
    """The model and the last state."""
    files = ("model/model.safetensors", f"state/{STEPS}/state.safetensors")
    return b"".join((run / file).read_bytes() for file in files)


def record(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="how many trainings are killed")
    parser.add_argument("--kills", type=int, default=1, help="how often each of them")
    arguments = parser.parse_args()
    rng, equal = random.Random(0), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = write_text(folder)
        finish(text, folder / "unbroken")
        expected = learned(folder / "unbroken"), record(folder / "unbroken")
        for n in range(arguments.runs):
            run = folder / f"killed-{n}"
            steps = [kill(text, run, rng) for _ in range(arguments.kills)]
            finish(text, run)
            same = (learned(run), record(run)) == expected
            equal += same
            print(f"killed after step {', '.join(map(str, steps))}: {'equal' if same else 'DIFFERENT'}", flush=True)
    tell(f"killed and resumed, the same bytes, of {arguments.runs}", equal, arguments.runs, "runs")
    sys.exit(equal < arguments.runs)


if __name__ == "__main__":
    main()
