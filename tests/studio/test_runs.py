import json
import shutil
import subprocess
import sys
from urllib.parse import quote

import pytest

from barreleye import cli
from barreleye.run import Run
from barreleye.studio import trainings
from barreleye.studio.standing import standing
from barreleye.training.grow import grow

INFO = "name kind character parameters config steps sampling problem".split()


def with_steps(run, steps):
    """The same run, as if it were to be so long."""
    file = run.path / "config.toml"
    file.write_text(file.read_text().replace(f"\nsteps = {run.config.train.steps}\n", f"\nsteps = {steps}\n"))
    return Run(run.path)


def refused(answer, status):
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error and "\n" not in error
    return error


# What there is -------------------------------------------------------------------------------------------------------


def test_a_folder_without_runs_is_an_empty_list(client, folder):
    assert client.get("/api/runs").json() == []
    folder.mkdir()
    (folder / "notes.txt").touch()
    (folder / "other").mkdir()
    assert client.get("/api/runs").json() == []


def test_a_finished_run(client, letters, runs):
    (row,) = client.get("/api/runs").json()
    assert (row["name"], row["state"], row["step"], row["steps"]) == ("letters", "finished", 24, 24)
    assert (row["kind"], row["source"], row["problem"]) == ("text", "text.txt", None)
    assert row["parameters"] == sum(p.numel() for p in letters.load_model().parameters())
    assert row["loss"] == [line["loss"] for line in letters.metrics() if "loss" in line][-1]
    fish = shutil.copytree(runs["fish"].path, letters.path.parent / "fish")
    (fish / "config.toml").touch()
    newest, _ = client.get("/api/runs").json()
    assert (newest["name"], newest["kind"], newest["source"]) == ("fish", "chat", "fish")


def test_one_run_has_its_shape_its_knobs_and_its_steps(client, letters):
    info = client.get("/api/runs/letters").json()
    assert set(INFO) <= set(info)
    assert (info["kind"], info["character"]) == ("text", "text.txt")
    assert info["config"]["n_layers"] == 2 and info["config"]["learning_rate"] == 3e-3
    assert info["config"]["vocab_size"] == letters.tokenizer.vocab_size
    assert info["steps"] == info["snapshots"] == letters.snapshots() and info["planned_steps"] == 24
    assert info["sampling"] == {"temperature": 0.7, "top_k": 0, "top_p": 0.9, "repetition_penalty": 1.0}
    shutil.rmtree(letters.path / "snapshots")
    without = client.get("/api/runs/letters").json()
    assert (without["steps"], without["snapshots"]) == ([24], [])


def test_a_training_that_has_more_to_learn_is_paused(client, letters):
    with_steps(letters, 1000)
    row = client.get("/api/runs/letters").json()
    assert (row["state"], row["step"], row["planned_steps"], row["problem"]) == ("paused", 24, 1000, None)


def test_a_training_that_was_killed_says_where_it_goes_on(client, letters):
    with_steps(letters, 1000)
    with (letters.path / "metrics.jsonl").open("a") as record:
        record.write(json.dumps({"step": 31, "loss": 2.0, "grad_norm": 1.0}) + '\n{"step": 32, "loss"')
    (row,) = client.get("/api/runs").json()
    assert (row["state"], row["step"]) == ("paused", 31)
    assert "ended at step 31 without saving" in row["problem"] and "goes on from step 24" in row["problem"]


def test_a_training_that_writes_is_live_whoever_began_it(client, letters):
    with_steps(letters, 1000)
    with letters.lock():
        (row,) = client.get("/api/runs").json()
    assert (row["state"], row["doing"]) == ("learning", "learning")


def test_an_imported_model_is_neither_paused_nor_finished(client, letters):
    file = letters.path / "config.toml"
    file.write_text(file.read_text().replace('kind = "text"', 'kind = "import"'))
    shutil.rmtree(letters.path / "state")
    assert client.get("/api/runs").json()[0]["state"] == "imported"
    assert "imported" in refused(client.post("/api/runs/letters/resume"), 409)


DAMAGE = {
    "config.toml": (b"[model\n", "config.toml"),
    "config.toml ": (b"[model]\nn_heads = 5\nd_model = 32\n", "does not divide"),
    "config.toml  ": (b"\xff", "config.toml"),
    "model/model.safetensors": (b"short", "is not a whole safetensors file"),
    "model/tokenizer.json": (None, "there is no such file"),
}


@pytest.mark.parametrize("file", DAMAGE)
def test_a_corrupt_run_has_a_line_and_the_others_are_well(client, letters, file):
    shutil.copytree(letters.path, letters.path.parent / "well")
    data, line = DAMAGE[file]
    damaged = letters.path / file.strip()
    damaged.unlink() if data is None else damaged.write_bytes(data)
    rows = {row["name"]: row for row in client.get("/api/runs").json()}
    assert rows["well"]["state"] == "finished"
    assert rows["letters"]["state"] == "corrupt" and line in rows["letters"]["problem"]
    info = client.get("/api/runs/letters").json()
    assert info["state"] == "corrupt" and info["problem"] == rows["letters"]["problem"]
    for what in ("pause", "resume", "stop"):
        refused(client.post(f"/api/runs/letters/{what}"), 409)


