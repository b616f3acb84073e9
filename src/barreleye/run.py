"""The run folder: what a training leaves behind, and the only code that knows where each thing lies in it.

Everything is written whole or not at all (files.py), so a process killed at any moment leaves a folder that opens and
resumes. Tensors are safetensors, the rest is TOML or JSON; nothing is a pickle.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from barreleye.config import Config
from barreleye.data.chats import chat_line, read_chat_lines
from barreleye.data.corpus import Corpus, parse_mix
from barreleye.data.sheet import Persona
from barreleye.data.sheet_file import load_persona, sheet_path
from barreleye.data.spelling import Spelling, count_words
from barreleye.data.text import read_text
from barreleye.data.tokenizer import Tokenizer
from barreleye.files import (
    PARTIAL,
    check_manifest,
    is_locked,
    json_lines,
    lock_patiently,
    read_tensors,
    to_json,
    write_file,
    write_folder,
)

if TYPE_CHECKING:  # reading a run's figures does not wait for torch
    from torch import Tensor

    from barreleye.model.transformer import Transformer

RUNS = Path("runs")
STATES_KEPT = 2
UNSEEN = ("unseen_topics", "unseen_rows")  # the sets beside the held-out side, where there are any
OWN = {"config.toml", "model", "metrics.jsonl", "snapshots", "state", "data", "reports", "cache", "lock"}
# What may differ when a training goes on: how long, how often it looks, and where it computes. Else it were another.
MAY_CHANGE = {"steps", "eval_every", "sample_every", "save_every", "record_every", "snapshots"}
MAY_MOVE = {"device", "precision", "threads"}


class Run:
    """A training's folder, given by its path or by its name under `runs/`. Raises ValueError if there is none."""

    def __init__(self, path: str | Path) -> None:
        self.path = find(path)
        self.config = Config.from_toml(self.path / "config.toml")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, step {self.step} of {self.config.train.steps})"

    @property
    def name(self) -> str:
        return self.path.resolve().name  # which "." has none of

    # What it learned -----------------------------------------------------------------------------------------------

    @cached_property
    def tokenizer(self) -> Tokenizer:
        tokenizer, rows = Tokenizer.load(self.path / "model"), self.config.model.vocab_size
        if tokenizer.vocab_size != rows:
            raise ValueError(
                f"{self.path / 'model' / 'tokenizer.json'}: has {tokenizer.vocab_size} tokens, the model {rows} "
                "(vocab_size in config.toml); put the file back that the model was trained with"
            )
        return tokenizer

    def load_model(self, device: str = "cpu", step: int | None = None) -> "Transformer":
        """The model as last saved, or as it was at `step` (one of `steps()`), ready to talk. Raises ValueError for
        weights that are missing or damaged."""
        from barreleye.model.transformer import Transformer

        weights = self.load_weights(step)  # before a model is built that the weights do not fit
        model = Transformer(self.config.model)
        model.load_state_dict(weights)
        return model.to(device).eval()

    def load_weights(self, step: int | None = None) -> "dict[str, Tensor]":
        """The weights of `load_model` by their names in it, in float32."""
        from barreleye.model.huggingface import from_huggingface

        file = self.weights_file(step)
        if file.parent.name != "model":
            check_manifest(file.parent)
        theirs = read_tensors(file)
        try:
            return from_huggingface({name: tensor.float() for name, tensor in theirs.items()}, self.config.model)
        except ValueError as error:
            raise ValueError(f"{file}: {error}; put the config.toml back that it was trained with") from None

    def weights_file(self, step: int | None = None) -> Path:
        """Where they lie; of the step that was saved last, in full precision. Raises ValueError for a step that is none
        of `steps()`."""
        kept, file = self.snapshots(), self.path / "model" / "model.safetensors"
        # Without states, model/ is the newest there is; before the first save it is not there.
        saved = self.step if self.states() else max(kept, default=0)
        if step is None or (step == saved and (file.exists() or step not in kept)):
            return file
        if step not in kept:
            choice = ", ".join(map(str, self.steps()))
            raise ValueError(f"{self.path}: no snapshot of step {step}; choose one of those kept: {choice}")
        return self.path / "snapshots" / str(step) / "model.safetensors"

    def save_model(self, weights: "dict[str, Tensor]") -> None:
        """Put the weights into the Hugging Face model folder, in one rename."""
        write_file(self.path / "model" / "model.safetensors", _safetensors(weights, self.config, "float32"))

    def steps(self) -> list[int]:
        """The steps that there are weights of: those kept on the way, and the last one saved; the newest is last."""
        return sorted({*self.snapshots(), self.step})

    def snapshots(self) -> list[int]:
        """The steps whose weights were kept, the first one first."""
        return _numbered(self.path / "snapshots")

    def save_snapshot(self, step: int, weights: "dict[str, Tensor]") -> None:
        """Keep the weights of `step` in float16, under the names of the model folder."""
        data = _safetensors(weights, self.config, "float16")
        write_folder(self.path / "snapshots" / str(step), {"model.safetensors": data})

    def thin_snapshots(self, planned: Sequence[int]) -> None:
        """Keep, of the snapshots that there are, the nearest to each planned step: a training that became longer has
        room for fewer of its beginning."""
        there = self.snapshots()
        passed = [step for step in planned if step <= max(there, default=-1)]
        self._drop_snapshots(set(there) - {min(there, key=lambda step: abs(step - wanted)) for wanted in passed})

    def _drop_snapshots(self, steps: Iterable[int]) -> None:
        for step in steps:
            shutil.rmtree(self.path / "snapshots" / str(step), ignore_errors=True)

    # What it read --------------------------------------------------------------------------------------------------

    def corpus(self) -> Corpus:
        """Both sides of the split, as they were. Raises ValueError where they are damaged, or never were here."""
        if self.config.data.kind == "import":
            raise ValueError(f"{self.path} was imported, and what it learned from is not in it; this needs that")
        report, files = self.split_report(), self.documents()
        read = _read_side if self.config.data.kind == "text" else read_chat_lines
        sides: dict[str, Any] = {side: read(file) for side, file in files.items()}
        return Corpus(**sides, report=report, sheets=self.sheets())

    def documents(self) -> dict[str, Path]:
        """Side -> the file of its documents: chats as JSON lines, or text. Of those beside the split, the ones that are
        there."""
        ending = ".txt" if self.config.data.kind == "text" else ".jsonl"
        files = {side: self.path / "data" / f"{side}{ending}" for side in ("train", "held_out", *UNSEEN)}
        return {side: file for side, file in files.items() if side not in UNSEEN or file.exists()}

    def split_report(self) -> dict[str, Any]:
        """What was said when the documents were split. Raises ValueError where it is damaged or missing."""
        file = self.path / "data" / "report.json"
        try:
            report = json.loads(read_text(file))
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{file}: is not JSON ({error}); the split is not known without it") from None
        if not isinstance(report, dict):
            raise ValueError(f"{file}: is no report; the split is not known without it")
        return report

    def sheets(self) -> dict[str, str]:
        """Character -> its sheet, as it was then; none for text and chats."""
        return {file.stem: file.read_text(encoding="utf-8") for file in self._sheets()}

    def spelling(self) -> Spelling:
        """Mends slips in what a person types; a run without the words of its training mends nothing."""
        file = self.path / "data" / "words.json"
        try:
            counts = json.loads(read_text(file)) if file.exists() else {}
        except (json.JSONDecodeError, RecursionError):
            counts = None
        if not isinstance(counts, dict) or not all(type(times) is int for times in counts.values()):
            raise ValueError(f"{file}: is no list of words and how often each was said; remove it to mend no typos")
        return Spelling(counts)

    def personas(self) -> dict[str, Persona]:
        """The characters it learned from, by name, as their sheets were then; none for text and chats."""
        return {file.stem: load_persona(file) for file in self._sheets()}

    @property
    def characters(self) -> list[str]:
        """The names by which a system turn calls the characters of a mix; none where there is but one."""
        data = self.config.data
        return [sheet_path(source).stem for source in parse_mix(data.source)] if data.kind == "mix" else []

    def _sheets(self) -> list[Path]:
        return sorted((self.path / "data" / "personas").glob("*.yaml"))

    # What happened while it learned --------------------------------------------------------------------------------

    def metrics(self) -> list[dict[str, Any]]:
        """Every line of the record. One that was torn by a crash, or is of no step, is left out."""
        return [line for line in json_lines(self.path / "metrics.jsonl") if isinstance(line.get("step"), int)]

    def go_back_to(self, step: int) -> None:
        """Forget what was recorded and kept after the state that a resumed training starts from: it comes again, and
        not the same where the training goes on elsewhere."""
        kept = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= step]
        write_file(self.path / "metrics.jsonl", "".join(kept).encode())
        self._drop_snapshots(later for later in self.snapshots() if later > step)
        for half_written in self.path.glob(f"s*/.*{PARTIAL}"):  # of snapshots/ and state/
            shutil.rmtree(half_written, ignore_errors=True)

    @property
    def step(self) -> int:
        """The last step whose state was saved."""
        return max(self.states(), default=0)

    def states(self) -> list[int]:
        return _numbered(self.path / "state")

    def save_state(self, step: int, tensors: "dict[str, Tensor]") -> None:
        """Keep all that is needed to go on from `step`; the last two such states stay."""
        from safetensors.torch import save

        write_folder(
            self.path / "state" / str(step),
            {
                "state.safetensors": save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}),
                "config.toml": self.config.to_toml().encode(),
            },
        )
        # A later state than this one is a damaged one, which the training passed over when it was resumed.
        kept = [earlier for earlier in self.states() if earlier <= step][-STATES_KEPT:]
        for other in set(self.states()) - set(kept):
            shutil.rmtree(self.path / "state" / str(other), ignore_errors=True)

    def load_state(self) -> "tuple[int, dict[str, Tensor]]":
        """The newest state whose manifest holds. Raises ValueError if there is none."""
        damage = f"there is none, nothing was learned yet; `barreleye train ... --out {self.path}` begins anew"
        for step in reversed(self.states()):
            folder = self.path / "state" / str(step)
            try:
                check_manifest(folder)
                self._check_unchanged(folder)
                return step, read_tensors(folder / "state.safetensors")
            except ValueError as error:
                damage = str(error)
        raise ValueError(f"{self.path}: no saved state to resume from: {damage}")

    def _check_unchanged(self, state: Path) -> None:
        """Raises ValueError where the state was made with another configuration: it would go on as another training."""
        then, now = (dataclasses.asdict(config) for config in (Config.from_toml(state / "config.toml"), self.config))
        changed = [
            f"{state} was made with {knob} = {value!r}, config.toml says {now[section][knob]!r}; put it back"
            for section, knobs in then.items()
            for knob, value in knobs.items()
            if now[section][knob] != value and knob not in MAY_CHANGE | MAY_MOVE
        ]
        if changed:
            raise ValueError(changed[0])

    # Its folder ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held while a training writes here, and names its process. Raises ValueError when another process holds it."""
        with (self.path / "lock").open("a+b", buffering=0) as file:
            if not lock_patiently(file.fileno()):
                raise ValueError(f"{self.path}: another training is writing here; wait for it, or choose another --out")
            if sys.platform != "win32":  # where what is locked cannot be read
                file.truncate(0)
                file.write(f"{os.getpid()}\n".encode())
            yield

    @property
    def is_live(self) -> bool:
        """Whether a training is writing here now."""
        return is_locked(self.path / "lock")

    @property
    def last_writer(self) -> int | None:
        """The process that holds the lock, or was the last to hold it; None where it did not say."""
        try:
            said = (self.path / "lock").read_bytes().strip()
        except OSError:
            return None
        return int(said) if len(said) < 11 and said.isdigit() and 0 < int(said) < 2**31 else None


