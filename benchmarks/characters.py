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

from barreleye import Run, grow
from barreleye.data.split import overlap
from barreleye.evaluation.evaluate import Evaluation, evaluate, save, saved
from barreleye.evaluation.recall import name_slot
from barreleye.evaluation.report import number, share, write_evaluation_page
from barreleye.evaluation.robustness import DISTANCE

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
        for promise, figures, holds in promises(run, evaluation):
            print(f"  {'holds' if holds else 'FALLS SHORT':11}  {promise:52}  {figures}")
            kept.append(holds)
    sys.exit(not all(kept))


def promises(run: Run, evaluation: Evaluation) -> Iterator[tuple[str, str, bool]]:
    """(what is promised, what was measured, whether it holds), of a run of one character"""
    corpus, ((name, persona),) = run.corpus(), run.personas().items()
    found = len(overlap(corpus.train, (*corpus.held_out, *corpus.unseen_topics)))
    yield "prompts on both sides of the split: 0", str(found), found == 0
    scored = evaluation.parts["scores"]["sets"]["unseen prompts"]
    for baseline, margin in scored["differences"].items():
        bits = f"{scored['model']['value']:.3f} against {scored['baselines'][baseline]['value']:.3f} bits per byte"
        yield f"unseen prompts: beats {baseline}", f"{bits}, difference {number(margin)}", margin["high"] < 0
    manner = evaluation.parts["manners"][name]
    voice, topic = manner["in_character"]["share"], manner["relevance"]["of_ceiling"]
    yield "in character >= 97%", share(voice), voice["value"] >= 0.97
    yield "on the topic asked >= 90% of the ceiling", share(topic), topic is not None and topic["value"] >= 0.90
    for change in ("ALL CAPS", "one typo"):
        drops = evaluation.parts["robustness"][change][name]
        for key, what in (("in_character", "in character"), ("relevance", "on topic")):
            lost = drops[key]["points"]
            yield f"{change}: {what} loses <= 3 points", number(lost, 1), lost["value"] <= 3
    asked = (name, name_slot(persona), True, DISTANCE)
    (rate,) = [r for r in evaluation.parts["recall"] if (r["character"], r["slot"], r["known"], r["distance"]) == asked]
    recalled = rate["share"]
    yield "a name told two turns earlier: recalled >= 90%", share(recalled), recalled["value"] >= 0.90


if __name__ == "__main__":
    main()
