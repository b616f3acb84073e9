"""The doctor: reads the record of a training, says what happened, on what evidence, and what to try.

Each check is a function from the record to a `Finding` or None. They are ordered so that a cause comes before what it
causes: what the model was given, how it is wired, how it began, how it was moved, what became of it. Notes come last.
"""

from collections.abc import Callable, Sequence
from typing import Any

from barreleye.config import Config
from barreleye.run import Run
from barreleye.training import checks_of_course as course
from barreleye.training import checks_of_data as data
from barreleye.training import checks_of_inside as inside
from barreleye.training import checks_of_setup as setup
from barreleye.training.record import ENOUGH, Finding, Record

Check = Callable[[Record], Finding | None]

CHECKS: Sequence[Check] = (
    setup.device_disagrees,
    data.targets_are_the_inputs,
    data.targets_are_not_next,
    data.same_batch,
    setup.weights_stand_still,
    setup.mask_leaks,
    course.decay_too_high,
    setup.input_is_cut_off,
    setup.past_is_hidden,
    setup.initialization_too_large,
    setup.initialization_too_small,
    course.warmup_missing,
    course.learning_rate_too_high,
    inside.not_finite,
    inside.gradients_explode,
    inside.gradients_vanish,
    inside.dead_units,
    setup.attention_sharp_at_first,
    inside.attention_collapsed,
    course.learning_rate_too_low,
    course.stuck_at_bigram,
    data.data_repeats,
    data.data_leaks,
    course.overfitting,
    data.tokens_unused,
    course.no_more_than_unigram,
    data.copies_left_out,
    inside.batch_too_small,
)


def examine(config: Config, lines: Sequence[dict[str, Any]]) -> list[Finding]:
    """All that the record of a training shows, the cause first; empty where nothing is wrong."""
    record = Record.of(config, lines)
    findings = [finding for check in CHECKS if (finding := check(record))]
    return sorted(findings, key=lambda finding: finding.is_note)


def diagnose(run: Run) -> list[Finding]:
    """What is wrong with a run, the cause first."""
    return examine(run.config, run.metrics())


def unseen(run: Run) -> list[str]:
    """What the record is too short, or lacks the lines, to tell."""
    record = Record.of(run.config, run.metrics())
    limits = []
    if len(record.losses) < ENOUGH and not record.not_finite:
        limits.append(f"too little is recorded to judge its course: {len(record.losses)} of at least {ENOUGH} steps")
    if not record.probes:
        limits.append("not looked at (--record-every 0): gradients, updates, activations, attention, the mask")
    if not record.facts:
        limits.append("not looked at (--record-every 0): the data")
    return limits