def latest_score(lines: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The last held-out score of a record: the end's is of all that is held out, those on the way of its beginning."""
    keys = ("held_out_whole", "held_out")
    return next((line[key] for line in reversed(lines) for key in keys if key in line), None)


def find(path: str | Path) -> Path:
    """The folder of a run, given by path or by name."""
    candidates = [Path(path)] if Path(path).is_absolute() else [Path(path), RUNS / path]
    for candidate in candidates:
        if (candidate / "config.toml").is_file():
            return candidate
    known = ", ".join(run.name for run in list_runs()) or "none yet; `barreleye train` grows one"
    raise ValueError(f"there is no run at {str(path)!r} (runs here: {known})")


def list_runs(folder: Path = RUNS) -> list[Run]:
    """The runs under `folder`, the newest first; one whose config cannot be read is left out."""
    runs = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if (path / "config.toml").is_file():
            with contextlib.suppress(ValueError):
                runs.append(Run(path))
    return sorted(runs, key=lambda run: (run.path / "config.toml").stat().st_mtime, reverse=True)


def check_free(path: Path, option: str = "--out") -> None:
    """Raises ValueError where a new run cannot be made, naming the option that says where. What one left that was
    killed before its first save is made anew: it had learned nothing."""
    learned = any("loss" in line for line in json_lines(path / "metrics.jsonl"))
    begun = learned or any((path / "state").glob("[0-9]*")) or is_locked(path / "lock")
    if begun and (path / "config.toml").exists():
        raise ValueError(f"{path} already holds a run; `--resume {path}` goes on with it, or choose another {option}")
    if _is_imported(path):
        raise ValueError(f"{path} already holds a model that was imported; remove it, or choose another {option}")
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; choose another {option}")
    there = {entry.name for entry in path.iterdir() if entry.suffix != PARTIAL} if path.is_dir() else set()
    if others := there - OWN:
        raise ValueError(f"{path} is not empty ({min(others)}), and holds no run; choose another {option}")


def _is_imported(path: Path) -> bool:
    """Such a run is complete, and has neither steps nor states."""
    try:
        return Config.from_toml(path / "config.toml").data.kind == "import"
    except (OSError, ValueError):
        return False


def create(
    path: Path, config: Config, tokenizer: Tokenizer, corpus: Corpus | None, weights: "dict[str, Tensor] | None" = None
) -> Run:
    """Make the folder of a new training, or, without a corpus, of a model from elsewhere. `config.toml` comes last: a
    folder that has one is complete, and its model folder one that loads, where `weights` are given."""
    check_free(path)
    (path / "model").mkdir(parents=True, exist_ok=True)
    if corpus is not None:
        _write_corpus(path, corpus)
    _write_model_folder(path / "model", config, tokenizer, weights)
    write_file(path / "config.toml", config.to_toml().encode())
    return Run(path)


def _write_corpus(path: Path, corpus: Corpus) -> None:
    (path / "data").mkdir(exist_ok=True)
    for side in ("train", "held_out", *UNSEEN):
        documents = getattr(corpus, side)
        if isinstance(documents, str):
            write_file(path / "data" / f"{side}.txt", documents.encode())
        elif documents or side not in UNSEEN:
            write_file(path / "data" / f"{side}.jsonl", "".join(chat_line(c) + "\n" for c in documents).encode())
    for name, sheet in corpus.sheets.items():
        (path / "data" / "personas").mkdir(exist_ok=True)
        write_file(path / "data" / "personas" / f"{name}.yaml", sheet.encode())
    if not isinstance(corpus.train, str):
        write_file(path / "data" / "words.json", to_json(count_words(corpus.train)))
    write_file(path / "data" / "report.json", to_json(corpus.report))


def _write_model_folder(
    folder: Path, config: Config, tokenizer: Tokenizer, weights: "dict[str, Tensor] | None"
) -> None:
    from barreleye.model.card import card_of
    from barreleye.model.huggingface import small_files

    for left in ("chat_template.jinja", "model.safetensors"):  # by one that was killed; not every model has them
        (folder / left).unlink(missing_ok=True)
    write_file(folder / "tokenizer.json", tokenizer.to_json().encode())
    for name, content in small_files(config.model, tokenizer).items():
        write_file(folder / name, content if isinstance(content, bytes) else to_json(content))
    write_file(folder / "README.md", card_of(folder.resolve().parent.name, config, tokenizer.chat is not None).encode())
    if weights is not None:
        write_file(folder / "model.safetensors", _safetensors(weights, config, "float32"))


def _safetensors(weights: "dict[str, Tensor]", config: Config, dtype: str) -> bytes:
    import torch
    from safetensors.torch import save

    from barreleye.model.huggingface import to_huggingface

    rounded = {name: tensor.detach().to("cpu", getattr(torch, dtype)) for name, tensor in weights.items()}
    return save(to_huggingface(rounded, config.model), {"format": "pt"})


def _numbered(folder: Path) -> list[int]:
    """The steps that a folder has a folder of, in order."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def _read_side(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return read_text(file)  # says what is wrong with it