def test_a_folder_whose_name_is_not_utf_8_spoils_nothing(client, letters):
    try:
        letters.path.rename(letters.path.parent / "caf\udce9")
    except OSError:
        pytest.skip("the file system has no such names")
    (row,) = client.get("/api/runs").json()
    assert row["state"] == "corrupt" and "UTF-8" in row["problem"]


@pytest.mark.parametrize(
    "line",
    ['{"step": Infinity, "loss": 1.0, "grad_norm": 1.0}', '{"step": 3, "loss": 1%s, "grad_norm": 1}' % ("0" * 400)],
)
def test_a_figure_that_is_none_in_one_record_spoils_nothing(client, letters, line):
    with (letters.path / "metrics.jsonl").open("a") as record:
        record.write(line + "\n")
    assert client.get("/api/runs").json()[0]["name"] == "letters"
    assert client.get("/api/runs/letters/learning").status_code == 200


@pytest.mark.parametrize("name", ["two  spaces", " begins", "a\tb", "a\nb"])
def test_a_run_is_opened_by_the_name_that_it_is_listed_by(client, letters, name):
    letters.path.rename(letters.path.parent / name)
    (row,) = client.get("/api/runs").json()
    assert client.get(f"/api/runs/{quote(row['name'])}").json()["state"] == "finished"


def test_what_is_in_the_way_is_said(client, letters):
    (letters.path / "metrics.jsonl").unlink()
    (letters.path / "metrics.jsonl").mkdir()
    refused(client.get("/api/runs/letters/learning"), 409)


def test_a_run_without_its_states_is_what_its_record_says(client, letters):
    shutil.rmtree(letters.path / "state")
    (row,) = client.get("/api/runs").json()
    assert row["state"] == "finished" and row["ways"] == []
    record = letters.path / "metrics.jsonl"
    lines = [line for line in record.read_text().splitlines() if json.loads(line)["step"] < 9]
    record.write_text("\n".join(lines) + "\n")
    (row,) = client.get("/api/runs").json()
    assert row["state"] == "stopped" and row["ways"] == [] and "not gone on with" in row["problem"]
    assert "no saved state" in refused(client.post("/api/runs/letters/resume"), 409)


@pytest.mark.parametrize("name", ["none", "%2e%2e", "letters%2f..", "letters%00", "LETTERS", "letters ", "*"])
def test_a_run_is_found_by_its_name_alone(client, letters, name):
    (letters.path.parent.parent / "config.toml").write_text("")
    for path in ("", "/learning", "/events"):
        assert client.get(f"/api/runs/{name}{path}").status_code == 404
    for path in ("/pause", "/resume", "/stop"):
        assert client.post(f"/api/runs/{name}{path}").status_code in (404, 405)


# The form ------------------------------------------------------------------------------------------------------------


def test_a_form_is_made_of_the_knobs_themselves(client, folder):
    found = client.get("/api/choices").json()
    assert [each["name"] for each in found["personas"]] == ["bard", "cat", "fish", "tycoon"]
    assert found["presets"]["fish"]["knobs"]["n_layers"] == 4 and found["presets"]["modern"]["about"]
    heads = found["knobs"]["n_heads"]
    assert (heads["type"], heads["least"], heads["help"], heads["section"]) == ("int", 1, "attention heads", "model")
    assert "vocab_size" not in found["knobs"] and found["folder"] == str(folder)


WRONG = [
    {"n_heads": 5},
    {"n_heads": "four"},
    {"n_layers": 0},
    {"learning_rate": -1},
    {"learning_rate": float("nan")},
    {"optimizer": "sgd"},
    {"positions": "sideways"},
    {"n_layer": 4},
    {"preset": "whale"},
    {"persona": "dragon"},
    {"mix": "fish:0.5,dragon:0.5"},
    {"persona": "fish", "mix": "fish:0.5,cat:0.5"},
    {"steps": 1.5},
    {"bias": "yes"},
    {"device": "toaster"},
]


@pytest.mark.parametrize("form", WRONG, ids=str)
def test_a_wrong_knob_gives_the_line_of_the_command_line(client, folder, form, tmp_path):
    with pytest.raises(ValueError) as raised:
        grow(out=tmp_path / "elsewhere", quiet=True, **form)
    body = json.dumps(form)
    answer = client.post("/api/runs", content=body, headers={"content-type": "application/json"})
    assert refused(answer, 422) == " ".join(str(raised.value).split())
    assert not folder.exists()


def test_the_same_line_stands_on_the_terminal(client, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["barreleye", "train", "fish", "--n-heads", "5", "--out", str(tmp_path / "x")])
    with pytest.raises(SystemExit):
        cli.main()
    error = refused(client.post("/api/runs", json={"persona": "fish", "n_heads": 5}), 422)
    assert capsys.readouterr().err == f"barreleye: {error}\n"


