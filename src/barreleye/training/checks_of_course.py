"""The doctor's checks of the course of a training: its steps, what became of the inside, and what it came to. Each is
one small function from the record to a `Finding`, or None.

What counts as too much is a constant here, with the value that is usual beside it.
"""

import math

from barreleye.training.record import ENOUGH, Finding, Record, median

# The steps ---------------------------------------------------------------------------------------------------------

ROSE = 0.5  # nats above the first loss
FELL_BACK = 0.3  # of what had been learned was lost again
EARLY = 0.1  # of the training
FEW_WARMUP = 0.01  # of the training
LARGE_UPDATE = 0.05  # of the weights of the blocks, at the highest rate; usually 0.005 to 0.02
MOVED = 0.5  # of their length that weights go in all; usually several times it


def warmup_missing(r: Record) -> Finding | None:
    """A loss that rose at the very beginning and then fell: later the same rate was well borne."""
    config = r.config.train
    if len(r.losses) < ENOUGH or r.not_finite or config.warmup_steps > FEW_WARMUP * config.steps:
        return None
    start = max(r.first, r.uniform)
    early = r.losses[: max(5, int(EARLY * config.steps))]
    peak, after = max(early), r.losses[len(early) :]
    if peak < start + ROSE or not after or r.final > start - ROSE or max(_threes(after)) > start:
        return None
    step = r.steps[early.index(peak)]
    return Finding(
        "warm-up is missing",
        f"the loss rose from {start:.2f} to {peak:.2f} at step {step}, and fell to {r.final:.2f} at rates that are no "
        f"lower for long; warm-up is {config.warmup_steps} steps",
        f"--warmup-steps {max(10, config.steps // 20)}, or a lower peak rate",
    )


def learning_rate_too_high(r: Record) -> Finding | None:
    if len(r.losses) < ENOUGH and not r.not_finite:
        return None
    start, smooth = max(r.first, r.uniform), r.smooth if len(r.losses) >= ENOUGH else r.losses
    if not smooth:
        return None
    best = min(smooth)
    at = smooth.index(best)
    worst = max(smooth[at:])
    evidence = ""
    if max(smooth) > start + ROSE:
        evidence = f"the loss rose to {max(smooth):.2f}, above the {start:.2f} of the beginning"
    elif worst > best + max(0.2, FELL_BACK * (start - best)):
        evidence = f"the loss had come to {best:.2f} near step {r.steps[at * r.window]}, and rose to {worst:.2f} again"
    elif r.progress > 0.3 and r.final > _reachable(r) and (update := _largest_update(r)) > LARGE_UPDATE:
        evidence = (
            f"the loss stays at {r.final:.2f}, and a step moved the weights of the blocks by {update:.0%} of their "
            "length; usual is 0.5% to 2%"
        )
    if not evidence:
        return None
    config = r.config.train
    rates = f"--learning-rate {config.learning_rate / 10:.2g}"
    rates += f" --muon-rate {config.muon_rate / 10:.2g}" if config.optimizer == "muon" else ""
    return Finding("learning rate too high", evidence, f"a tenth of it: {rates}")


def learning_rate_too_low(r: Record) -> Finding | None:
    if r.progress < 0.3 or len(r.losses) < ENOUGH or r.final < _reachable(r):
        return None
    paths = [_path(r, group) for group in _groups(r)]
    if not paths or max(paths) > MOVED:
        return None
    config = r.config.train
    rates = f"--learning-rate {config.learning_rate * 10:.2g}"
    rates += f" --muon-rate {config.muon_rate * 10:.2g}" if config.optimizer == "muon" else ""
    return Finding(
        "learning rate too low",
        f"in {r.steps[-1]} steps no weights went farther than {max(paths):.0%} of their length, and the loss has come "
        f"from {r.first:.2f} to {r.final:.2f}",
        f"ten times as much: {rates}",
    )


def not_finite(r: Record) -> Finding | None:
    if not r.not_finite:
        return None
    return Finding(
        "values that are not finite",
        r.not_finite,
        "look at the named part first; if nothing is wrong with it: a lower rate, --precision float32, more warm-up",
    )


def _groups(r: Record) -> list[str]:
    return sorted({group for probe in r.probes.values() for group in probe.get("update_ratio", {})} - {"ln_final"})


def _largest_update(r: Record) -> float:
    """Of the blocks, behind the first steps: most weights are theirs."""
    updates = [probe.get("update_ratio", {}) for _, probe in r.later_probes(0.05)]
    return max((median(u for group, u in found.items() if group.startswith("blocks.")) for found in updates), default=0)


def _path(r: Record, group: str) -> float:
    """How far a group of weights went in all, in lengths of its own."""
    length, before = 0.0, 0
    for step, probe in r.probes.items():
        length += (step - before) * (probe.get("update_ratio", {}).get(group) or 0.0)
        before = step
    return length


