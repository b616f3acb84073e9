"""An evaluation in words, tables and one figure: for the terminal, and as the page `reports/evaluation.html`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from barreleye.evaluation.evaluate import Difference, Evaluation
from barreleye.evaluation.memorization import REPEATS
from barreleye.files import write_file
from barreleye.reports.page import Sample, Section, Table, page
from barreleye.run import Run

SAMPLES = 40
INTERVALS = "In brackets the bootstrap 95% interval."
Figures = Mapping[str, Any]


def number(figure: Figures | None, digits: int = 3) -> str:
    """0.247 [0.239, 0.255]; nothing where there was nothing to measure."""
    if figure is None:
        return ""
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def share(figure: Figures | None) -> str:
    """97.5% [95.0, 99.5]"""
    if figure is None:
        return ""
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


def grown(evaluation: Evaluation) -> str:
    """fish after 850 steps"""
    early = f" of {evaluation.steps:,}, stopped early" if evaluation.step < evaluation.steps else ""
    return f"{evaluation.run} after {evaluation.step:,}{early or ' steps'}"


def summary(evaluation: Evaluation) -> list[str]:
    """What matters, in words."""
    sets = evaluation.parts["scores"]["sets"]
    words = [f"{grown(evaluation)}. {INTERVALS}"]
    words += [f"It {scored['verdict']}." for scored in sets.values()]
    for name, manner in evaluation.parts.get("manners", {}).items():
        words.append(
            f"{name}: {share(manner['in_character']['share'])} of its replies to unseen prompts are in character, and "
            f"{share(manner['relevance']['share'])} on the topic asked "
            f"(the sheet's own replies: {share(manner['relevance']['ceiling'])})."
        )
    words += [f"Not measured: {', '.join(parts)}, because {why}." for why, parts in evaluation.absent.items()]
    return words


def sections(evaluation: Evaluation) -> list[Section]:
    """Its tables, figures and samples."""
    parts = evaluation.parts
    found = [_bits(parts["scores"])]
    if "manners" in parts:
        found.append(_manners(parts["manners"]))
    if "recall" in parts:
        found.append(_recall(parts["recall"]))
    if "robustness" in parts:
        found.append(_robustness(parts["robustness"]))
    has_sheet = "manners" in parts
    lines = evaluation.raw["manners" if has_sheet else "replies"]
    return [*found, _memorization(parts, has_sheet), _diversity(parts["diversity"]), _samples(lines)]


def _bits(scores: Figures) -> Section:
    rows, margins = [], []
    for name, scored in scores["sets"].items():
        bits = (scored["model"], *scored["baselines"].values())
        rows.append((name, *map(number, bits), f"{scored['replies']:,}"))
        margins += [(name, who, number(margin)) for who, margin in scored["differences"].items()]
    predictors = ("model", *next(iter(scores["sets"].values()))["baselines"])
    words = [
        "How many bits a predictor needs for each byte of a reply it never saw; fewer are better. Lookup fits a 5-gram "
        "on the replies of the 20 nearest training prompts and mixes it with the 5-gram of all training "
        f"(weight {scores['lookup_weight']:.2f}, chosen on training data).",
    ]
    return Section(
        "Bits per byte of unseen replies",
        words,
        [
            Table(("", *predictors, "replies"), rows, (*predictors, "replies")),
            Table(("", "against", "model minus baseline"), margins, ("model minus baseline",)),
        ],
        _bits_figure(scores["sets"], predictors),
    )


def _bits_figure(sets: Figures, predictors: Sequence[str]) -> list[Any]:
    """Bars with their intervals, where plotly is installed."""
    try:
        import plotly.graph_objects as go
    except ImportError:
        return []
    figure = go.Figure()
    for who in predictors:
        figures = [scored["model"] if who == "model" else scored["baselines"][who] for scored in sets.values()]
        figure.add_bar(
            x=list(sets),
            y=[f["value"] for f in figures],
            error_y=dict(
                array=[f["high"] - f["value"] for f in figures], arrayminus=[f["value"] - f["low"] for f in figures]
            ),
            name=who,
            hovertemplate="%{y:.3f} bits per byte",
        )
    figure.update_layout(height=360, barmode="group", yaxis_title="bits per byte")
    return [figure]


def _manners(manners: Figures) -> Section:
    rows = []
    for name, manner in manners.items():
        for key, what in (("in_character", "in character"), ("relevance", "on the topic asked")):
            judged = manner[key]
            rows.append((name, what, *(share(judged[part]) for part in ("share", "floor", "ceiling", "of_ceiling"))))
    words = [
        "Replies to unseen prompts, judged by classifiers that learned from other generated data. The floor is what "
        "replies get that have nothing to do with it, the ceiling what the sheet's own replies get.",
    ]
    headings = ("character", "", "replies", "floor", "ceiling", "share of ceiling")
    return Section("In character, and on topic", words, [Table(headings, rows, headings[2:])])


def _recall(rates: Sequence[Figures]) -> Section:
    distances = sorted({rate["distance"] for rate in rates})
    cells = {(r["character"], r["slot"], r["known"], r["distance"]): share(r["share"]) for r in rates}
    rows = [
        (character, slot, "in training" if known else "never", *(cells.get((*row, d), "") for d in distances))
        for row in dict.fromkeys((r["character"], r["slot"], r["known"]) for r in rates)
        for character, slot, known in [row]
    ]
    columns = tuple(f"{d} turn{'s' * (d > 1)} earlier" for d in distances)
    words = [
        "The model is told something, asked for it some turns later, and the reply must contain it. "
        "In training: what it was told was seen there, in other conversations; never: nowhere.",
    ]
    return Section("Recall", words, [Table(("character", "what was told", "seen", *columns), rows, columns)])


def _robustness(robust: Figures) -> Section:
    names = {"in_character": "in character", "relevance": "on topic", "recall": "a name, 2 turns"}
    rows = []
    for change, characters in robust.items():
        for character, drops in characters.items():
            measured = [drops[key] or {"share": None, "points": None} for key in names]
            cells = [cell for drop in measured for cell in (share(drop["share"]), number(drop["points"], 1))]
            rows.append((change, character, *cells))
    words = ["The same prompts typed otherwise, and the percentage points lost against the prompts as they were."]
    columns = [heading for name in names.values() for heading in (name, f"{name}, lost")]
    return Section("Typed otherwise", words, [Table(("prompts", "character", *columns), rows, columns)])


def _memorization(parts: Figures, has_sheet: bool) -> Section:
    groups = {"generated": "the model's", "true": "true replies"}
    rows = []
    for key, name in groups.items():
        found = parts["originality"][key]
        new = [share(found["new_ngrams"][n]) if n in found["new_ngrams"] else "" for n in ("4", "8")]
        rows.append((name, share(found["exact"]), share(found["normalized"]), *new))
    headings = ("replies", "verbatim in training", "normalized", "new 4-grams", "new 8-grams")
    taken = parts["extraction"]
    repeats = [group for group in REPEATS if group in taken["training"] or group in taken["held_out"]]
    extracted = [
        (name, *(share(taken[side][group]) if group in taken[side] else "" for group in repeats))
        for side, name in (("training", "training rows"), ("held_out", "held-out rows"))
    ]
    columns = tuple(f"reply {group}x in training" for group in repeats)
    words = [
        "Compare with the true replies to the same prompts"
        f"{': a sheet makes replies of parts, so these are in training, too' if has_sheet else ''}. "
        "For the second table the model is given a prompt and half of the reply; counted is exactly the rest.",
    ]
    return Section(
        "By heart",
        words,
        [Table(headings, rows, headings[1:]), Table(("", *columns), extracted, columns)],
    )


def _diversity(diverse: Figures) -> Section:
    rows = [
        (
            {"generated": "the model's", "true": "true replies"}[who],
            number(found["distinct_1"]),
            number(found["distinct_2"]),
            share(found["loops"]),
            number(found["slips"]),
        )
        for who, found in diverse.items()
    ]
    headings = ("replies", "distinct-1", "distinct-2", "go in circles", "slips of article and number, each")
    words = ["Slips are what a few sure rules of article and number see; this is no full grammar check."]
    return Section("Variety", words, [Table(headings, rows, headings[1:])])


def _samples(lines: Sequence[Figures]) -> Section:
    samples = [
        Sample(
            line["prompt"] + _marks(line),
            [("user", line["prompt"]), ("assistant", line["reply"]), ("truth", line["truth"])],
        )
        for line in lines[:: math.ceil(len(lines) / SAMPLES)]
    ]
    words = ["What it said to unseen prompts, and below it the true reply. All are in reports/evaluation/."]
    return Section("Replies", words, samples=samples)


def _marks(line: Figures) -> str:
    if "relevant" not in line:
        return ""
    wrong = [what for key, what in (("in_character", "out of character"), ("relevant", "off topic")) if not line[key]]
    return f" ({', '.join(wrong)})" if wrong else ""


def comparison(a: Evaluation, b: Evaluation, differences: Sequence[Difference]) -> tuple[list[str], list[Section]]:
    """Two runs side by side."""
    rows = [
        (d.name, f"{d.a:.3f}", f"{d.b:.3f}", number(vars(d.difference)), f"{d.difference.n:,}", d.words)
        for d in differences
    ]
    headings = ("", f"a: {a.run}", f"b: {b.run}", "b minus a", "items", "")
    words = [f"{grown(a)}, and {grown(b)}: on what both were asked and neither learned from. {INTERVALS}"]
    return words, [Section("Side by side", tables=[Table(headings, rows, headings[1:5])])]


def write_evaluation_page(run: Run, evaluation: Evaluation) -> Path:
    """`reports/evaluation.html`"""
    file = run.path / "reports" / "evaluation.html"
    title = f"What {evaluation.run} has learned"
    write_file(file, page(title, summary(evaluation), sections(evaluation)).encode())
    return file
