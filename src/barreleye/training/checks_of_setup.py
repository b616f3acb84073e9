"""The doctor's checks of the device, of how a model is wired, and of how it began. Each is one small function from the
record to a `Finding`, or None; what counts as too much is a constant, with the value that is usual beside it."""

from barreleye.training.record import Finding, Record, median

# The device --------------------------------------------------------------------------------------------------------

LOSS_APART = 0.02  # of the loss; usually less than 0.001
GRADIENT_APART = 0.2  # of a gradient's length; usually less than 0.03, in bfloat16


def device_disagrees(r: Record) -> Finding | None:
    check = r.device_check
    if not check or check["loss"][0] is None:  # what is not finite on the CPU either is no fault of the device
        return None
    (here, there), device = check["loss"], check.get("device", r.config.train.device)
    evidence = ""
    if there is None or abs(there - here) > LOSS_APART * here:
        evidence = f"the loss of one batch is {here} on the CPU and {there} on {device}"
    for weight, apart in check["apart"].items():
        if not evidence and (apart is None or apart > GRADIENT_APART):
            how_far = "not finite" if apart is None else f"{apart:.0%} of its length from the CPU's"
            evidence = f"of one batch, the gradient of {weight} on {device} is {how_far}"
    if not evidence:
        return None
    return Finding(
        "the device does not compute what the CPU does",
        evidence,
        "--precision float32; if that is no better, --device cpu, and another version of torch or of the driver",
    )


# The wiring --------------------------------------------------------------------------------------------------------

VISIBLE = 1e-4  # standard deviations of the logits; exactly 0 where a token is not seen
UNSEEN = 1e-6


def weights_stand_still(r: Record) -> Finding | None:
    """Not those that get no gradient: what cuts them off is found by the checks after this one."""
    without_gradient = {group for group, norms in r.of_groups("gradient_norm").items() if 0.0 in norms.values()}
    updates = {group: list(found.values()) for group, found in r.of_groups("update_ratio").items()}
    still = [group for group, u in updates.items() if u == [0.0] * max(2, len(u)) and group not in without_gradient]
    if not still:
        return None
    return Finding(
        "weights that do not move",
        f"no step has moved {', '.join(still[:4])}{' and others' if len(still) > 4 else ''} by anything, up to step "
        f"{r.steps[-1]}",
        "a rate above 0, requires_grad on all parameters, and an optimizer that was given all of them",
    )


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
    if len(reaches) < 2 or max(reaches) > UNSEEN:
        return None
    return Finding(
        "the tokens do not reach the logits",
        f"in {len(reaches)} probes, another last token moved no logit; the loss has come to {r.final:.2f}, and knowing "
        f"nothing of the tokens before leaves {_nats(r, 'unigram')}",
        "compare two texts, `barreleye look RUN TEXT`: the first tensor that is the same for both is where it is cut",
    )


def past_is_hidden(r: Record) -> Finding | None:
    reaches = _reaches(r, "past")
    if len(reaches) < 2 or max(reaches) > UNSEEN:
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
LARGE_PRE, SMALL_PRE = 2.5, 0.02  # standard deviation before the activation; usually 1
LARGE_STREAM, SMALL_STREAM = 10.0, 1e-4  # standard deviation of the residual stream; usually 0.03 to 1
SHARP_AT_FIRST = 0.3  # of the most entropy of attention; usually more than 0.8
USUAL_SIZES = "their defaults keep every layer at about the size of the one before"
COLLAPSED = "attention collapsed: each query looks at one key"
LESS_SHARP = "--qk-norm, a lower rate, or smaller weights of queries and keys"


def initialization_too_large(r: Record) -> Finding | None:
    evidence = [f"the first loss is {r.first:.2f} nats, and knowing nothing costs ln V = {r.uniform:.2f}"]
    if r.config.data.from_run or not r.first > r.uniform + ABOVE_UNIFORM:
        evidence = [
            f"before the first step, {at} has a standard deviation of {std:.3g}"
            for at, std in _stds_at_first(r).items()
            if std > (LARGE_PRE if at.endswith("hook_pre") else LARGE_STREAM)
        ]
    if not evidence:
        return None
    return Finding("initialization too large", evidence[0], f"smaller --init-std or --embed-std; {USUAL_SIZES}")


def initialization_too_small(r: Record) -> Finding | None:
    stds = _stds_at_first(r)
    pre = {at: std for at, std in stds.items() if at.endswith("hook_pre")}
    stream = {at: std for at, std in stds.items() if not at.endswith("hook_pre")}
    for found, least in ((pre, SMALL_PRE), (stream, SMALL_STREAM)):
        at = max(found, key=lambda at: found[at], default="")
        if at and found[at] < least:
            return Finding(
                "initialization too small",
                f"before the first step, no layer has more than {at}, a standard deviation of {found[at]:.2g}",
                f"larger --init-std or --embed-std; {USUAL_SIZES}",
            )
    return None


def attention_sharp_at_first(r: Record) -> Finding | None:
    for at, heads in {} if r.config.data.from_run else r.probes.get(0, {}).get("attention_entropy", {}).items():
        if (mean := median(heads)) < SHARP_AT_FIRST:
            evidence = f"before the first step, heads of {at} have {mean:.0%} of the entropy there can be"
            return Finding(COLLAPSED, evidence, LESS_SHARP)
    return None


def _stds_at_first(r: Record) -> dict[str, float]:
    """By place; none where a training began from another's weights, which are what they are."""
    activations = {} if r.config.data.from_run else r.probes.get(0, {}).get("activations", {})
    return {at: found["std"] for at, found in activations.items() if found["std"] is not None}
