"""Record what a loss usually is: finished runs of one preset on the same data become a band of bands.json.

    python benchmarks/bands.py RUN [RUN ...]
    python benchmarks/bands.py --grow PRESET TEXT [--seeds 3]

The second grows the runs first, as `barreleye train --text TEXT --preset PRESET --seed N` does.
"""

import argparse
import json
import tempfile
from importlib import resources
from pathlib import Path

from barreleye import Run, grow
from barreleye.training.bands import band_of, compare, shipped
from barreleye.training.record import Record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--grow", nargs=2, metavar=("PRESET", "TEXT"))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        opened = [Run(name) for name in given.runs]
        if given.grow:
            preset, text = given.grow
            for seed in range(1, given.seeds + 1):
                opened.append(grow(text=text, preset=preset, seed=seed, out=Path(folder, str(seed)), quiet=True))
                print(f"grown: seed {seed}", flush=True)
        new = band_of([Record.of(run.config, run.metrics()) for run in opened])
        same = ("preset", "kind", "unigram", "bigram")
        others = [band for band in shipped() if any(band[key] != new[key] for key in same)]
        file = Path(str(resources.files("barreleye.training").joinpath("bands.json")))
        file.write_text(json.dumps([*others, new], indent=1) + "\n", encoding="utf-8")
        for run in opened:
            print(f"{run.name}: {compare(run)}")


if __name__ == "__main__":
    main()