@pytest.mark.parametrize(
    "form, line",
    [
        ({"vocab_size": 12}, "no knob 'vocab_size'"),
        ({"kind": "import"}, "no knob 'kind'"),
        ({"source": "x"}, "no knob 'source'"),
        ({"quiet": True}, "no knob 'quiet'"),
        ({"out": "/tmp/x"}, "no knob 'out'"),
        ({"track": "wandb"}, "no knob 'track'"),
        ({"persona": ["fish"]}, "persona must be text"),
        ({"preset": 3}, "preset must be text"),
        ({"name": {"a": 1}}, "name must be text"),
        ({"chats": [1]}, "chats must be text"),
        ({"n_layers": 1000, "d_model": 60000}, "more memory than this machine has"),
    ],
)
def test_what_is_no_knob_of_a_form(client, folder, form, line):
    assert line in refused(client.post("/api/runs", json=form), 422)
    assert not folder.exists()


NAMES = [
    "..",
    ".",
    ".hidden",
    "a/b",
    "../a",
    "/a",
    "a\\b",
    "a\0b",
    "a b",
    "-a",
    "--out",
    "a.",
    "_a",
    "é\n",
    "x" * 61,
    "C:a",
    "~",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_cannot_be_a_folders(client, folder, name):
    assert "cannot be a folder's" in refused(client.post("/api/runs", json={"name": name}), 422)
    assert not folder.exists()


def test_a_name_that_is_taken(client, letters, folder):
    assert "already holds a run" in refused(client.post("/api/runs", json={"name": "letters"}), 422)
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").touch()
    assert "is not empty" in refused(client.post("/api/runs", json={"name": "mine"}), 422)


def test_an_earlier_run_is_one_of_this_folder(client, letters, tmp_path):
    assert client.post("/api/runs", json={"from_run": str(letters.path)}).status_code == 404
    assert client.post("/api/runs", json={"from_run": "../runs/letters"}).status_code == 404
    line = "--from needs data of the run's own kind"
    assert line in refused(client.post("/api/runs", json={"from_run": "letters", "persona": "fish"}), 422)


def test_what_does_not_fit_how_a_run_stands(client, letters):
    for what, line in (("pause", "is not learning"), ("resume", "24 steps already"), ("stop", "is finished")):
        assert line in refused(client.post(f"/api/runs/letters/{what}"), 409)
    assert "cannot change n_heads" in refused(client.post("/api/runs/letters/resume", json={"n_heads": 2}), 400)
    assert "at least 0" in refused(client.post("/api/runs/letters/resume", json={"steps": -4}), 400)


def test_a_paused_training_that_is_stopped_is_offered_no_more(client, letters):
    with_steps(letters, 1000)
    assert client.post("/api/runs/letters/stop").json()["state"] == "stopped"
    assert client.get("/api/runs").json()[0]["state"] == "stopped"
    assert "does not learn: it is stopped" in refused(client.post("/api/runs/letters/stop"), 409)
    with letters.lock():  # of the command line, say, where it may go on
        pass
    (letters.path / "lock").write_text("12\n")
    assert client.get("/api/runs").json()[0]["state"] == "paused"


# Whose process it is -------------------------------------------------------------------------------------------------


@pytest.fixture
def signals(monkeypatch):
    """Those that would have been sent."""
    sent = []
    monkeypatch.setattr(trainings.signal, "pidfd_send_signal", lambda handle, number: sent.append(number), False)
    monkeypatch.setattr(trainings.os, "kill", lambda pid, number: sent.append(number))
    return sent


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no Ctrl-C for another process")


def test_ctrl_c_goes_to_who_holds_the_lock_once(letters, signals):
    with_steps(letters, 1000)
    with letters.lock():
        trainings.pause(letters.path)
        assert standing(letters.path)["asked"] == "pause"
        trainings.pause(letters.path)  # a second Ctrl-C would not let it save
        trainings.stop(letters.path)
        assert signals == [trainings.signal.SIGINT]
        assert (standing(letters.path)["asked"], standing(letters.path)["state"]) == ("stop", "learning")
    assert standing(letters.path)["state"] == "stopped"


def test_no_process_is_signalled_that_only_bears_the_number(letters, signals):
    """The lock is held, and names a process: of a training that was killed, whose number another one has by now."""
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(letters.path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        assert trainings.is_learning(letters.path)
        for said in (f"{bystander.pid}\n", "", "1\n", "0\n", "-1\n", "99999999999999999999", "x"):
            (letters.path / "lock").write_text(said)
            for ask in (trainings.pause, trainings.stop):
                with pytest.raises(trainings.WrongState, match="press Ctrl-C where it was started"):
                    ask(letters.path)
        (letters.path / "lock").write_text(f"{holder.pid}\n")
        trainings.pause(letters.path)
        assert signals == [trainings.signal.SIGINT]
    finally:
        for process in (bystander, holder):
            process.communicate()


HOLD = """
import sys
from pathlib import Path
from barreleye.files import lock_file
file = Path(sys.argv[1]).open("a+b")
lock_file(file.fileno())
print("held", flush=True)
input()
"""


def test_a_lock_that_nobody_holds_is_no_training(letters, signals):
    with letters.lock():
        pass
    assert letters.last_writer
    with pytest.raises(trainings.WrongState, match="is not learning"):
        trainings.pause(letters.path)
    assert not signals
