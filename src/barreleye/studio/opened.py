"""Models that were opened lately, so that the next question about one does not wait for the disk."""

import contextlib
import threading
from collections import OrderedDict
from pathlib import Path

from barreleye.data.tokenizer import FILE_NAME, Tokenizer
from barreleye.lens.subject import Subject, files_of
from barreleye.lens.timeline import with_weights
from barreleye.run import Run

MOST_BYTES = 2**30  # of weights: the default fish at every snapshot
MOST_TOKENIZERS = 8

Key = tuple[Path, int | None, tuple[int, ...]]
"""A run's folder, a step, and which files its weights and its configuration are: a step may be learned again."""


class Opened:
    """The models of several runs and steps, those used last. Threads may share it."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._subjects: OrderedDict[Key, Subject] = OrderedDict()
        self._tokenizers: OrderedDict[tuple[Path, int], Tokenizer] = OrderedDict()
        self._looking, self._opening = threading.Lock(), threading.RLock()
        self._ahead: dict[Path, list[int]] = {}  # the snapshots of each run that were opened ahead, or are being
        self.leaving = threading.Event()  # nothing more is opened ahead

    def subject(self, run: Run, step: int | None = None) -> Subject:
        """As last saved, or as it was at one of `run.steps()`. Raises ValueError where there is no such step, or it
        is damaged."""
        key = run.path, step, files_of(run, step)
        if (found := self._find(key)) is not None:
            return found
        with self._opening:
            return self._find(key) or self._keep(key, self._open(run, step))

    def tokenizer(self, run: Run) -> Tokenizer:
        """The run's, also before it has weights."""
        file = run.weights_file().with_name(FILE_NAME)
        key = file, file.stat().st_mtime_ns if file.exists() else 0
        with self._opening:
            if key not in self._tokenizers:
                self._tokenizers[key] = run.tokenizer
                if len(self._tokenizers) > MOST_TOKENIZERS:
                    self._tokenizers.popitem(last=False)
            self._tokenizers.move_to_end(key)
            return self._tokenizers[key]

    def ahead(self, run: Run) -> None:
        """Open the run's other snapshots, as many as there is room for, while the page shows one: the slider of time
        will come by them. Once, until there are others."""
        steps = run.snapshots()
        with self._looking:
            if self._ahead.get(run.path) == steps:
                return
            self._ahead[run.path] = steps
        # Not a daemon: one that ends with the interpreter while torch computes aborts the process.
        threading.Thread(target=self._open_snapshots, args=[run, steps]).start()

    def _open_snapshots(self, run: Run, steps: list[int]) -> None:
        for step in steps:
            size = max((size_of(subject) for subject in self._of(run)), default=0)
            if self.leaving.is_set() or self.bytes + size > self.most_bytes:
                return
            with contextlib.suppress(ValueError):  # the page will ask for it, and be told
                self.subject(run, step)

    @property
    def bytes(self) -> int:
        with self._looking:
            return sum(map(size_of, self._subjects.values()))

    def _find(self, key: Key) -> Subject | None:
        with self._looking:
            if key in self._subjects:
                self._subjects.move_to_end(key)
            return self._subjects.get(key)

    def _of(self, run: Run) -> list[Subject]:
        with self._looking:
            return [subject for (path, *_), subject in self._subjects.items() if path == run.path]

    def _open(self, run: Run, step: int | None) -> Subject:
        tokenizer = self.tokenizer(run)  # first: it is the faster one to find wrong
        kin = next((each.model for each in self._of(run) if each.model.config == run.config.model), None)
        model = run.load_model(step=step) if kin is None else with_weights(kin, run.load_weights(step))
        return Subject(model, tokenizer, next(iter(run.characters), ""))

    def _keep(self, key: Key, subject: Subject) -> Subject:
        with self._looking:
            for other in [other for other in self._subjects if other[:2] == key[:2]]:
                del self._subjects[other]
            self._subjects[key] = subject
            while len(self._subjects) > 1 and sum(map(size_of, self._subjects.values())) > self.most_bytes:
                self._subjects.popitem(last=False)
        return subject


def size_of(subject: Subject) -> int:
    """Bytes of its weights."""
    return sum(weight.numel() * weight.element_size() for weight in subject.model.parameters())


OPENED = Opened()
