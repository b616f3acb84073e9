"""The checks on records made by hand; and a short form of benchmarks/doctor.py, which tries every fault with three
seeds and every healthy training."""

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the table stands beside this file

import faults

from barreleye.config import Config, DataConfig, ModelConfig, TrainConfig
from barreleye.run import Run
from barreleye.training.doctor import CHECKS, diagnose, examine, unseen
from barreleye.training.grow import grow

SHORT = [
    "AdamW at a rate of 1", "AdamW at a rate of a millionth", "embeddings at 2", "units below zero from birth",
    "queries and keys twelve times as large", "gradients a hundredfold in each block",
    "a gradient that is nan from step 31 on", "targets shuffled", "targets not shifted", "no mask",
    "a mask that shows the own token alone", "twenty copies of one text", "a held-out part that was learned",
    "AdamW at ten times its rate", "blocks that are frozen", "one batch for ever",
]  # fmt: skip
FACTS = {"unigram": 3.0, "bigram": 2.2, "trigram": 1.8, "copied": 0.05, "next": 1.0, "unused": 0.0, "learned": 500.0}
CONFIG = Config(
    DataConfig(kind="text"),
    ModelConfig(n_layers=2, n_heads=2, d_model=32, vocab_size=60),
    TrainConfig(steps=200, batch_tokens=512, optimizer="adamw"),
)
GROUPS = ("embed", "blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp")


def probe(**changes: Any) -> dict[str, Any]:
    return {
        "gradient_norm": dict.fromkeys(GROUPS, 0.1),
        "update_ratio": dict.fromkeys(GROUPS, 0.01),
        "activations": {
            f"blocks.{i}.{at}": {"std": 1.0} for i in range(2) for at in ("hook_resid_pre", "mlp.hook_pre")
        },
        "dead": {"blocks.0.mlp": 0.0, "blocks.1.mlp": 0.0},
        "attention_entropy": {"blocks.0.attn": [0.9, 0.8], "blocks.1.attn": [0.9, 0.01]},
        "noise": {"trace": 500.0, "squared_norm": 1.0},
        "reach": {"future": 0.0, "past": 0.5, "own": 2.0},
    } | changes


def falls_to(last: float, first: float = math.log(60), flat_from: float = 0.2) -> list[float]:
    return [max(last, first - (first - last) * step / (flat_from * 200)) for step in range(200)]


def found(
    losses: list[float] | None = None,
    probes: Callable[[int], dict[str, Any]] = lambda step: {},
    facts: dict[str, Any] | None = None,
    held_out: dict[int, float] | None = None,
    config: Config = CONFIG,
    **train: Any,
) -> list[str]:
    """What the doctor says of a training of 200 steps in which only the given is not as usual."""
    lines: list[dict[str, Any]] = [{"step": 0, "facts": FACTS | (facts or {})}]
    lines += [{"step": n, "loss": loss} for n, loss in enumerate(losses or falls_to(1.9), 1)]
    lines += [{"step": step, "probe": probe(**probes(step))} for step in range(0, 201, 20)]
    lines += [{"step": step, "held_out": {"all": {"loss": loss}}} for step, loss in (held_out or {}).items()]
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
    return [finding.name for finding in examine(config, lines)]


def test_nothing_is_wrong_where_all_is_as_usual() -> None:
    assert found() == [] and len(set(CHECKS)) == len(CHECKS)


def test_a_loss_at_the_bigram_is_a_fault_where_two_tokens_tell_more_than_one() -> None:
    stuck = "the loss is stuck at bigram entropy: only the last token is used"
    assert found(falls_to(2.21)) == [stuck]
    assert found(falls_to(2.21), facts=dict(trigram=2.19)) == []  # a Markov chain: there is nothing more to learn
    assert found(falls_to(2.21, flat_from=1.2)) == []  # it falls still


def test_a_loss_at_the_unigram_is_named_last() -> None:
    assert found(falls_to(2.98)) == [faults.NOTHING]
    assert found(falls_to(2.98), facts=dict(bigram=2.99, trigram=2.98)) == []  # letters at random
    high = found(falls_to(2.98), lambda step: dict(update_ratio=dict.fromkeys(GROUPS, 0.2)))
    assert high == [faults.TOO_HIGH, faults.NOTHING]


