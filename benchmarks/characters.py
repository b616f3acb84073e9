"""The four characters, judged: grows each where it is not grown yet, evaluates it, and holds it to what is promised.

    python benchmarks/characters.py [RUN ...]

Without runs: runs/fish, runs/cat, runs/bard, runs/tycoon, each grown with the default recipe first if it is not there.
The evaluation is `barreleye eval`'s; its page and raw outputs are in each run's reports/. Exit code 1 where a promise
is not kept.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from barreleye import Run, grow
from barreleye.evaluation.evaluate import Evaluation, evaluate, save, saved
from barreleye.evaluation.report import write_evaluation_page

CHARACTERS = ("fish", "cat", "bard", "tycoon")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="finished runs of one character each (default: all four, grown here)")
    names = parser.parse_args().runs or [str(Path("runs", name)) for name in CHARACTERS]
    kept = []
    for name in names:
        run = Run(name) if Path(name).exists() else grow(Path(name).name, out=name)
        minutes = max(line["seconds"] for line in run.metrics() if "seconds" in line) / 60
        evaluation = saved(run)
        if evaluation is None:
            evaluation = evaluate(run, lambda part, of=run.name: print(f"{of}: {part}", flush=True))  # type: ignore[misc]
            save(run, evaluation)
            write_evaluation_page(run, evaluation)
        print(f"{run.name}: {run.step:,} steps in {minutes:.1f} minutes")
        for promise, figures, holds in promises(evaluation, run.corpus().report["overlap"]):
            print(f"  {'holds' if holds else 'FALLS SHORT':11}  {promise:52}  {figures}")
            kept.append(holds)
    sys.exit(not all(kept))


def promises(evaluation: Evaluation, overlap: int) -> Iterator[tuple[str, str, bool]]:
    """(what is promised, what was measured, whether it holds)"""
    scored = evaluation.parts["scores"]["sets"]["unseen prompts"]
    for name, margin in scored["differences"].items():
        bits = f"{scored['model']['value']:.3f} against {scored['baselines'][name]['value']:.3f} bits per byte"
        yield f"unseen prompts: beats {name}", f"{bits}, difference {interval(margin)}", margin["high"] < 0
    yield "prompts on both sides of the split: 0", str(overlap), overlap == 0
    for name, manner in evaluation.parts["manners"].items():
        voice, topic = manner["in_character"]["share"], manner["relevance"]["of_ceiling"]
        yield "in character >= 97%", percent(voice), voice["value"] >= 0.97
        yield "on the topic asked >= 90% of the ceiling", percent(topic), topic["value"] >= 0.90
        for change in ("ALL CAPS", "one typo"):
            drops = evaluation.parts["robustness"][change][name]
            for key, what in (("in_character", "in character"), ("relevance", "on topic")):
                lost = drops[key]["points"]
                yield f"{change}: {what} loses <= 3 points", interval(lost, 1), lost["value"] <= 3
        for rate in evaluation.parts["recall"]:
            if (rate["character"], rate["slot"], rate["known"], rate["distance"]) == (name, "person", True, 2):
                share = rate["share"]
                yield "a name told two turns earlier: recalled >= 90%", percent(share), share["value"] >= 0.90


def interval(figure: dict[str, Any], digits: int = 3) -> str:
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def percent(figure: dict[str, Any]) -> str:
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
