"""The doctor's checks of what a training was given: its device, data, wiring and beginning. Each is one small function
from the record to a `Finding`, or None.

What counts as too much is a constant here, with the value that is usual beside it. The faults that they were tuned on,
and those that they were not, are in benchmarks/doctor.py.
"""

from barreleye.training.record import Finding, Record

# The data ----------------------------------------------------------------------------------------------------------

COPIED = 0.9  # of the targets; usually less than a tenth
RELATED = 0.98  # of the unigram entropy is left when the token before is known; usually less than 0.85
REPEATED = 0.5  # of the data; usually less than a fifth
LEAKED = 0.3  # of the held-out side more than of the training side stood there before; usually none
UNUSED = 0.25  # of the learned tokens; usually less than a tenth


def targets_are_the_inputs(r: Record) -> Finding | None:
    copied = r.facts.get("copied") or 0.0
    if copied < COPIED:
        return None
    return Finding(
        "the targets are the inputs",
        f"{copied:.0%} of the targets equal the token they stand at",
        "shift the targets by one: the target at a position is the token after it",
    )


def targets_tell_nothing(r: Record) -> Finding | None:
    unigram, bigram = r.facts.get("unigram"), r.facts.get("bigram")
    if not unigram or bigram is None or bigram < RELATED * unigram:
        return None
    return Finding(
        "the targets have nothing to do with the tokens before them",
        f"knowing the token before leaves {bigram:.2f} nats per target, knowing nothing {unigram:.2f}",
        "look at a batch, decoded: the targets are shuffled, or belong to other rows",
    )


def data_repeats(r: Record) -> Finding | None:
    repeated = r.facts.get("repeated") or 0.0
    if repeated < REPEATED:
        return None
    return Finding(
        "most of the data is there more than once",
        f"{repeated:.0%} of the training side stood there before",
        "remove the copies; `barreleye data report` shows them",
    )


def data_leaks(r: Record) -> Finding | None:
    leaked, repeated = r.facts.get("leaked") or 0.0, r.facts.get("repeated") or 0.0
    if leaked < repeated + LEAKED:
        return None
    return Finding(
        "the held-out side is in the training side",
        f"{leaked:.0%} of the held-out side stands in the training side too, so its loss says nothing",
        "remove copies before the split; `barreleye data report` shows them",
    )


def tokens_unused(r: Record) -> Finding | None:
    unused = r.facts.get("unused") or 0.0
    if unused < UNUSED:
        return None
    rows = f"{unused:.0%} of the learned tokens (single bytes and special ones aside)"
    return Finding(
        "rows of the embedding that are never read",
        f"{rows} do not occur in the training side",
        "learn the tokenizer on this data, or a smaller --vocab; with --from, on data like the earlier run's",
    )


# The device --------------------------------------------------------------------------------------------------------

LOSS_APART = 0.02  # of the loss; usually less than 0.001
GRADIENT_APART = 0.3  # of a gradient's length; usually less than 0.03, in bfloat16


def device_disagrees(r: Record) -> Finding | None:
    if not r.device_check:
        return None
    (here, there), device = r.device_check["loss"], r.config.train.device
    evidence = ""
    if there is None or abs(there - here) > LOSS_APART * here:
        evidence = f"before the first step the loss is {here} on the CPU and {there} on {device}"
    for group, apart in r.device_check["apart"].items():
        if not evidence and (apart is None or apart > GRADIENT_APART):
            how_far = "not finite" if apart is None else f"{apart:.0%} of its length from the CPU's"
            evidence = f"before the first step the gradient of {group} on {device} is {how_far}"
    if not evidence:
        return None
    return Finding(
        "the device does not compute what the CPU does",
        evidence,
        "--precision float32; if that is no better, --device cpu, and another version of torch or of the driver",
    )


# The wiring --------------------------------------------------------------------------------------------------------

VISIBLE = 1e-4  # standard deviations of the logits; exactly 0 where a token is not seen


