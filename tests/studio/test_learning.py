import json
import math
import shutil
import time

import numpy as np
import pytest

from barreleye.run import Run
from barreleye.studio import learning
from barreleye.studio.course import Course, extremes, thinned
from barreleye.studio.learning import Listener

LONG = 100_000


def line(step, **more):
    given = dict(step=step, loss=4 / (1 + step), rate=0.5, grad_norm=1.0, tokens=step * 64, seconds=step / 10) | more
    return json.dumps(given) + "\n"


@pytest.fixture
def record(tmp_path):
    return tmp_path / "metrics.jsonl"


def course_of(record):
    course = Course(record)
    course.read()
    return course


# Few points of many --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, points", [(3, 10), (10, 10), (11, 10), (1000, 10), (1000, 999), (100_000, 1000), (12, 11)])
def test_what_is_drawn_of_a_curve_keeps_its_ends_and_its_spikes(n, points):
    values = np.random.default_rng(n).normal(size=n)
    at = n // 3
    values[at], values[2 * n // 3] = 50, -50
    kept = extremes(values, points)
    assert len(kept) <= points and (np.diff(kept) > 0).all()
    assert {0, at, 2 * n // 3, n - 1} <= set(kept.tolist())
    if n <= points:
        assert len(kept) == n


def test_a_gap_in_a_curve_stays_one():
    values = np.linspace(4, 1, 10_000)
    values[7123] = math.nan
    assert 7123 in extremes(values, 100)
    assert len(extremes(np.full(10_000, math.nan), 100)) <= 100


@pytest.mark.parametrize("n, most, kept", [(0, 5, []), (3, 5, [0, 1, 2]), (9, 5, [0, 2, 4, 6, 8]), (100, 2, [0, 99])])
def test_of_many_things_some_are_kept(n, most, kept):
    assert thinned(range(n), most) == kept


# The record ----------------------------------------------------------------------------------------------------------


def test_only_what_is_new_is_read(record, monkeypatch):
    record.write_text("".join(map(line, range(1, 101))))
    course = course_of(record)
    assert (course.step, course.lines) == (100, 100)
    with record.open("a") as file:
        file.write(line(101) + line(102)[:20])
    course.read()
    assert (course.step, course.lines) == (101, 101)  # the torn one waits for its end
    with record.open("a") as file:
        file.write(line(102)[20:])
    course.read()
    assert (course.step, course.lines, course.again) == (102, 102, 0)
    assert course.series["loss"].curve(99, 1000) == [(step, 4 / (1 + step)) for step in (100, 101, 102)]
    course.read()
    assert course.lines == 102


def test_a_record_that_became_another_is_read_anew(record):
    record.write_text("".join(map(line, range(1, 51))))
    course = course_of(record)
    beside = record.with_name("new")
    beside.write_text("".join(line(step, loss=7.0) for step in range(1, 81)))
    beside.replace(record)  # as a training does that is resumed
    course.read()
    assert (course.step, course.again) == (80, 1)
    assert course.series["loss"].curve(-1, 1000) == [(step, 7.0) for step in range(1, 81)]
    record.write_text(line(1))  # shorter, in place
    course.read()
    assert (course.step, course.again) == (1, 2)
    record.unlink()
    course.read()
    assert (course.step, course.series) == (0, {})


def test_a_record_that_is_damaged_loses_its_damaged_lines_alone(record):
    odd = ["", "{", "[]", "null", "7", '"step"', '{"step": true, "loss": 1}', '{"step": -1, "loss": 1}', "[" * 100_000]
    odd += ['{"step": 1e3, "loss": 1}', '{"loss": 2}', '{"step": 1' + "0" * 30 + ', "loss": 1}', "\0", '{"step": "3"}']
    odd += ['{"step": 4, "probe": 3}', '{"step": 4, "probe": {"dead": null}}', '{"step": 4, "samples": [3]}']
    odd += ['{"step": 4, "held_out": [1]}', '{"step": 4, "held_out": {"all": 3}}', '{"step": 4, "finding": []}']
    odd += ['{"step": 4, "facts": 3}', '{"step": 4, "not_finite": {}}']
    record.write_bytes(line(1).encode() + "\n".join(odd).encode() + b"\n\xff\xfe\n" + line(9).encode())
    course = course_of(record)
    assert [step for step, _ in course.series["loss"].curve(-1, 100)] == [1, 9]


@pytest.mark.parametrize("value", [None, "1", math.nan, math.inf, 10**400, [1], True])
def test_what_is_no_number_is_a_gap(record, value):
    record.write_text(line(1) + line(2, loss=value) + line(3))
    curve = course_of(record).series["loss"].curve(-1, 100)
    assert [step for step, _ in curve] == [1, 2, 3]
    assert curve[1][1] is None or value is True


def test_a_long_record_answers_quickly(record, letters, client):
    """Of processor, as the machine may be busy: reading 100,000 steps once, and then at each look."""
    probe = {"gradient_norm": {f"blocks.{n}.attn": 1.0 for n in range(30)}}
    lines = (
        line(n, loss=99.0 if n == 31_234 else 2.0) + (json.dumps({"step": n, "probe": probe}) + "\n") * (n % 50 == 0)
        for n in range(1, LONG + 1)
    )
    (letters.path / "metrics.jsonl").write_text("".join(lines))

    def seconds(path):
        began = time.process_time()
        answer = client.get(path)
        return time.process_time() - began, answer

    first, answer = seconds("/api/runs/letters/learning?points=1000")
    found = answer.json()
    assert first < 5 and len(answer.content) < 2**20
    assert 500 < len(found["series"]["loss"]) <= 1000 and [31_234, 99.0] in found["series"]["loss"]
    assert len(found["series"]["probe/gradient_norm/blocks.0.attn"]) <= 200
    assert min(seconds("/api/runs/letters/learning?points=1000")[0] for _ in range(3)) < 0.3
    assert min(seconds(f"/api/runs/letters/learning?since={LONG - 5}")[0] for _ in range(3)) < 0.1
    assert min(seconds("/api/runs")[0] for _ in range(3)) < 0.1


# The routes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fish(folder, runs):
    """With all that a record can have."""
    path = folder / "fish"
    shutil.copytree(runs["fish"].path, path)
    with (path / "metrics.jsonl").open("a") as record:
        record.write(json.dumps({"step": 24, "facts": {"unigram": 5.0, "bigram": 3.0, "trigram": None}}) + "\n")
        finding = {"name": "warm-up missing", "evidence": "the loss\ud800 rose", "advice": "more", "is_note": False}
        record.write(json.dumps({"step": 24, "finding": finding}) + "\n")
        record.write(json.dumps({"step": 24, "not_finite": "step 25: the loss is nan"}) + "\n")
        probe = {"loss": 3.0, "attention_entropy": {"blocks.0.attn": [0.5, None]}, "dead": {"blocks.0.mlp": 0.25}}
        record.write(json.dumps({"step": 24, "probe": probe}) + "\n")
    return Run(path)


def test_names_in_a_record_can_be_sent(letters, client):
    with (letters.path / "metrics.jsonl").open("a") as record:
        record.write(
            '{"step": 5, "probe": {"\\ud800": 1.0}, "held_out": {"\\ud801": {"loss": 1.0, "bits_per_byte": 2.0}}}\n'
        )
    assert client.get("/api/runs/letters/learning").status_code == 200


def test_what_was_recorded_comes_as_curves_notes_and_samples(client, fish):
    found = client.get("/api/runs/fish/learning").json()
    lines = fish.metrics()
    for key in ("loss", "rate", "grad_norm"):
        assert found["series"][key] == [[each["step"], each[key]] for each in lines if "loss" in each]
    whole = next(each["held_out_whole"]["replies"]["loss"] for each in lines if "held_out_whole" in each)
    assert found["series"]["held_out_whole.replies"] == [[24, whole]]
    assert found["series"]["probe/attention_entropy/blocks.0.attn/0"] == [[24, 0.5]]
    assert found["series"]["probe/attention_entropy/blocks.0.attn/1"] == [[24, None]]
    assert (found["step"], found["cursor"], found["state"], found["steps"]) == (24, 23, "finished", 24)
    assert [note["step"] for note in found["notes"]] == [24, 24]
    assert found["notes"][0]["words"] == "warm-up missing: the loss\\ud800 rose; try: more"
    assert [each["step"] for each in found["samples"]] == [each["step"] for each in lines if "samples" in each]
    assert found["samples"][-1]["samples"][0].keys() == {"prompt", "reply"}


def test_a_loss_can_be_said_in_bits_per_byte_and_beside_what_knows_less(client, fish):
    found = client.get("/api/runs/fish/learning").json()
    (score,) = [each["held_out_whole"]["all"] for each in fish.metrics() if "held_out_whole" in each]
    assert found["per_byte"]["loss"] == found["per_byte"]["all"]
    assert found["per_byte"]["all"] * score["loss"] == pytest.approx(score["bits_per_byte"])
    baselines = {each["name"]: each["loss"] for each in found["baselines"]}
    assert baselines == {
        "uniform": pytest.approx(math.log(fish.config.model.vocab_size)),
        "unigram": 5.0,
        "bigram": 3.0,
    }


def test_only_what_came_after_a_step_is_sent(client, fish):
    found = client.get("/api/runs/fish/learning?since=20").json()
    assert [step for step, _ in found["series"]["loss"]] == [21, 22, 23, 24]
    nothing = client.get("/api/runs/fish/learning?since=24").json()
    assert (nothing["series"], nothing["notes"], nothing["samples"]) == ({}, [], [])


@pytest.mark.parametrize(
    "query", ["points=1", "points=x", "points=99999999", "since=-2", "since=1e3", "since=" + "9" * 40]
)
def test_what_cannot_be_asked_of_a_record(client, fish, query):
    answer = client.get(f"/api/runs/fish/learning?{query}")
    assert answer.status_code == 400 and query.split("=")[0] in answer.json()["error"]


def test_a_run_without_a_record_has_no_curves(client, letters):
    (letters.path / "metrics.jsonl").unlink()
    found = client.get("/api/runs/letters/learning").json()
    assert (found["series"], found["step"]) == ({}, 0)


# As it comes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(letters):
    (letters.path / "metrics.jsonl").write_text(
        json.dumps({"step": 0, "probe": {"loss": 4.0}}) + "\n" + line(1) + line(2)
    )
    learning._courses.clear()
    return letters.path


def test_a_page_is_told_once_what_is_there_and_then_what_is_new(begun):
    listener = Listener(begun, -1)
    first = listener.hear()
    assert [step for step, _ in first["series"]["loss"]] == [1, 2] and first["series"]["probe/loss"] == [(0, 4.0)]
    assert (first["step"], first["cursor"]) == (2, 1) and "back_to" not in first
    assert listener.hear() is None
    with (begun / "metrics.jsonl").open("a") as record:
        record.write(json.dumps({"step": 2, "probe": {"loss": 3.0}}) + "\n")  # of a step that was sent already
        record.flush()
        second = listener.hear()
        assert second["series"]["probe/loss"] == [(2, 3.0)]
        record.write(line(3))
        record.flush()
        assert [step for step, _ in listener.hear()["series"]["loss"]][-1] == 3
    assert listener.hear() is None


def test_a_page_is_told_how_a_run_stands(begun):
    listener = Listener(begun, 2)
    listener.hear()
    with Run(begun).lock():
        assert listener.hear()["state"] == "learning"
        assert listener.hear() is None
    assert listener.hear()["state"] == "finished"


def test_who_comes_back_goes_on_where_it_was(begun):
    assert Listener(begun, 1).hear()["series"]["loss"] == [(2, 4 / 3)]  # the last step may come again
    cursor = Listener(begun, -1).hear()["cursor"]
    assert cursor == 1


def test_a_training_that_went_back_is_sent_anew(begun):
    listener = Listener(begun, -1)
    listener.hear()
    beside = begun / "new"
    beside.write_text(line(1) + line(2, loss=9.0))
    beside.replace(begun / "metrics.jsonl")
    event = listener.hear()
    assert event["back_to"] == -1 and [value for _, value in event["series"]["loss"]] == [2.0, 9.0]
    late = Listener(begun, 400).hear()
    assert late["back_to"] == -1 and len(late["series"]["loss"]) == 2


# Side by side --------------------------------------------------------------------------------------------------------


def test_runs_are_compared_in_words(client, folder, runs):
    for name in ("fish", "modern", "letters"):
        shutil.copytree(runs[name].path, folder / name)
    shutil.copytree(runs["fish"].path, folder / "again")
    found = client.get("/api/compare?runs=fish,modern").json()
    assert found["runs"] == ["fish", "modern"]
    assert "positions: learned in fish, rope in modern" in found["words"]
    assert "bias: yes in fish, no in modern" in found["words"]
    heads = next(each for each in found["differences"] if each["knob"] == "n_kv_heads")
    assert heads["values"] == {"fish": 0, "modern": 2} and heads["help"] and heads["section"] == "model"
    assert client.get("/api/compare?runs=fish,again").json()["words"] == ["their configurations are the same"]
    three = client.get("/api/compare", params={"runs": ["fish", "modern", "again"]}).json()
    assert "positions: learned in fish and again, rope in modern" in three["words"]


@pytest.mark.parametrize(
    "query, status", [("runs=", 400), ("runs=letters", 400), ("", 400), ("runs=letters,none", 404)]
)
def test_what_cannot_be_compared(client, letters, query, status):
    answer = client.get(f"/api/compare?{query}")
    assert answer.status_code == status and answer.json()["error"]
