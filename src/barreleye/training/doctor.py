"""The doctor: reads the record of a training, says what happened, on what evidence, and what to try.

Each check is a function from the record to a `Finding` or None. They are ordered so that a cause comes before what it
causes: what the model was given, how it is wired, how it began, how it was moved, what became of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from barreleye.config import Config
from barreleye.run import Run
from barreleye.training import checks_of_course as course
from barreleye.training import checks_of_setup as setup
from barreleye.training.record import Finding, Record

Check = Callable[[Record], Finding | None]

CHECKS: Sequence[Check] = (
    setup.device_disagrees,
    setup.targets_are_the_inputs,
    setup.targets_tell_nothing,
    setup.mask_leaks,
    setup.input_is_cut_off,
    setup.past_is_hidden,
    setup.initialization_too_large,
    setup.initialization_too_small,
    course.warmup_missing,
    course.learning_rate_too_high,
    course.not_finite,
    course.gradients_explode,
    course.gradients_vanish,
    course.dead_units,
    course.attention_collapsed,
    course.learning_rate_too_low,
    course.stuck_at_unigram,
    course.stuck_at_bigram,
    setup.data_repeats,
    setup.data_leaks,
    course.overfitting,
    setup.tokens_unused,
    course.batch_too_small,
)


def examine(config: Config, lines: Sequence[dict[str, Any]]) -> list[Finding]:
    """All that the record of a training shows, the cause first; empty where nothing is wrong."""
    record = Record.of(config, lines)
    return [finding for check in CHECKS if (finding := check(record))]


def diagnose(run: Run) -> list[Finding]:
    """What is wrong with a run, the cause first."""
    return examine(run.config, run.metrics())
