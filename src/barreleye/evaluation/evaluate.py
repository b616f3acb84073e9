"""All that can be said of a run's replies, in one pass: `evaluate` measures, `compare` puts two runs side by side.

Every figure keeps what it was computed from: `reports/evaluation/*.jsonl` has a line for each reply.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from barreleye.config import Sampling
from barreleye.evaluation.character import NO_SHEET, Judge, judge_manners, unseen_questions
from barreleye.evaluation.diversity import diversity
from barreleye.evaluation.figures import Figure, paired
from barreleye.evaluation.memorization import extraction, originality, replies_of
from barreleye.evaluation.recall import NOTHING_TOLD, Recall, compose_recalls, memories, recall_rates
from barreleye.evaluation.replies import reply_all
from barreleye.evaluation.robustness import robustness
from barreleye.evaluation.scores import MODEL, SETS, score_replies
from barreleye.files import json_lines, to_json, write_file
from barreleye.run import Run
from barreleye.training.card import write_model_card

VERSION = 2  # of what is measured, and how: a saved evaluation of another one is made anew
SEED = 0  # of what is drawn, asked and sampled: two evaluations of one run are equal
UNSEEN_PROMPTS = SETS["held_out"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """Figures by part ("scores", "manners", "recall", ...), as plain dictionaries, with the raw lines of each part.

    steps: how many there were to be. absent: why -> the parts that could not be measured. weights: SHA-256 of the
    weights that were measured.
    """

    run: str
    step: int
    steps: int
    weights: str
    sampling: dict[str, Any]
    parts: dict[str, Any]
    absent: dict[str, list[str]]
    raw: dict[str, list[dict[str, Any]]]
    version: int = VERSION


Part = tuple[Any, list[dict[str, Any]]]
"""Figures, and the raw lines that they were computed from."""


def evaluate(run: Run, say: Say = lambda line: None, seed: int = SEED) -> Evaluation:
    """Measure a run of chats; takes a few minutes. `say` is told of each part as it begins.

    Raises ValueError for a run of plain text, for one whose split is broken, or without scikit-learn.
    """
    weights, step, corpus = weights_of(run), run.step, run.corpus()
    if isinstance(corpus.train, str) or isinstance(corpus.held_out, str):
        raise ValueError(f"{run.path}: learned from plain text, and this judges replies; its held-out loss is in runs")
    corpus.check()
    personas, sampling = run.personas(), Sampling(seed=seed)  # as `barreleye chat` samples
    model, tokenizer, read = run.load_model(), run.tokenizer, run.spelling()

    say("bits per byte of unseen replies, and of three baselines")
    scores = score_replies(corpus, model, tokenizer, seed=seed)
    parts: dict[str, Part] = {"scores": ({"sets": scores.sets, "lookup_weight": scores.lookup_weight}, scores.raw)}

    say("replies to unseen prompts")
    questions = unseen_questions(corpus.held_out, personas, seed=seed)
    replies = reply_all(model, tokenizer, [question.chat for question in questions], sampling, read=read)
    truths = [question.truth for question in questions]
    said = {"generated": replies, "true": truths}
    parts["replies"] = (
        None,
        [
            {"character": question.character, "topic": question.topic, "prompt": question.prompt, "reply": reply}
            | {"truth": question.truth}
            for question, reply in zip(questions, replies, strict=True)
        ],
    )
    parts["diversity"] = diversity(said, {plural for persona in personas.values() for plural in persona.plurals})

    say("what it has by heart")
    parts["originality"] = originality(said, replies_of(corpus.train), seed)
    taken = extraction(model, tokenizer, corpus.train, corpus.held_out, seed=seed)
    parts["extraction"] = {"training": taken.training, "held_out": taken.held_out}, taken.raw

    absent: dict[str, list[str]] = {}
    if personas:
        judge = Judge(personas, questions, seed)
        parts["manners"] = judge_manners(judge, questions, replies, seed)
        say("what it remembers of a conversation")
        recalls: list[Recall] = []
        if any(map(memories, personas.values())):
            recalls = compose_recalls(personas, corpus.report.get("unseen_fillers", {}), corpus.train, seed)
        recalled = reply_all(model, tokenizer, [recall.chat for recall in recalls], sampling, read=read)
        if recalls:
            parts["recall"] = recall_rates(recalls, recalled)
        else:
            absent[NOTHING_TOLD] = ["recall"]
        say("the same prompts in capitals, with typos, in other scripts")
        parts["robustness"] = robustness(model, tokenizer, judge, questions, replies, recalls, sampling, seed, read)
    else:
        absent[NO_SHEET] = ["in character", "on topic", "recall", "robustness"]
    return Evaluation(
        run.name,
        step,
        run.config.train.steps,
        weights,
        dataclasses.asdict(sampling),
        {name: plain(figures) for name, (figures, _) in parts.items() if figures is not None},
        absent,
        {name: plain(lines) for name, (_, lines) in parts.items()},
    )


def plain(value: Any) -> Any:
    """As it is read back from JSON: dataclasses as dictionaries, keys as text."""
    return json.loads(json.dumps(value, default=dataclasses.asdict))


def weights_of(run: Run) -> str:
    return hashlib.sha256((run.path / "model" / "model.safetensors").read_bytes()).hexdigest()


def save(run: Run, evaluation: Evaluation) -> None:
    """`reports/evaluation.json`, the raw outputs in `reports/evaluation/`, and the figures on the model card."""
    folder = run.path / "reports" / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in evaluation.raw.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_file(folder / f"{name}.jsonl", text.encode())
    write_file(folder.with_suffix(".json"), to_json(vars(evaluation) | {"raw": list(evaluation.raw)}))
    write_model_card(run)


def saved(run: Run) -> Evaluation | None:
    """The evaluation of these very weights by this very version, if there is one with all its raw lines."""
    folder = run.path / "reports" / "evaluation"
    try:
        figures = json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))
        files = {name: folder / f"{name}.jsonl" for name in figures.pop("raw")}
        if not all(file.exists() for file in files.values()):
            return None
        raw = {name: list(json_lines(file)) for name, file in files.items()}
        kept = Evaluation(**figures, raw=raw)
        return kept if (kept.version, kept.weights) == (VERSION, weights_of(run)) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


@dataclass(frozen=True)
class Difference:
    """One figure of two runs over the same items, and how much larger b's is than a's."""

    name: str
    a: float
    b: float
    difference: Figure
    fewer_is_better: bool = False

    @property
    def words(self) -> str:
        if self.difference.low <= 0 <= self.difference.high:
            return "no difference that these items can show"
        return f"{'b' if (self.difference.value > 0) is not self.fewer_is_better else 'a'} is better"


Line = dict[str, Any]


def compare(a: Evaluation, b: Evaluation) -> list[Difference]:
    """What two runs can be compared on: what both were asked and neither has seen, item by item (a paired bootstrap).

    Raises ValueError where they share none.
    """
    found = [
        *(
            _difference(a, b, "scores", f"bits per byte, {name}", _context_in(name), _bits, _bytes)
            for name in SETS.values()
        ),
        _difference(a, b, "manners", f"in character, {UNSEEN_PROMPTS}", _question, lambda line: line["in_character"]),
        _difference(a, b, "manners", f"on topic, {UNSEEN_PROMPTS}", _question, lambda line: line["relevant"]),
        _difference(a, b, "recall", "recall", lambda line: str(line["messages"]), lambda line: line["remembered"]),
    ]
    differences = [difference for difference in found if difference]
    if not differences:
        raise ValueError(f"{a.run} and {b.run} share no unseen prompt; grow both from one sheet with one --seed")
    return differences


def _difference(
    a: Evaluation,
    b: Evaluation,
    part: str,
    name: str,
    key: Callable[[Line], Any],
    amount: Callable[[Line], float],
    size: Callable[[Line], float] | None = None,
) -> Difference | None:
    """Over the lines of a part whose keys both have; those on one topic, or with one thing told, hang together.

    size: what an amount is divided by; such a figure is a cost, of which fewer is better.
    """
    ours, theirs = ({key(line): line for line in e.raw.get(part, ())} for e in (a, b))
    both = [item for item in ours if item in theirs and item is not None]
    if not both:
        return None
    sizes = [float(size(ours[item])) if size else 1.0 for item in both]
    amounts_a, amounts_b = ([float(amount(side[item])) for item in both] for side in (ours, theirs))
    clusters = [ours[item].get("topic") or ours[item].get("told") or item for item in both]
    difference = paired(amounts_b, amounts_a, sizes, clusters)
    return Difference(
        name, sum(amounts_a) / sum(sizes), sum(amounts_b) / sum(sizes), difference, fewer_is_better=size is not None
    )


def _context_in(name: str) -> Callable[[Line], Any]:
    return lambda line: (line["context"], line["reply"]) if line["set"] == name else None


def _question(line: Line) -> tuple[str, str]:
    return line["character"], line["prompt"]


def _bytes(line: Line) -> float:
    return float(line["bytes"])


def _bits(line: Line) -> float:
    return float(line["nats"][MODEL]) / math.log(2)
