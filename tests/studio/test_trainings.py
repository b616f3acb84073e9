"""Trainings as processes of their own, under a studio that is a process too."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time

import httpx
import pytest

from barreleye.run import Run
from barreleye.studio import trainings
from barreleye.studio.guard import TOKEN_HEADER
from barreleye.training.grow import grow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL, and no SIGINT for another process"),
]

SHAPE = dict(
    n_layers=1, n_heads=2, d_model=16, d_ff=32, context_length=32, batch_tokens=128, dropout=0.1, device="cpu",
    precision="float32", threads=1, record_every=0, eval_every=100_000, sample_every=100_000, save_every=100_000,
    snapshots=0,
)  # fmt: skip
WAIT = 180  # seconds, on a machine that is busy with something else


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "sea.txt"
    file.write_text("".join(f"{n} fish swim by {m} crabs\n" for n in range(10, 30) for m in range(20)))
    return str(file)


@pytest.fixture(autouse=True)
def no_training_outlives_its_test(folder):
    yield
    for path in folder.glob("*"):
        with contextlib.suppress(ValueError):
            trainings.stop(path)
    until(lambda: not any(trainings.is_live(path) for path in folder.glob("*")))


def until(true, what="it"):
    end = time.monotonic() + WAIT
    while not (found := true()):
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.02)
    return found


def row_of(client, name):
    return next((row for row in client.get("/api/runs").json() if row["name"] == name), None)


def becomes(client, name, state):
    return until(lambda: (row := row_of(client, name)) and row["state"] == state and row, f"{name} {state}")


def learns(client, name, step):
    return until(lambda: (row_of(client, name)["step"] or 0) >= step, f"step {step} of {name}")


def weights(path):
    return (path / "model" / "model.safetensors").read_bytes()


def test_a_training_is_begun_paused_and_goes_on_as_if_it_had_never_stopped(client, folder, text, tmp_path):
    form = dict(name="sea", text=text, steps=1500, **SHAPE)
    answer = client.post("/api/runs", json=form)
    assert (answer.status_code, answer.json()) == (201, {"name": "sea"})
    at_once = row_of(client, "sea")
    assert (at_once["state"], at_once["steps"], at_once["source"]) == ("learning", 1500, "sea.txt") and at_once["doing"]
    assert client.get("/api/runs/sea").json()["config"]["n_layers"] == 1
    assert client.post("/api/runs", json=form).status_code in (409, 422)  # one of them
    learns(client, "sea", 20)
    assert client.get("/api/runs/sea/learning").json()["series"]["loss"]
    assert client.post("/api/runs/sea/resume").status_code == 409
    assert client.post("/api/runs/sea/pause").json()["asked"] == "pause"
    row = becomes(client, "sea", "paused")
    run = Run(folder / "sea")
    assert 20 <= run.step == row["step"] < 1500 and not run.is_live and row["problem"] is None
    assert client.post("/api/runs/sea/pause").status_code == 409

    resumed = client.post("/api/runs/sea/resume").json()
    assert resumed["state"] == "learning" and resumed["asked"] == ""
    becomes(client, "sea", "finished")
    until(lambda: not trainings.is_live(folder / "sea"))
    unbroken = grow(text=text, out=tmp_path / "unbroken", steps=1500, quiet=True, **SHAPE)
    assert weights(folder / "sea") == weights(unbroken.path)
    losses = [[line["loss"] for line in each.metrics() if "loss" in line] for each in (run, unbroken)]
    assert losses[0] == losses[1]

    longer = client.post("/api/runs/sea/resume", json={"steps": 1600}).json()
    assert (longer["state"], trainings.complaint(folder / "sea")) == ("learning", "")
    until(lambda: row_of(client, "sea")["state"] == "finished" and row_of(client, "sea")["step"] == 1600)


def test_a_training_that_is_stopped_is_saved_and_not_offered_to_go_on(client, folder, text):
    name = client.post("/api/runs", json=dict(text=text, steps=100_000, **SHAPE)).json()["name"]
    assert name == "sea"
    learns(client, "sea", 5)
    assert client.post("/api/runs/sea/stop").json()["asked"] == "stop"
    row = becomes(client, "sea", "stopped")
    assert Run(folder / "sea").load_state()[0] == row["step"] and row["problem"] is None
    assert client.post("/api/runs", json=dict(text=text, steps=3, **SHAPE)).json()["name"] == "sea-2"
    becomes(client, "sea-2", "finished")


def test_a_training_that_cannot_begin_says_why_and_makes_room(client, folder, text, tmp_path):
    (tmp_path / "empty.txt").touch()
    name = client.post("/api/runs", json=dict(name="first", text=str(tmp_path / "empty.txt"), **SHAPE)).json()["name"]
    row = becomes(client, name, "stopped")
    assert "empty.txt" in row["problem"] and "Traceback" not in row["problem"] and "\n" not in row["problem"]
    assert client.get(f"/api/runs/{name}/learning").json()["problem"] == row["problem"]
    assert client.post(f"/api/runs/{name}/resume").status_code == 409
    client.post("/api/runs", json=dict(name="first", text=text, steps=3, **SHAPE))
    assert becomes(client, "first", "finished")["problem"] is None


def test_a_training_that_was_killed_while_it_prepared_is_shown_until_it_is_put_away(client, folder, tmp_path):
    (tmp_path / "empty.txt").touch()
    client.post("/api/runs", json=dict(name="first", text=str(tmp_path / "empty.txt"), **SHAPE))
    becomes(client, "first", "stopped")
    (folder / "first" / "cache" / trainings.LOG).write_bytes(b"")  # as SIGKILL leaves it
    row = row_of(client, "first")
    assert row["state"] == "stopped" and "killed" in row["problem"] and row["ways"] == ["stop"]
    assert client.post("/api/runs/first/stop").status_code == 200
    assert row_of(client, "first") is None


def test_a_training_whose_loss_is_no_number_says_so(client, folder, text):
    wild = SHAPE | dict(steps=400, learning_rate=1e6, muon_rate=1e6, optimizer="adamw", clip=0.0, warmup_steps=0)
    client.post("/api/runs", json=dict(name="wild", text=text, schedule="constant", **wild))
    row = until(lambda: (row := row_of(client, "wild")) and row["state"] in ("stopped", "finished") and row)
    if row["state"] == "finished":
        pytest.skip("its loss stayed finite")
    assert "try a lower learning rate" in row["problem"]
    assert client.get("/api/runs/wild/learning").json()["notes"][0]["name"]


def test_a_training_that_has_not_begun_to_learn_is_ended_at_once(client, folder, text):
    client.post("/api/runs", json=dict(name="early", text=text, steps=100_000, **SHAPE))
    if not trainings.is_learning(folder / "early"):
        answer = client.post("/api/runs/early/pause")
        assert answer.status_code == 409 and "prepares its data" in answer.json()["error"]
    client.post("/api/runs/early/stop")
    until(lambda: not trainings.is_live(folder / "early"))
    assert row_of(client, "early") is None or row_of(client, "early")["state"] == "stopped"


# The studio as a program ---------------------------------------------------------------------------------------------


class Studio:
    """`barreleye studio`, and a browser's part of it."""

    def __init__(self, folder, cwd):
        command = [sys.executable, "-m", "barreleye", "studio", "--no-open", str(folder)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, preexec_fn=listens
        )
        self.line = self.process.stdout.readline()
        self.address, self.token = re.search(r"(http://127\.0\.0\.1:\d+)/\?token=(\S+)", self.line).groups()
        self.client = httpx.Client(base_url=self.address, headers={TOKEN_HEADER: self.token}, timeout=WAIT)

    def ends(self, number):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=WAIT)
        self.client.close()
        return self.process.returncode, out, err


