"""The doctor's checks of the data. Each is one small function from the record to a `Finding`, or None.

What counts as too much is a constant here, with the value that is usual beside it. The faults that all checks were
tuned on, and those that they were not, are in tests/training/faults.py.
"""

from barreleye.training.record import Finding, Record

COPIED = 0.9  # of the targets; usually less than a tenth
NEXT = 0.99  # of the targets; all of them, unless batches are made wrongly
SAME = 0.5  # of the batches; usually none
REPEATED = 0.5  # of the data; usually less than a fifth
LEAKED = 0.3  # of the held-out side more than of the training side stood there before; usually none
UNUSED = 0.25  # of the learned tokens; usually less than a tenth
FOREIGN = 0.75  # of another run's learned tokens; usually half or less, where the data are of its kind


def targets_are_the_inputs(r: Record) -> Finding | None:
    copied = r.facts.get("copied") or 0.0
    if copied < COPIED:
        return None
    return Finding(
        "the targets are the inputs",
        f"{copied:.0%} of the targets equal the token they stand at",
        "shift the targets by one: the target at a position is the token after it",
    )


def targets_are_not_next(r: Record) -> Finding | None:
    following = r.facts.get("next")
    if following is None or following > NEXT:
        return None
    return Finding(
        "the targets are not the tokens that come next",
        f"{following:.0%} of the targets equal the token after the one they stand at; all should",
        "look at a batch, decoded: the targets are shuffled, shifted by another number, or belong to other rows",
    )


def same_batch(r: Record) -> Finding | None:
    same = r.facts.get("same_batch") or 0.0
    if same < SAME:
        return None
    return Finding(
        "the same batch is read again and again",
        f"{same:.0%} of the batches that should show all of the data once were read before",
        "let each step read another batch: the number of the step, or of an iterator, does not reach the batches",
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


def copies_left_out(r: Record) -> Finding | None:
    left_out = r.facts.get("left_out") or 0.0
    if left_out < REPEATED:
        return None
    return Finding(
        "most of the chats were copies",
        f"{left_out:.0%} of the chats say what another says word for word; they were left out before training",
        "nothing, if you know; else look where the copies come from: there is less to learn than there seems",
        is_note=True,
    )


def tokens_unused(r: Record) -> Finding | None:
    """A note, unless it is another run's tokenizer that hardly knows these data: rows to spare spoil nothing."""
    unused = r.facts.get("unused") or 0.0
    if unused < UNUSED:
        return None
    from_run = bool(r.config.data.from_run)
    return Finding(
        "rows of the embedding that are never read",
        f"{unused:.0%} of the learned tokens (single bytes and special ones aside) do not occur in the training side",
        "data like the earlier run's, or a run of its own" if from_run else "a smaller --vocab",
        is_note=not (from_run and unused > FOREIGN),
    )