def test_weights_that_never_move_are_named_unless_they_get_no_gradient() -> None:
    def still(*names: str) -> dict[str, float]:
        return dict.fromkeys(GROUPS, 0.01) | dict.fromkeys(names, 0.0)

    assert found(probes=lambda step: dict(update_ratio=still("blocks.1.mlp"))) == [faults.STILL]
    assert found(falls_to(4.0), lambda step: dict(update_ratio=still(*GROUPS)))[0] == faults.STILL
    cut_off = dict(update_ratio=still("blocks.1.mlp"), gradient_norm=dict.fromkeys(GROUPS, 0.0))
    assert faults.STILL not in found(probes=lambda step: cut_off)
    frozen = dict(update_ratio=still("blocks.1.mlp"), gradient_norm={"embed": 0.1})
    assert faults.STILL in found(probes=lambda step: frozen)


def test_a_decay_that_eats_the_weights() -> None:
    assert found(falls_to(3.4), weight_decay=10.0)[0] == faults.DECAY
    assert found(falls_to(1.9), weight_decay=10.0) == [] and faults.DECAY not in found(falls_to(3.4))
    assert faults.DECAY not in found(falls_to(3.4), learning_rate=3.0)  # it is the rate
    assert found(falls_to(3.4), weight_decay=2.0, optimizer="muon")[0] == faults.DECAY
    assert faults.DECAY not in found(falls_to(3.4), weight_decay=2.0)  # AdamW's rate is lower


def test_a_loss_that_rises_at_first_and_falls_at_the_same_rates() -> None:
    losses = [4.1] * 3 + [9.0] * 7 + falls_to(1.9)[:190]
    assert found(losses, warmup_steps=0)[0] == faults.WARMUP
    assert faults.WARMUP not in found(losses, warmup_steps=40) + found(warmup_steps=0)


def test_a_run_that_begins_from_another_is_judged_from_where_it_began() -> None:
    tuned = dataclasses.replace(CONFIG, data=DataConfig(kind="text", from_run="runs/fish"))
    forgets = [1.5] * 5 + [2.9] * 50 + [2.6] * 145
    assert found(forgets, config=tuned) == [faults.TOO_HIGH]
    assert found(forgets[:5] + [4.9] * 50 + [2.6] * 145, config=tuned, warmup_steps=0) == [faults.TOO_HIGH]
    slow = dict(update_ratio=dict.fromkeys(GROUPS, 0.0005))
    assert found([2.9] * 200, lambda step: slow)[0] == faults.TOO_LOW
    assert faults.TOO_LOW not in found([2.9] * 200, lambda step: slow, config=tuned)


def test_a_rate_too_low_is_judged_by_the_blocks_and_by_how_far_the_training_is() -> None:
    small = dict.fromkeys(GROUPS, 0.001) | dict(embed=0.02)  # initial embeddings are small, and go far
    assert found(falls_to(3.5), lambda step: dict(update_ratio=small))[0] == faults.TOO_LOW
    assert faults.TOO_LOW not in found(falls_to(3.5)[:70], lambda step: dict(update_ratio=dict.fromkeys(GROUPS, 0.004)))


def test_what_is_too_small_at_first() -> None:
    tiny = {f"blocks.{i}.mlp.hook_pre": {"std": 1e-4} for i in range(2)}
    assert found(probes=lambda step: dict(activations=tiny)) == [faults.SMALL]


def test_gradients_that_vanish() -> None:
    vanish = dict.fromkeys(GROUPS, 1.0) | {"blocks.0.attn": 1e-4, "blocks.0.mlp": 1e-4}
    assert found(probes=lambda step: dict(gradient_norm=vanish)) == ["gradients vanish on their way down"]


def test_attention_collapses_where_it_was_broad_and_nothing_was_learned() -> None:
    collapsed = "attention collapsed: each query looks at one key"

    def sharp_from(first: int) -> Callable[[int], dict[str, Any]]:
        return lambda step: dict(attention_entropy={"blocks.0.attn": [0.9 if step < first else 0.01] * 2})

    assert found(falls_to(2.7), sharp_from(40)) == [collapsed]
    assert found(falls_to(1.9), sharp_from(40)) == []  # a skill: the loss has fallen
    one_key = dict(attention_entropy={"blocks.0.attn": [1.0]}, reach=None)  # a context of one token
    assert found(falls_to(2.7), lambda step: one_key) == []
    assert found(probes=sharp_from(0)) == [collapsed]


def test_the_input_or_the_past_is_cut_off() -> None:
    nothing = lambda step: dict(reach=dict(future=0.0, past=0.0, own=0.0))  # noqa: E731
    assert found(falls_to(2.98), nothing)[0] == "the tokens do not reach the logits"
    itself = lambda step: dict(reach=dict(future=0.0, past=0.0, own=2.0))  # noqa: E731
    assert found(falls_to(2.21), itself)[0] == faults.HIDDEN