def _reachable(r: Record) -> float:
    """What any model comes to that learns at all."""
    return float(r.facts.get("bigram") or 0.7 * r.uniform)


def _threes(values: list[float]) -> list[float]:
    return [sum(values[i : i + 3]) / len(values[i : i + 3]) for i in range(max(1, len(values) - 2))]


# The inside --------------------------------------------------------------------------------------------------------

APART = 100.0  # times, between the gradients of two layers; usually less than 10
DEAD_SHARE = 0.5  # of a layer's units; usually less than a fifth
SHARP_AT_FIRST = 0.3  # of the most entropy, before anything is learned; usually more than 0.8
SHARP = 0.02  # of all heads of a layer, later


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
    at_first = r.probes.get(0, {}).get("attention_entropy", {})
    for at, heads in at_first.items():
        if not r.config.data.from_run and (mean := median(heads)) < SHARP_AT_FIRST:
            return _collapse(f"before the first step, heads of {at} have {mean:.0%} of the entropy there can be")
    later = r.later_probes()
    for at in later[-1][1].get("attention_entropy", {}) if later else ():
        sharp = [
            max((1.0 if h is None else h for h in probe["attention_entropy"].get(at, ())), default=1.0)
            for _, probe in later
        ]
        if median(sharp) < SHARP:
            return _collapse(f"every head of {at} has less than {SHARP:.0%} of the entropy there can be")
    return None


def _collapse(evidence: str) -> Finding:
    return Finding(
        "attention collapsed: each query looks at one key",
        evidence,
        "--qk-norm, a lower rate, or smaller weights of queries and keys",
    )


# What it came to ---------------------------------------------------------------------------------------------------

NEAR = 0.1  # of the way from the unigram to the bigram
FLAT = 0.02  # of that way is what the second half gained
WORSE = 0.05  # of the lowest held-out loss
NOISY = 20.0  # times the tokens of a step; usually less than 5


def stuck_at_unigram(r: Record) -> Finding | None:
    return _stuck(r, "unigram", "the loss is stuck at unigram entropy: nothing before a token is used")


def stuck_at_bigram(r: Record) -> Finding | None:
    return _stuck(r, "bigram", "the loss is stuck at bigram entropy: only the last token is used")


def _stuck(r: Record, level: str, name: str) -> Finding | None:
    unigram, bigram, smooth = r.facts.get("unigram"), r.facts.get("bigram"), r.smooth
    if r.progress < 0.5 or len(r.losses) < ENOUGH or unigram is None or bigram is None:
        return None
    way, gained = unigram - bigram, smooth[len(smooth) // 2] - r.final
    if abs(r.final - r.facts[level]) > NEAR * way or abs(gained) > FLAT * way:
        return None
    return Finding(
        name,
        f"the loss has been at {r.final:.2f} since the middle of the training, {level} entropy is {r.facts[level]:.2f}",
        "check that targets belong to their tokens, that the mask shows the past, and that attention is added",
    )


def overfitting(r: Record) -> Finding | None:
    if len(r.held_out) < 3 or not r.losses:
        return None
    best = min(r.held_out, key=lambda step: r.held_out[step])
    last = max(r.held_out)
    if r.held_out[last] < r.held_out[best] * (1 + WORSE) or sum(step > best for step in r.held_out) < 2:
        return None
    then = [loss for step, loss in zip(r.steps, r.losses, strict=True) if step <= max(best, r.window)][-r.window :]
    if r.final > sum(then) / len(then):
        return None
    return Finding(
        "overfitting",
        f"since step {best} the held-out loss rose from {r.held_out[best]:.3f} to {r.held_out[last]:.3f}, while that "
        f"of training fell to {r.final:.3f}",
        f"more data, --dropout 0.1, a smaller model, or --steps {max(1, best)}",
    )


def batch_too_small(r: Record) -> Finding | None:
    """A note and no fault: the simple noise scale tr(S) / |G|^2 in tokens (McCandlish et al. 2018, section 2.2)."""
    noises = [probe["noise"] for _, probe in r.later_probes() if probe.get("noise")]
    tokens = r.config.train.batch_tokens * r.config.train.accumulate
    trace, square = (
        sum(noise[part] or 0.0 for noise in noises) / max(1, len(noises)) for part in ("trace", "squared_norm")
    )
    if len(noises) < 3 or square <= 0 or trace < NOISY * tokens * square:
        return None  # an estimate that is not positive says nothing
    return Finding(
        "batch small for the noise",
        f"in batches of {trace / square:,.0f} tokens noise would be as large as the gradient; a step has {tokens:,}",
        "a larger --batch-tokens, or --accumulate",
        is_note=True,
    )