def listens():
    """Also where the tests run in the background or under nohup, which make deaf to these."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def studios(folder, tmp_path):
    begun = []

    def begin():
        begun.append(Studio(folder, tmp_path))
        return begun[-1]

    yield begin
    for studio in begun:
        if studio.process.poll() is None:
            studio.ends(signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_training_outlives_the_studio_and_the_next_one_knows_it(studios, folder, text, number):
    first = studios()
    first.client.post("/api/runs", json=dict(name="sea", text=text, steps=1_000_000, **SHAPE))
    learns(first.client, "sea", 3)
    first.ends(number)
    run = Run(folder / "sea")
    assert run.is_live
    before = len(run.metrics())
    until(lambda: len(run.metrics()) > before)
    second = studios()
    assert row_of(second.client, "sea")["state"] == "learning"
    assert second.client.post("/api/runs/sea/pause").status_code == 200
    row = becomes(second.client, "sea", "paused")
    assert row["problem"] is None and run.load_state()[0] == row["step"]
    until(lambda: not trainings.is_live(run.path))


def test_a_training_of_the_command_line_is_seen_and_paused(client, folder, text):
    options = trainings.options(dict(SHAPE) | dict(steps=1_000_000))
    command = [sys.executable, "-m", "barreleye", "train", "--text", text, "--out", str(folder / "own"), "--quiet"]
    with subprocess.Popen([*command, *options]) as process:
        until(lambda: row_of(client, "own") and row_of(client, "own")["step"] >= 3)
        assert row_of(client, "own")["state"] == "learning"
        client.post("/api/runs/own/pause")
        assert process.wait(WAIT) == 0
    assert row_of(client, "own")["state"] == "paused"


def test_the_studio_prints_one_address_tells_what_is_new_and_ends_quietly(studios, letters):
    studio = studios()
    browser = httpx.Client(base_url=studio.address, timeout=WAIT)
    assert browser.get("/api/runs").status_code == 403
    opened = browser.get(f"/?token={studio.token}")
    assert opened.status_code == 303 and "barreleye-" in opened.headers["set-cookie"]
    assert browser.get("/api/runs").json()[0]["name"] == "letters"
    for host in ("evil.example", f"evil.example:{studio.address.rpartition(':')[2]}"):
        assert browser.get("/api/runs", headers={"host": host}).status_code == 403
    with browser.stream("GET", "/api/runs/letters/events", headers={"last-event-id": "20"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        found = {}
        for line in lines:
            name, _, value = line.partition(": ")
            found.setdefault(name, value)
            if name == "data":
                break
        event = json.loads(found["data"])
        assert found["id"] == "23" and event["state"] == "finished"
        assert [step for step, _ in event["series"]["loss"]] == [21, 22, 23, 24]
        began = time.monotonic()
        code, out, err = studio.ends(signal.SIGINT)  # while the page listens
    browser.close()
    assert code == 0 and out == "" and time.monotonic() - began < 10
    assert err.splitlines() == ["Ctrl-C closes it; trainings go on without it"]
