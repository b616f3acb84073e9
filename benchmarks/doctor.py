"""How often the doctor names the right cause first, and how often it cries wolf.

    python benchmarks/doctor.py [tuned | held-back | healthy ...] [--seeds 3]

The faults and the healthy runs are those of tests/training/faults.py; a third of the faults was held back while the
checks were tuned. A note is no alarm.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "training"))  # the table stands beside its tests

import faults

from barreleye.training.record import Finding


def said(examine: Callable[[Path], list[Finding]]) -> list[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        return examine(Path(folder))


def try_faults(which: list[faults.Fault], seeds: int) -> int:
    """How many were named first."""
    right = 0
    for fault in which:
        for seed in range(1, seeds + 1):
            found = said(lambda folder: faults.examined(fault, folder, seed))  # noqa: B023
            named = [finding.name for finding in found]
            is_right = named[:1] == [fault.cause]
            right += is_right
            print(f"  {'ok   ' if is_right else 'WRONG'} {fault.name}, seed {seed}: {'; '.join(named)}", flush=True)
            if not is_right:
                for finding in found:
                    print(f"          {finding.name}: {finding.evidence}")
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", default=["tuned", "held-back", "healthy"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="those whose name has this in it")
    given = parser.parse_args()
    for name, table in (("tuned", faults.TUNED), ("held-back", faults.HELD_BACK)):
        table = [fault for fault in table if given.only in fault.name]
        if name in given.which and table:
            right, tried = try_faults(table, given.seeds), len(table) * given.seeds
            print(f"{name}: the right cause first in {right} of {tried} ({right / tried:.0%})", flush=True)
    if "healthy" in given.which:
        alarms = notes = 0
        tried_on = [training for training in faults.HEALTHY if given.only in training.name]
        for training in tried_on:
            found = said(lambda folder: faults.healthy(training, folder))  # noqa: B023
            alarms += any(not finding.is_note for finding in found)
            notes += any(finding.is_note for finding in found)
            print(f"  {training.name}: {'; '.join(f'{f.name} ({f.evidence})' for f in found) or 'nothing'}", flush=True)
        print(f"healthy: {alarms} false alarms, {notes} notes in {len(tried_on)} runs")


if __name__ == "__main__":
    main()
