"""The doctor: reads the record of a training, says what happened, on what evidence, and what to try.

Each check is a function from the record to a `Finding` or None. They are ordered so that a cause comes before what it
causes: what the model was given, how it is wired, how it began, how it was moved, what became of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from barreleye.config import Config
from barreleye.run import Run
from barreleye.training import findings
from barreleye.training.record import Finding, Record

Check = Callable[[Record], Finding | None]

CHECKS: Sequence[Check] = (
    findings.targets_are_the_inputs,
    findings.targets_tell_nothing,
    findings.mask_leaks,
    findings.input_is_cut_off,
    findings.past_is_hidden,
    findings.initialization_too_large,
    findings.initialization_too_small,
    findings.warmup_missing,
    findings.learning_rate_too_high,
    findings.not_finite,
    findings.gradients_explode,
    findings.gradients_vanish,
    findings.dead_units,
    findings.attention_collapsed,
    findings.learning_rate_too_low,
    findings.stuck_at_unigram,
    findings.stuck_at_bigram,
    findings.data_repeats,
    findings.data_leaks,
    findings.overfitting,
    findings.tokens_unused,
    findings.batch_too_small,
)


def examine(config: Config, lines: Sequence[dict[str, Any]]) -> list[Finding]:
    """All that the record of a training shows, the cause first; empty where nothing is wrong."""
    record = Record.of(config, lines)
    return [finding for check in CHECKS if (finding := check(record))]


def diagnose(run: Run) -> list[Finding]:
    """What is wrong with a run, the cause first."""
    return examine(run.config, run.metrics())