def mask_leaks(r: Record) -> Finding | None:
    for step, probe in r.probes.items():
        if ((probe.get("reach") or {}).get("future") or 0.0) > VISIBLE:
            return Finding(
                "the mask leaks: the model sees the tokens that it should predict",
                f"at step {step}, other later tokens move earlier logits by {probe['reach']['future']:.2g} of their "
                "standard deviations",
                "check the causal mask: a query may see keys up to its own position and none behind",
            )
    return None


def input_is_cut_off(r: Record) -> Finding | None:
    reaches = _reaches(r, "own")
    if len(reaches) < 2 or max(reaches) > VISIBLE:
        return None
    return Finding(
        "the tokens do not reach the logits",
        f"in {len(reaches)} probes, another last token moved no logit; the loss has come to {r.final:.2f}, and knowing "
        f"nothing of the tokens before leaves {_nats(r, 'unigram')}",
        "follow a token from the embedding on: look at each tensor by its name, and see where it stops to depend on it",
    )


def past_is_hidden(r: Record) -> Finding | None:
    reaches = _reaches(r, "past")
    if len(reaches) < 2 or max(reaches) > VISIBLE:
        return None
    return Finding(
        "the past is hidden: each position sees its own token alone",
        f"in {len(reaches)} probes, other earlier tokens moved no logit; the loss has come to {r.final:.2f}, and the "
        f"last token alone leaves {_nats(r, 'bigram')}",
        "check the mask, and that the output of attention is added to the residual stream",
    )


def _nats(r: Record, level: str) -> str:
    value = r.facts.get(level)
    return f"{value:.2f}" if value is not None else "an unknown amount"


def _reaches(r: Record, what: str) -> list[float]:
    reaches = [probe["reach"][what] for _, probe in r.later_probes() if probe.get("reach")]
    return [reach for reach in reaches if reach is not None]


# The beginning -----------------------------------------------------------------------------------------------------

ABOVE_UNIFORM = 1.0  # nats of the first loss above ln V; usually 0.0
LARGE_PRE, SMALL_PRE = 5.0, 0.02  # standard deviation before the activation; usually 1
LARGE_STREAM, SMALL_STREAM = 10.0, 1e-4  # standard deviation of the residual stream; usually 0.03 to 1


def initialization_too_large(r: Record) -> Finding | None:
    if r.config.data.from_run:
        return None
    advice = "smaller --init-std or --embed-std; their defaults keep every layer at about the size of the one before"
    name = "initialization too large"
    if r.first > r.uniform + ABOVE_UNIFORM:
        evidence = f"the first loss is {r.first:.2f} nats, and knowing nothing costs ln V = {r.uniform:.2f}"
        return Finding(name, evidence, advice)
    for at, std in _stds_at_first(r).items():
        if std > (LARGE_PRE if at.endswith("hook_pre") else LARGE_STREAM):
            return Finding(name, f"before the first step, {at} has a standard deviation of {std:.3g}", advice)
    return None


def initialization_too_small(r: Record) -> Finding | None:
    if r.config.data.from_run:
        return None
    stds = _stds_at_first(r)
    pre = {at: std for at, std in stds.items() if at.endswith("hook_pre")}
    stream = {at: std for at, std in stds.items() if not at.endswith("hook_pre")}
    for found, least in ((pre, SMALL_PRE), (stream, SMALL_STREAM)):
        if found and max(found.values()) < least:
            at, std = max(found.items(), key=lambda item: item[1])
            return Finding(
                "initialization too small",
                f"before the first step, no layer has more than {at}, a standard deviation of {std:.2g}",
                "larger --init-std or --embed-std; their defaults keep every layer at about the size of the one before",
            )
    return None


def _stds_at_first(r: Record) -> dict[str, float]:
    activations = r.probes.get(0, {}).get("activations", {})
    return {at: found["std"] for at, found in activations.items() if found["std"] is not None}