def test_overfitting_since_when() -> None:
    risen = {0: 4.1, 50: 2.0, 100: 2.1, 150: 2.3, 200: 2.6}
    assert found(falls_to(1.0, flat_from=1.0), held_out=risen) == ["overfitting"]
    assert found(held_out={0: 4.1, 50: 2.0, 100: 1.99, 150: 2.0, 200: 2.01}) == []


def test_tokens_that_never_occur_are_a_note_unless_another_runs_tokenizer_hardly_knows_the_data() -> None:
    rows = "rows of the embedding that are never read"
    for from_run, unused, is_note in (("", 0.9, True), ("runs/cat", 0.5, True), ("runs/cat", 0.9, False)):
        config = dataclasses.replace(CONFIG, data=DataConfig(kind="chats", from_run=from_run))
        findings = examine(config, [{"step": 0, "facts": FACTS | dict(unused=unused)}])
        assert [(f.name, f.is_note) for f in findings] == [(rows, is_note)]


def test_a_batch_is_judged_by_the_tokens_that_it_teaches() -> None:
    noisy = lambda step: dict(noise=dict(trace=6000.0, squared_norm=1.0))  # noqa: E731
    assert found(probes=noisy) == [] and found(probes=noisy, facts=dict(learned=100.0)) == ["batch small for the noise"]


def test_what_the_data_say() -> None:
    assert found(facts=dict(next=0.5)) == [faults.NOT_NEXT]
    assert found(facts=dict(same_batch=0.99)) == ["the same batch is read again and again"]
    assert found(facts=dict(left_out=0.9)) == ["most of the chats were copies"]
    assert found(facts=dict(left_out=0.9, next=0.5))[0] == faults.NOT_NEXT  # a fault stands before a note


# Whole trainings ---------------------------------------------------------------------------------------------------


def test_there_are_enough_faults_and_a_third_is_held_back() -> None:
    assert len(faults.FAULTS) >= 20 and len(faults.HEALTHY) == 20
    assert len(faults.HELD_BACK) * 3 == len(faults.FAULTS)
    for table in (faults.FAULTS, faults.HEALTHY):
        assert len({training.name for training in table}) == len(table)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [f for f in faults.FAULTS if f.name in SHORT], ids=lambda fault: fault.name)
def test_the_cause_is_named_first(fault: faults.Fault, tmp_path: Path) -> None:
    said = faults.examined(fault, tmp_path, seed=4)
    assert said and said[0].name == fault.cause
    assert said[0].evidence and said[0].advice


@pytest.mark.slow
@pytest.mark.parametrize(
    "training",
    [t for t in faults.HEALTHY if t.name in ("text by characters", "fine-tuned, a fish to a cat", "a Markov chain")],
    ids=lambda training: training.name,
)
def test_no_alarm_where_nothing_is_wrong(training: faults.Fault, tmp_path: Path) -> None:
    assert [finding for finding in faults.healthy(training, tmp_path, seed=4) if not finding.is_note] == []


def test_a_finding_is_recorded_when_it_is_first_seen_and_once(tmp_path: Path) -> None:
    fault = next(fault for fault in faults.FAULTS if fault.name == "embeddings at 2")
    short = faults.Fault(fault.name, fault.cause, fault.options | dict(steps=30))
    said = faults.examined(short, tmp_path, seed=1)
    lines = [line for line in Run(tmp_path / "run").metrics() if "finding" in line]
    first = next(line for line in lines if line["finding"]["name"] == fault.cause)
    assert first["finding"]["evidence"] == said[0].evidence
    assert len({line["finding"]["name"] for line in lines}) == len(lines)


def test_of_a_record_with_little_in_it_is_said_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(faults.said_by("fish", 1, 200), encoding="utf-8")
    options = faults.BASE | dict(text=tmp_path / "t.txt")
    short, inside, data = "0 of at least 20 steps", "gradients, updates, activations", "the data"
    for name, knobs, lacks in (
        ("none", dict(steps=0), [short]),
        ("few", dict(steps=3, record_every=0), ["3 of at least 20 steps", inside, data]),
        ("off", dict(steps=25, record_every=0), [inside, data]),
        ("enough", dict(steps=25), []),
    ):
        run = grow(out=tmp_path / name, **(options | knobs))
        said = unseen(run)
        assert len(said) == len(lacks), (name, said)
        assert diagnose(run) == [] or not lacks
        assert all(part in limit for part, limit in zip(lacks, said, strict=True))
    (run.path / "metrics.jsonl").write_text('{"loss": 5.0}\n{"step": 3, "lo')
    assert diagnose(run) == [] and len(unseen(run)) == 3
