"""All that can be said of a run's replies, in one pass: `evaluate` measures, `compare` puts two runs side by side.

Every figure keeps what it was computed from: `reports/evaluation/*.jsonl` has a line for each reply.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from barreleye.config import Sampling
from barreleye.evaluation.character import NO_SHEET, Judge, judge_manners, unseen_questions
from barreleye.evaluation.diversity import diversity
from barreleye.evaluation.figures import Figure, paired
from barreleye.evaluation.memorization import extraction, originality, replies_of
from barreleye.evaluation.recall import NOTHING_TOLD, compose_recalls, memories, recall_rates
from barreleye.evaluation.replies import reply_all
from barreleye.evaluation.robustness import robustness
from barreleye.evaluation.scores import MODEL, SETS, score_run
from barreleye.files import json_lines, to_json, write_file
from barreleye.run import Run

SEED = 0  # of what is drawn, asked and sampled: two evaluations of one run are equal
UNSEEN_PROMPTS = SETS["held_out"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """Figures by part ("scores", "manners", "recall", ...), as plain dictionaries, with the raw lines of each part.

    absent: part -> why it could not be measured. weights: SHA-256 of the weights that were measured.
    """

    run: str
    step: int
    weights: str
    sampling: dict[str, Any]
    parts: dict[str, Any]
    absent: dict[str, str]
    raw: dict[str, list[dict[str, Any]]]


def evaluate(run: Run, say: Say = lambda line: None, seed: int = SEED) -> Evaluation:
    """Measure a run of chats; takes a few minutes. `say` is told of each part as it begins.

    Raises ValueError for a run of plain text, or without scikit-learn.
    """
    corpus = run.corpus()
    if isinstance(corpus.train, str) or isinstance(corpus.held_out, str):
        raise ValueError(f"{run.path}: learned from plain text, and this judges replies; its held-out loss is in runs")
    model, tokenizer, personas = run.load_model(), run.tokenizer, run.personas()
    sampling = Sampling(seed=seed)  # as `barreleye chat` samples
    parts: dict[str, Any] = {}
    absent: dict[str, str] = {}
    raw: dict[str, list[dict[str, Any]]] = {}

    say("bits per byte of unseen replies, and of three baselines")
    scores = score_run(run, model, seed=seed)
    parts["scores"], raw["scores"] = {"sets": plain(scores.sets), "lookup_weight": scores.lookup_weight}, scores.raw

    say("replies to unseen prompts")
    questions = unseen_questions(corpus.held_out, personas, seed=seed)
    replies = reply_all(model, tokenizer, [question.chat for question in questions], sampling)
    truths = [question.truth for question in questions]
    judge = None
    if personas:
        judge = Judge(personas, questions, seed)
        manners, raw["manners"] = judge_manners(judge, questions, replies, seed)
        parts["manners"] = plain(manners)
    else:
        raw["manners"] = [
            {"prompt": q.prompt, "reply": r, "truth": q.truth} for q, r in zip(questions, replies, strict=True)
        ]
        absent |= dict.fromkeys(("manners", "recall", "robustness"), NO_SHEET)

    plurals = {plural for persona in personas.values() for plural in persona.plurals}
    parts["diversity"] = {}
    for who, said in (("generated", replies), ("true", truths)):
        figures, raw[f"diversity_{who}"] = diversity(said, plurals)
        parts["diversity"][who] = plain(figures)

    say("what it has by heart")
    groups = {"generated": replies, "true": truths}
    found, raw["originality"] = originality(groups, replies_of(corpus.train), seed)
    taken = extraction(model, tokenizer, corpus.train, corpus.held_out, seed=seed)
    parts["originality"] = plain(found)
    parts["extraction"], raw["extraction"] = (
        {"training": plain(taken.training), "held_out": plain(taken.held_out)},
        taken.raw,
    )

    if judge:
        say("what it remembers of a conversation")
        recalls, recalled = [], []
        if any(memories(persona) for persona in personas.values()):
            recalls = compose_recalls(personas, corpus.report.get("unseen_fillers", {}), corpus.train, seed)
            recalled = reply_all(model, tokenizer, [recall.chat for recall in recalls], sampling)
            rates, raw["recall"] = recall_rates(recalls, recalled)
            parts["recall"] = plain(rates)
        else:
            absent["recall"] = NOTHING_TOLD
        say("the same prompts in capitals, with typos, in other scripts")
        robust, raw["robustness"] = robustness(
            model, tokenizer, judge, questions, replies, recalls, recalled, sampling, seed
        )
        parts["robustness"] = plain(robust)
    return Evaluation(run.name, run.step, weights_of(run), dataclasses.asdict(sampling), parts, absent, raw)


def plain(value: Any) -> Any:
    """Dataclasses, in whatever holds them, as dictionaries."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def weights_of(run: Run) -> str:
    return hashlib.sha256((run.path / "model" / "model.safetensors").read_bytes()).hexdigest()


