"""The doctor's checks of what becomes of the inside. Each is one small function from the record to a `Finding`, or
None; what counts as too much is a constant, with the value that is usual beside it."""

import math

from barreleye.training.checks_of_setup import COLLAPSED, LESS_SHARP, SHARP_AT_FIRST
from barreleye.training.record import Finding, Record, median

APART = 100.0  # times, between the gradients of two layers; usually less than 10
DEAD_SHARE = 0.5  # of a layer's units; usually less than a fifth
SHARP = 0.02  # of the most entropy, in all heads of a layer; a sharp head alone is a skill
NOISY = 20.0  # times the tokens of a step; usually less than 5


def not_finite(r: Record) -> Finding | None:
    if not r.not_finite:
        return None
    return Finding(
        "values that are not finite",
        r.not_finite,
        "a lower rate, more warm-up, --precision float32; if it stays, the part that is named divides by 0, or takes "
        "its root or logarithm",
    )


def gradients_explode(r: Record) -> Finding | None:
    return _gradients(r, "gradients explode on their way down", lowest_first=False)


def gradients_vanish(r: Record) -> Finding | None:
    return _gradients(r, "gradients vanish on their way down", lowest_first=True)


def _gradients(r: Record, name: str, lowest_first: bool) -> Finding | None:
    probes = [probe.get("gradient_norm", {}) for _, probe in r.later_probes()]
    norms = [
        median(math.hypot(*(p.get(f"blocks.{i}.{part}") or 0.0 for part in ("attn", "mlp"))) for p in probes)
        for i in r.layers
    ]
    low, high = (norms[0], norms[-1]) if lowest_first else (norms[-1], norms[0])
    if not probes or not low * APART < high:
        return None
    return Finding(
        name,
        "gradient norm by layer, the first one first: " + ", ".join(f"{norm:.2g}" for norm in norms),
        "check what each block does to the residual stream and to its gradient: it should add to it, and scale neither",
    )


def dead_units(r: Record) -> Finding | None:
    later = r.later_probes()
    for at in later[-1][1].get("dead", {}) if later else ():
        share = median(probe["dead"].get(at) for _, probe in later)
        if share > DEAD_SHARE:
            first = next(step for step, p in r.probes.items() if (p["dead"].get(at) or 0.0) > DEAD_SHARE)
            return Finding(
                "dead units",
                f"{share:.0%} of the units of {at} ({r.config.model.activation}) are silent on all tokens of the "
                f"probe, since step {first}",
                "--activation gelu, a lower rate, or biases that start at zero",
            )
    return None


def attention_collapsed(r: Record) -> Finding | None:
    """Heads that were broad, in a model that has not learned what they are sharp for."""
    if len(r.losses) < 2 or not r.falls_short:
        return None
    for at, heads in r.of_groups("attention_entropy").items():
        broadest = {step: max((1.0 if h is None else h for h in of), default=1.0) for step, of in heads.items()}
        later = [broadest[step] for step, _ in r.later_probes() if step in broadest]
        if max(broadest.values()) > SHARP_AT_FIRST and later and median(later) < SHARP:
            since = next(step for step, most in broadest.items() if most < SHARP)
            evidence = f"every head of {at} has less than {SHARP:.0%} of the entropy there can be, since step {since}"
            return Finding(COLLAPSED, f"{evidence}, and the loss is {r.final:.2f} still", LESS_SHARP)
    return None


def batch_too_small(r: Record) -> Finding | None:
    """A note and no fault: the simple noise scale tr(S) / |G|^2 in tokens (McCandlish et al. 2018, section 2.2)."""
    noises = [probe["noise"] for _, probe in r.later_probes() if probe.get("noise")]
    tokens = (r.facts.get("learned") or r.config.train.batch_tokens) * r.config.train.accumulate
    trace, square = (
        sum(noise[part] or 0.0 for noise in noises) / max(1, len(noises)) for part in ("trace", "squared_norm")
    )
    if len(noises) < 3 or square <= 0 or trace < NOISY * tokens * square:
        return None  # an estimate that is not positive says nothing
    return Finding(
        "batch small for the noise",
        f"in batches of {trace / square:,.0f} tokens noise would be as large as the gradient; a step has {tokens:,.0f}",
        "a larger --batch-tokens, or --accumulate",
        is_note=True,
    )
