"""Drive every bad input of tests/e2e through the command line and count how many end in one clear line.

python benchmarks/bad_inputs.py
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))  # the table stands beside its tests

import bad_data
import bad_inputs
import bad_options
import bad_runs
from machine import tell


def main() -> None:
    cases = [*bad_data.CASES, *bad_runs.CASES, *bad_options.CASES]
    kept = 0
    with tempfile.TemporaryDirectory() as temporary:
        world = Path(temporary, "world")
        world.mkdir()
        bad_inputs.build_world(world)
        for number, case in enumerate(cases):
            folder = Path(temporary, str(number))
            shutil.copytree(world, folder)
            wrong = list(bad_inputs.problems(case, folder))
            kept += not wrong
            for problem in wrong:
                print(f"barreleye {case.command[:100]!a}\n    {problem}")
            shutil.rmtree(folder)
    tell(f"bad inputs answered with one line and exit 2, of {len(cases)}", kept, len(cases), "inputs")
    sys.exit(kept < len(cases))


if __name__ == "__main__":
    main()