def save(run: Run, evaluation: Evaluation) -> None:
    """`reports/evaluation.json`, and the raw outputs in `reports/evaluation/`."""
    folder = run.path / "reports" / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in evaluation.raw.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_file(folder / f"{name}.jsonl", text.encode())
    figures = {key: value for key, value in vars(evaluation).items() if key != "raw"}
    write_file(folder.with_suffix(".json"), to_json(figures))


def saved(run: Run) -> Evaluation | None:
    """The evaluation of these very weights, if there is one."""
    folder = run.path / "reports" / "evaluation"
    try:
        figures = json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))
        if figures["weights"] != weights_of(run):
            return None
        return Evaluation(**figures, raw={file.stem: list(json_lines(file)) for file in sorted(folder.glob("*.jsonl"))})
    except (OSError, ValueError, TypeError, KeyError):
        return None


@dataclass(frozen=True)
class Difference:
    """One figure of two runs over the same items, and how much larger b's is than a's."""

    name: str
    a: float
    b: float
    difference: Figure

    @property
    def words(self) -> str:
        if self.difference.low <= 0 <= self.difference.high:
            return "no difference that these items can show"
        return f"{'b' if self.difference.value > 0 else 'a'} is higher"


def compare(a: Evaluation, b: Evaluation) -> list[Difference]:
    """What two runs can be compared on: the replies and prompts that neither has seen, item by item.

    Raises ValueError where they share none.
    """
    differences = []
    for name in SETS.values():
        ours, theirs = (
            {(line["prompt"], line["reply"]): line for line in e.raw["scores"] if line["set"] == name} for e in (a, b)
        )
        both = [key for key in ours if key in theirs]
        if both:
            sizes = [ours[key]["bytes"] for key in both]
            bits_a, bits_b = ([side[key]["nats"][MODEL] / math.log(2) for key in both] for side in (ours, theirs))
            differences.append(_difference(f"bits per byte, {name}", bits_a, bits_b, sizes))
    for key, name in (("in_character", "in character"), ("relevant", "on topic")):
        ours, theirs = ({line["prompt"]: line for line in e.raw["manners"] if key in line} for e in (a, b))
        both = [prompt for prompt in ours if prompt in theirs]
        if both:
            right_a, right_b = ([float(side[prompt][key]) for prompt in both] for side in (ours, theirs))
            differences.append(_difference(f"{name}, {UNSEEN_PROMPTS}", right_a, right_b))
    if not differences:
        raise ValueError(f"{a.run} and {b.run} share no unseen prompt; grow both from one sheet with one --seed")
    return differences


def _difference(name: str, a: Sequence[float], b: Sequence[float], sizes: Sequence[float] | None = None) -> Difference:
    total = sum(sizes) if sizes else len(a)
    return Difference(name, sum(a) / total, sum(b) / total, paired(b, a, sizes))
