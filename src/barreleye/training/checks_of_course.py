"""The doctor's checks of the course of a training: how it was moved, and what it came to. Each is one small function
from the record to a `Finding`, or None; what counts as too much is a constant, with the usual value beside it."""

from barreleye.training.record import ENOUGH, NEAR, Finding, Record

# The steps ---------------------------------------------------------------------------------------------------------

ROSE = 0.5  # nats above the first loss
FELL_BACK = 0.3  # of what had been learned was lost again
EARLY = 0.1  # of the training
FEW_WARMUP = 0.01  # of the training
USUAL_UPDATE = 0.005, 0.02  # of the weights of the blocks, at the highest rate; also in docs/run-folder.md
LARGE_UPDATE = 0.03
MOVED = 0.5  # of their length that the weights of the blocks go in a whole training; usually once or several times it
DECAYED = 0.01  # of the weights that a step takes off; usually 0.00003 to 0.0015
STRONG_DECAY = 1.0  # below it, what takes so much off is the rate; usually 0.01 to 0.1


def decay_too_high(r: Record) -> Finding | None:
    config = r.config.train
    rate = max(config.learning_rate, config.muon_rate if config.optimizer == "muon" else 0.0)
    decayed = rate * config.weight_decay
    if decayed < DECAYED or config.weight_decay < STRONG_DECAY or len(r.losses) < ENOUGH:
        return None
    if r.progress < 0.3 or not r.falls_short:
        return None
    return Finding(
        "weight decay too high",
        f"at the peak rate a step takes {decayed:.1%} off the weights (rate times decay; usual: 0.003% to 0.15%), and "
        f"the loss stays at {r.final:.2f}",
        "--weight-decay 0.01",
    )


def warmup_missing(r: Record) -> Finding | None:
    """A loss that rose at the very beginning and then fell: later the same rate was well borne."""
    config = r.config.train
    if len(r.losses) < ENOUGH or r.not_finite or config.warmup_steps > FEW_WARMUP * config.steps:
        return None
    early = r.losses[: max(5, int(EARLY * config.steps))]
    peak, after = max(early), r.smooth[-(-len(early) // r.window) :]
    if peak < r.start + ROSE or not after or r.final > r.start - ROSE or max(after) > r.start:
        return None
    step = r.steps[early.index(peak)]
    return Finding(
        "warm-up is missing",
        f"the loss rose from {r.start:.2f} to {peak:.2f} at step {step}, and fell to {r.final:.2f} at rates that are "
        f"no lower for long; warm-up is {config.warmup_steps} steps",
        f"--warmup-steps {max(10, config.steps // 20)}, or a lower peak rate",
    )


def learning_rate_too_high(r: Record) -> Finding | None:
    if len(r.losses) < ENOUGH and not (r.not_finite and r.losses):
        return None
    smooth = r.smooth if len(r.losses) >= ENOUGH else r.losses
    best = min(smooth)
    at = smooth.index(best)
    worst = max(smooth[at:])
    evidence = ""
    if max(smooth) > r.start + ROSE:
        evidence = f"the loss rose to {max(smooth):.2f}, above the {r.start:.2f} of the beginning"
    elif worst > best + max(0.2, FELL_BACK * (r.start - best)):
        evidence = f"the loss had come to {best:.2f} near step {r.steps[at * r.window]}, and rose to {worst:.2f} again"
    elif r.progress > 0.3 and r.falls_short and (update := _largest_update(r)) > LARGE_UPDATE:
        evidence = (
            f"the loss stays at {r.final:.2f}, and steps moved the weights of the blocks by up to {update:.0%} of "
            f"their length; usual is {USUAL_UPDATE[0]:.1%} to {USUAL_UPDATE[1]:.0%}"
        )
    return Finding("learning rate too high", evidence, f"a tenth of it: {_rates(r, 0.1)}") if evidence else None


def learning_rate_too_low(r: Record) -> Finding | None:
    """Small steps that lead not far. Not where one goes on from a run: its weights have little way to go."""
    if r.config.data.from_run or r.progress < 0.3 or len(r.losses) < ENOUGH or not r.falls_short:
        return None
    paths = [_path(updates) for updates in _updates_of_blocks(r)]
    if not paths or max(paths) > MOVED * r.progress or _largest_update(r) > USUAL_UPDATE[0]:
        return None
    return Finding(
        "learning rate too low",
        f"in {r.steps[-1]} steps no weights of the blocks went farther than {max(paths):.0%} of their length, and the "
        f"loss has come from {r.first:.2f} to {r.final:.2f}",
        f"ten times as much: {_rates(r, 10)}",
    )


def _rates(r: Record, factor: float) -> str:
    config = r.config.train
    rates = f"--learning-rate {config.learning_rate * factor:.2g}"
    return rates + (f" --muon-rate {config.muon_rate * factor:.2g}" if config.optimizer == "muon" else "")


def _updates_of_blocks(r: Record) -> list[dict[int, float | None]]:
    """Of each group of weights in the blocks, which have most weights, by step."""
    return [updates for group, updates in r.of_groups("update_ratio").items() if group.startswith("blocks.")]


def _largest_update(r: Record) -> float:
    """Of any step that was looked at, of the group that it moved most."""
    return max((update or 0.0 for updates in _updates_of_blocks(r) for update in updates.values()), default=0.0)


def _path(updates: dict[int, float | None]) -> float:
    """How far weights went in all, in lengths of their own."""
    length, before = 0.0, 0
    for step, update in updates.items():
        length += (step - before) * (update or 0.0)
        before = step
    return length


# What it came to ---------------------------------------------------------------------------------------------------

FLAT = 0.02  # of the way from the unigram to the bigram is what the second half gained
TELLS = 0.02  # of an entropy is less where one more token is known: it tells something
WORSE = 0.05  # of the lowest held-out loss
ENDING = 0.8  # of the training is done


def stuck_at_bigram(r: Record) -> Finding | None:
    unigram, bigram, trigram = (r.facts.get(level) for level in ("unigram", "bigram", "trigram"))
    if r.progress < 0.5 or len(r.losses) < ENOUGH or unigram is None or bigram is None or trigram is None:
        return None
    way, gained = unigram - bigram, r.smooth[len(r.smooth) // 2] - r.final
    # Where two tokens tell no more than one, the bigram's loss is as low as can be.
    if trigram > (1 - TELLS) * bigram or abs(r.final - bigram) > NEAR * way or abs(gained) > FLAT * way:
        return None
    return Finding(
        "the loss is stuck at bigram entropy: only the last token is used",
        f"the loss has been at {r.final:.2f} since the middle of the training; bigram entropy is {bigram:.2f}, and two "
        f"tokens leave {trigram:.2f}",
        "check that the mask shows the past, and that attention's output is added to the residual stream",
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


def no_more_than_unigram(r: Record) -> Finding | None:
    """Whatever the cause, where no other check has named it."""
    unigram, bigram = r.facts.get("unigram"), r.facts.get("bigram")
    if r.progress < ENDING or len(r.losses) < ENOUGH or unigram is None or bigram is None:
        return None
    if bigram > (1 - TELLS) * unigram or r.final < unigram - NEAR * (unigram - bigram):
        return None
    return Finding(
        "it learned no more than how often each token comes",
        f"the loss has come to {r.final:.2f}; unigram entropy is {unigram:.2f}, and the last token alone leaves "
        f"{bigram:.2f}",
        "more --steps, less --warmup-steps, less --dropout; in a loop of your own, clear the gradients at each step",
    )
