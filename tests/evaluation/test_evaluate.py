"""A small run judged as a whole: every part is measured, kept beside its raw lines, read back, compared and shown."""

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import barreleye.data
from barreleye.data.dress import normalize
from barreleye.evaluation import character, recall, robustness
from barreleye.evaluation import evaluate as judge
from barreleye.evaluation.evaluate import Evaluation, compare, evaluate, save, saved, weights_of
from barreleye.evaluation.report import comparison, number, sections, share, summary, write_evaluation_page
from barreleye.run import Run
from barreleye.training.grow import grow

NEW_SHEET = Path(barreleye.data.__file__).with_name("new_sheet.yaml")
TINY = dict(n_layers=1, n_heads=2, d_model=32, d_ff=32, steps=4, batch_tokens=512, vocab=300, quiet=True, threads=1)
PARTS = {"scores", "manners", "recall", "robustness", "originality", "extraction", "diversity"}
CHATS = [{"prompt": f"what is {n}?", "response": f"it is {n}, and {n} is all there is to say."} for n in range(40)]


@pytest.fixture(scope="module", autouse=True)
def small_judge() -> Iterator[None]:
    """One strange voice, few fresh replies, few conversations: what is tested is not how well it judges."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(character, "persona_names", lambda: ["cat"])
        patch.setattr(judge, "Judge", functools.partial(character.Judge, n=300))
        patch.setattr(judge, "extraction", functools.partial(judge.extraction, per_group=3))
        patch.setattr(recall, "PER_NAME", 4)
        patch.setattr(recall, "DISTANCES", (1, 2))
        patch.setattr(robustness, "CHANGES", {name: robustness.CHANGES[name] for name in ("ALL CAPS", "one typo")})
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("evaluate")
    shutil.copy(NEW_SHEET, folder / "lighthouse.yaml")
    return grow(str(folder / "lighthouse.yaml"), out=folder / "run", conversations=300, **TINY)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def evaluation(run: Run, told: list[str]) -> Evaluation:
    made = evaluate(run, told.append)
    save(run, made)
    return made


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("chats")
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, CHATS)), encoding="utf-8")
    return evaluate(grow(chats=folder / "chats.jsonl", out=folder / "run", held_out=0.3, **TINY))  # type: ignore[arg-type]


@pytest.fixture
def copy(run: Run, evaluation: Evaluation, tmp_path: Path) -> Run:
    """The run with its saved evaluation, free to be damaged."""
    return Run(shutil.copytree(run.path, tmp_path / "copy"))


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary anywhere in a value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def cells(evaluation: Evaluation, title: str) -> list[list[str]]:
    (found,) = [section for section in sections(evaluation) if section.title == title]
    return [list(row) for table in found.tables for row in table.rows]


# What is measured --------------------------------------------------------------------------------------------------


def test_every_part_is_measured_and_told_of(run: Run, evaluation: Evaluation, told: list[str]) -> None:
    assert set(evaluation.parts) == PARTS and evaluation.absent == {}
    assert (evaluation.run, evaluation.step, evaluation.weights) == ("run", TINY["steps"], weights_of(run))
    assert len(told) == len(set(told)) == 5 and evaluation.sampling["seed"] == judge.SEED
    figures = [value for value in walk(evaluation.parts) if {"value", "low", "high", "n"} <= set(value)]
    assert len(figures) > 50
    for figure in figures:
        assert figure["low"] - 1e-9 <= figure["value"] <= figure["high"] + 1e-9 and figure["n"] > 0


def test_figures_are_those_of_the_raw_lines(evaluation: Evaluation) -> None:
    parts, raw = evaluation.parts, evaluation.raw
    for name, scored in parts["scores"]["sets"].items():
        lines = [line for line in raw["scores"] if line["set"] == name]
        size = sum(len(line["reply"].encode()) for line in lines)
        assert len(lines) == scored["replies"] > 0
        for who, figure in {"model": scored["model"], **scored["baselines"]}.items():
            assert figure["value"] == pytest.approx(sum(line["nats"][who] for line in lines) / math.log(2) / size)
    rows = raw["manners"]
    manner = parts["manners"]["lighthouse"]
    assert manner["in_character"]["share"]["value"] == sum(row["in_character"] for row in rows) / len(rows)
    assert manner["relevance"]["share"]["value"] == sum(row["relevant"] for row in rows) / len(rows)
    for rate in parts["recall"]:
        cell = [row for row in raw["recall"] if all(row[key] == rate[key] for key in ("slot", "known", "distance"))]
        assert len(cell) == rate["conversations"] and rate["share"]["value"] == sum(
            row["remembered"] for row in cell
        ) / len(cell)
    loops = [row["loop"] for row in raw["diversity"] if row["group"] == "generated"]
    assert parts["diversity"]["generated"]["loops"]["value"] == sum(loops) / len(loops)


def test_the_same_replies_are_judged_by_all_parts(run: Run, evaluation: Evaluation) -> None:
    """And to prompts that training has in no dress."""
    raw = evaluation.raw
    replies = [row["reply"] for row in raw["manners"]]
    truths = [row["truth"] for row in raw["manners"]]
    for part in ("diversity", "originality"):
        for group, texts in (("generated", replies), ("true", truths)):
            assert texts == [row["reply"] for row in raw[part] if row["group"] == group]
    seen = {normalize(m.content) for c in run.corpus().train for m in c.messages if m.role == "user"}
    assert seen.isdisjoint(normalize(row["prompt"]) for row in raw["manners"])
    assert {row["change"] for row in raw["robustness"]} == {
        "ALL CAPS",
        "one typo",
        "no change, not mended",
        "one typo, not mended",
    }


def test_a_text_has_no_replies_to_judge(tmp_path: Path) -> None:
    (tmp_path / "sea.txt").write_text("the fish swam on.\n" * 40, encoding="utf-8")
    tiny = {**TINY, "steps": 1, "context_length": 16}
    run = grow(text=tmp_path / "sea.txt", out=tmp_path / "run", **tiny)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="learned from plain text, and this judges replies"):
        evaluate(run)


# Without a sheet ---------------------------------------------------------------------------------------------------


def test_chats_without_a_sheet_say_what_is_absent(chats: Evaluation) -> None:
    assert chats.absent == {character.NO_SHEET: ["in character", "on topic", "recall", "robustness"]}
    assert PARTS - set(chats.parts) == {"manners", "recall", "robustness"}
    assert list(chats.parts["scores"]["sets"]) == ["unseen prompts"]
    assert chats.raw["replies"] and "manners" not in chats.raw
    assert f"Not measured: in character, on topic, recall, robustness, because {character.NO_SHEET}." in summary(chats)
    assert [section.title for section in sections(chats)] == [
        "Bits per byte of unseen replies",
        "By heart",
        "Variety",
        "Replies",
    ]


# Kept, and read back -----------------------------------------------------------------------------------------------


def test_what_is_saved_is_read_back(run: Run, evaluation: Evaluation) -> None:
    again = saved(run)
    assert again is not None
    assert again == evaluation
    kept = {file.stem for file in (run.path / "reports" / "evaluation").iterdir()}
    written = json.loads((run.path / "reports" / "evaluation.json").read_text(encoding="utf-8"))
    assert kept == set(evaluation.raw) == set(written["raw"])


def test_nothing_is_read_back_for_other_weights(copy: Run) -> None:
    assert saved(copy) is not None
    weights = copy.load_model().state_dict()
    copy.save_model({name: tensor * 2 for name, tensor in weights.items()})
    assert saved(copy) is None


@pytest.mark.parametrize("written", ["", "{", "[]", "{}", '{"weights": 1}', "\udcff"])
def test_nothing_is_read_back_from_a_damaged_file(copy: Run, written: str) -> None:
    (copy.path / "reports" / "evaluation.json").write_text(written, encoding="utf-8", errors="surrogateescape")
    assert saved(copy) is None


# Two runs side by side ---------------------------------------------------------------------------------------------


def changed(evaluation: Evaluation, part: str, **fields: Any) -> Evaluation:
    """An evaluation with some fields of every raw line of a part replaced, each by a function of the line."""
    lines = [{**line, **{key: value(line) for key, value in fields.items()}} for line in evaluation.raw[part]]
    return dataclasses.replace(evaluation, run="b", raw={**evaluation.raw, part: lines})


def test_a_run_is_no_other_than_itself(evaluation: Evaluation) -> None:
    names = [d.name for d in compare(evaluation, evaluation)]
    sets = evaluation.parts["scores"]["sets"]
    assert names == [f"bits per byte, {name}" for name in sets] + [
        "in character, unseen prompts",
        "on topic, unseen prompts",
        "recall",
    ]
    for d in compare(evaluation, evaluation):
        assert (d.difference.value, d.difference.low, d.difference.high) == (0, 0, 0) and d.a == d.b
        assert d.words == "no difference that these items can show"


def test_half_the_bits_are_half_the_bits(evaluation: Evaluation) -> None:
    b = changed(evaluation, "scores", nats=lambda line: {**line["nats"], "model": line["nats"]["model"] / 2})
    for d in compare(evaluation, b):
        if d.name.startswith("bits"):
            figure = evaluation.parts["scores"]["sets"][d.name.removeprefix("bits per byte, ")]["model"]
            assert d.a == pytest.approx(figure["value"], rel=0.02) and d.b == pytest.approx(d.a / 2)
            assert d.difference.value == pytest.approx(-d.a / 2) and d.difference.high < 0
            assert d.words == "b is better"
        else:
            assert d.difference.value == 0
    (mirrored, *_), (d, *_) = compare(b, evaluation), compare(evaluation, b)
    assert mirrored.difference.low == pytest.approx(-d.difference.high) and mirrored.words == "a is better"


def test_pairs_are_what_both_were_asked_in_any_order(evaluation: Evaluation) -> None:
    right = changed(evaluation, "manners", in_character=lambda line: True, relevant=lambda line: True)
    wrong = changed(evaluation, "manners", in_character=lambda line: False, relevant=lambda line: False)
    rows = right.raw["manners"]
    some = dataclasses.replace(right, raw={**right.raw, "manners": rows[: len(rows) // 2][::-1]})
    *_, voice, topic, recalled = compare(wrong, some)
    assert recalled.difference.value == 0
    for d in (voice, topic):
        assert (d.a, d.b, d.difference.value) == (0, 1, 1) and d.words == "b is better"
        assert d.difference.n == len({row["topic"] for row in some.raw["manners"]})


def test_runs_that_share_no_prompt_cannot_be_compared(evaluation: Evaluation, chats: Evaluation) -> None:
    with pytest.raises(ValueError, match="share no unseen prompt"):
        compare(evaluation, chats)


def test_side_by_side_in_a_table(evaluation: Evaluation) -> None:
    b = changed(evaluation, "scores", nats=lambda line: {**line["nats"], "model": 0.0})
    words, (section,) = comparison(evaluation, b, compare(evaluation, b))
    (table,) = section.tables
    assert table.headings[1:3] == ("a: run", "b: b") and len(table.rows) == len(compare(evaluation, b))
    assert table.rows[0][2] == "0.000" and "run after 4 steps, and b after 4 steps" in words[0]


# In words and on the page ------------------------------------------------------------------------------------------


def test_figures_are_written_with_their_intervals() -> None:
    figure = {"value": 0.975, "low": 0.95, "high": 0.9951, "n": 200}
    assert number(figure) == "0.975 [0.950, 0.995]" and share(figure) == "97.5% [95.0, 99.5]"


def test_the_summary_says_what_matters(evaluation: Evaluation) -> None:
    first, *words = summary(evaluation)
    assert first.startswith("run after 4 steps.")
    early = summary(dataclasses.replace(evaluation, steps=9))
    assert early[0].startswith("run after 4 of 9, stopped early.")
    assert any("does not beat" in line and "on unseen prompts: it has not generalized." in line for line in words)
    (line,) = [line for line in words if line.startswith("lighthouse: ")]
    assert share(evaluation.parts["manners"]["lighthouse"]["relevance"]["ceiling"]) in line


def test_every_figure_is_in_its_table(run: Run) -> None:
    evaluation = saved(run)
    assert evaluation is not None
    parts = evaluation.parts
    sets = parts["scores"]["sets"]
    bits = cells(evaluation, "Bits per byte of unseen replies")
    for row, (name, scored) in zip(bits, sets.items(), strict=False):
        assert row == [
            name,
            number(scored["model"]),
            *map(number, scored["baselines"].values()),
            f"{scored['replies']:,}",
        ]
    assert bits[len(sets) :] == [
        [name, who, number(margin)] for name, scored in sets.items() for who, margin in scored["differences"].items()
    ]
    manner, columns = parts["manners"]["lighthouse"], ("share", "floor", "ceiling", "of_ceiling")
    assert cells(evaluation, "In character, and on topic") == [
        ["lighthouse", what, *(share(manner[key][column]) for column in columns)]
        for key, what in (("in_character", "in character"), ("relevance", "on the topic asked"))
    ]
    rates = {(rate["known"], rate["distance"]): share(rate["share"]) for rate in parts["recall"]}
    assert cells(evaluation, "Recall") == [
        ["lighthouse", "person", seen, *(rates[known, distance] for distance in (1, 2))]
        for known, seen in ((True, "in training"), (False, "never"))
    ]
    assert cells(evaluation, "Typed otherwise") == [
        [
            *(change, "lighthouse"),
            *(
                cell
                for key in ("in_character", "relevance", "recall")
                for cell in (share(drops[key]["share"]), number(drops[key]["points"], 1))
            ),
        ]
        for change, characters in parts["robustness"].items()
        for drops in characters.values()
    ]
    assert cells(evaluation, "Variety")[1][3] == share(parts["diversity"]["true"]["loops"])
    originality = cells(evaluation, "By heart")[0]
    assert originality[3:] == [share(parts["originality"]["generated"]["new_ngrams"][n]) for n in ("4", "8")]


def test_the_page(run: Run, evaluation: Evaluation) -> None:
    file = write_evaluation_page(run, evaluation)
    html = file.read_text(encoding="utf-8")
    assert file == run.path / "reports" / "evaluation.html" and "<title>What run has learned</title>" in html
    for section in sections(evaluation):
        assert f"<h2>{section.title}</h2>" in html
    assert evaluation.raw["manners"][0]["truth"].split(".")[0].split("'")[0] in html


# What went wrong once ---------------------------------------------------------------------------------------------


def test_what_is_shown_at_first_is_what_is_shown_again(run: Run, evaluation: Evaluation) -> None:
    assert saved(run) == evaluation
    assert cells(evaluation, "By heart") == cells(saved(run), "By heart")  # type: ignore[arg-type]


@pytest.mark.parametrize("lost", ["manners", "scores"])
def test_nothing_is_read_back_without_its_raw_lines(copy: Run, lost: str) -> None:
    (copy.path / "reports" / "evaluation" / f"{lost}.jsonl").unlink()
    assert saved(copy) is None


def test_a_model_that_says_nothing_has_a_report(evaluation: Evaluation) -> None:
    diverse = {**evaluation.parts["diversity"]["generated"], "distinct_1": None, "distinct_2": None}
    parts = {**evaluation.parts, "diversity": {"generated": diverse, "true": evaluation.parts["diversity"]["true"]}}
    assert sections(dataclasses.replace(evaluation, parts=parts))


def test_no_sheet_is_spoken_of_where_there_is_none(chats: Evaluation) -> None:
    said = " ".join(
        [*(word for s in sections(chats) for word in s.words)]
        + [role for s in sections(chats) for sample in s.samples for role, _ in sample.turns]
    )
    assert "sheet" not in said


def test_the_weights_that_are_named_are_those_that_were_measured(copy: Run) -> None:
    """A training that saves while a run is judged."""
    before = weights_of(copy)

    def save_meanwhile(line: str) -> None:
        if line.startswith("the same prompts"):
            copy.save_model({name: tensor * 2 for name, tensor in copy.load_model().state_dict().items()})

    assert evaluate(copy, save_meanwhile).weights == before
