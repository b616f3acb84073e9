"""A short form of benchmarks/doctor.py, which tries every fault with three seeds and every healthy training."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the table stands beside this file

import faults

from barreleye.run import Run
from barreleye.training.doctor import CHECKS, diagnose, examine
from barreleye.training.grow import grow

SHORT = [
    "AdamW at a rate of 1", "AdamW at a rate of a millionth", "embeddings at 2", "units below zero from birth",
    "queries and keys twelve times as large", "gradients a hundredfold in each block",
    "a gradient that is nan from step 31 on", "targets shuffled", "targets not shifted", "no mask",
    "a mask that shows the own token alone", "twenty copies of one text", "a held-out part that was learned",
]  # fmt: skip


def test_there_are_enough_faults_and_a_third_is_held_back() -> None:
    assert len(faults.FAULTS) >= 20 and len(faults.HEALTHY) == 20
    assert len(faults.HELD_BACK) * 3 == len(faults.FAULTS)
    assert len({fault.name for fault in faults.FAULTS}) == len(faults.FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [f for f in faults.FAULTS if f.name in SHORT], ids=lambda fault: fault.name)
def test_the_cause_is_named_first(fault: faults.Fault, tmp_path: Path) -> None:
    found = faults.examined(fault, tmp_path, seed=4)
    assert found and found[0].name == fault.cause
    assert found[0].evidence and found[0].advice


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text by characters", "Llama's block on chats", "squared ReLU on chats"])
def test_no_alarm_where_nothing_is_wrong(name: str, tmp_path: Path) -> None:
    assert [finding for finding in faults.healthy(name, tmp_path, seed=4) if not finding.is_note] == []


def test_a_finding_is_recorded_when_it_is_first_seen_and_once(tmp_path: Path) -> None:
    fault = next(fault for fault in faults.FAULTS if fault.name == "embeddings at 2")
    short = faults.Fault(fault.name, fault.cause, fault.options | dict(steps=30))
    found = faults.examined(short, tmp_path, seed=1)
    lines = [line for line in Run(tmp_path / "run").metrics() if "finding" in line]
    first = next(line for line in lines if line["finding"]["name"] == fault.cause)
    assert first["finding"]["evidence"] == found[0].evidence
    assert len({line["finding"]["name"] for line in lines}) == len(lines)


def test_a_record_with_little_in_it_is_no_reason_to_say_anything(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(faults.said_by("fish", 1, 200), encoding="utf-8")
    options = faults.BASE | dict(text=tmp_path / "t.txt")
    for name, knobs in (("none", dict(steps=0)), ("one", dict(steps=1)), ("off", dict(steps=3, record_every=0))):
        assert diagnose(grow(out=tmp_path / name, **(options | knobs))) == []
    config = Run(tmp_path / "one").config
    assert examine(config, []) == [] and len(set(CHECKS)) == len(CHECKS)
