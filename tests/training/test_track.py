"""What a tracker kept is read back with the tracker's own reader, and is what the record says."""

import importlib.util
import sqlite3
import sys

import pytest

from barreleye.training.grow import grow, resume
from barreleye.training.track import check_tracker, numbers_of

TINY = dict(
    conversations=40, vocab=300, n_layers=1, n_heads=2, d_model=16, d_ff=16, batch_tokens=256, eval_every=2,
    record_every=0, snapshots=0, steps=3, quiet=True,
)  # fmt: skip


def needs(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def losses(run):
    return {line["step"]: line["loss"] for line in run.metrics() if "loss" in line}


def held_out(run):
    return {line["step"]: line["held_out"]["all"]["loss"] for line in run.metrics() if "held_out" in line}


def records_of(data, block=2**15):
    """What a .wandb file holds: seven bytes, then the log of LevelDB (checksum, length, kind, bytes; in blocks)."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def test_numbers_are_found_at_any_depth():
    line = {
        "loss": 1,
        "held_out": {"nats": 2.5, "name": "x", "more": {"a": 3}},
        "samples": [1],
        "live": True,
        "no": None,
    }
    assert dict(numbers_of(line)) == {"loss": 1.0, "held_out/nats": 2.5, "held_out/more/a": 3.0}


def test_a_tracker_that_does_not_exist(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no tracker 'tensorbord'; did you mean 'tensorboard'"):
        grow("fish", out=tmp_path / "run", track="tensorbord", **TINY)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--track wandb: it is not installed; pip install 'barreleye\[track\]'"):
        grow("fish", out=tmp_path / "run", track="wandb", **TINY)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_called_as_a_tracker_is(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ValueError, match="--track wandb: it is not installed"):
        check_tracker("wandb")


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore")
def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = grow("fish", out=tmp_path / "run", track="tensorboard", **TINY)
    run = resume(run, track="tensorboard", steps=5, quiet=True)
    events = EventAccumulator(str(run.path / "reports" / "tensorboard"))
    events.Reload()
    assert {e.step: e.value for e in events.Scalars("loss")} == pytest.approx(losses(run))
    assert set(losses(run)) == {1, 2, 3, 4, 5}
    assert {e.step: e.value for e in events.Scalars("held_out/all/loss")} == pytest.approx(held_out(run))


@needs("wandb")
@pytest.mark.filterwarnings("ignore")
def test_wandb_without_an_account(tmp_path, monkeypatch):
    from wandb.proto import wandb_internal_pb2 as messages

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = grow("fish", out=tmp_path / "run", track="wandb", **TINY)
    (file,) = (run.path / "reports" / "wandb").glob("offline-run-*/*.wandb")
    kept = {}
    for data in records_of(file.read_bytes()):
        record = messages.Record.FromString(data)
        values = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        if "loss" in values:
            kept[int(values["_step"])] = float(values["loss"])
    assert kept == pytest.approx(losses(run)) and kept


@needs("trackio")
@pytest.mark.filterwarnings("ignore")
def test_trackio_on_this_machine(tmp_path, monkeypatch):
    import trackio.sqlite_storage
    import trackio.utils

    for module in (trackio.sqlite_storage, trackio.utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    run = grow("fish", out=tmp_path / "run", track="trackio", **TINY)
    (file,) = (tmp_path / "trackio").glob("barreleye*.db")
    with sqlite3.connect(file) as store:
        rows = store.execute("SELECT step, json_extract(metrics, '$.loss') FROM metrics").fetchall()
    assert {step: loss for step, loss in rows if loss is not None} == pytest.approx(losses(run)) and rows
