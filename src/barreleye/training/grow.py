"""From a character sheet, a text or chats to a run that talks: prepare the data, open the run, record, and train."""

import contextlib
import dataclasses
import math
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from barreleye import config as knobs
from barreleye import run as runs
from barreleye.config import Config, DataConfig, did_you_mean
from barreleye.data.chats import left_out_line
from barreleye.data.corpus import parse_mix, prepare
from barreleye.model.count import count
from barreleye.model.huggingface import obstacles
from barreleye.model.parts import check_parts
from barreleye.model.transformer import Transformer
from barreleye.run import Run
from barreleye.training.card import write_model_card
from barreleye.training.device import memory_of, peak_flops, resolve
from barreleye.training.display import Display
from barreleye.training.loop import Learner, NonFinite, train
from barreleye.training.material import Material, encode, learn_tokenizer, size_of
from barreleye.training.probe import Probe
from barreleye.training.recorder import Line, Recorder
from barreleye.training.track import check_tracker, mirror

Say = Callable[[str], None]


def grow(
    persona: str | None = None,
    *,
    mix: str | None = None,
    text: str | Path | None = None,
    chats: str | Path | Sequence[str | Path] | None = None,
    preset: str | None = None,
    out: str | Path | None = None,
    from_run: str | Path | Run | None = None,
    quiet: bool = False,
    track: str | None = None,
    **options: Any,
) -> Run:
    """Grow a model and return its run.

    Learns from one of: `persona` (a character's name or sheet), `mix` (several, as "fish:0.5,cat:0.5"), `text` (a
    file, or "shakespeare"), `chats` (files, or the name of a data set). `options` are fields of ModelConfig,
    TrainConfig and DataConfig, on top of `preset` (unless named: `tiny` for text, `fish` for the rest). `from_run`
    starts from that run's weights and tokenizer instead of fresh ones. `track` mirrors the record: tensorboard, wandb
    or trackio. Raises ValueError for what cannot be used.
    """
    check_tracker(track)
    source = Run(from_run) if isinstance(from_run, str | Path) else from_run
    config = plan(dict(persona=persona, mix=mix, text=text, chats=chats), preset, source, options)
    path = free_name(config.data) if out is None else Path(out)
    runs.check_free(path)
    say: Say = (lambda line: None) if quiet else print
    say(f"reading {config.data.kind} {', '.join(config.data.sources)}")
    corpus = prepare(config.data, config.train.seed)
    if left_out := left_out_line(corpus.report):
        say(left_out)
    tokenizer = source.tokenizer if source else learn_tokenizer(config.data, corpus)
    if unlike := obstacles(config.model):
        say(f"{', '.join(unlike)}: no model of Hugging Face's computes this; it trains, and exports as onnx or plain")
    say(f"{size_of(corpus)}; {tokenizer.kind} tokenizer of {tokenizer.vocab_size}")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    try:
        data = encode(corpus, tokenizer, config, path / "cache")
    except ValueError as error:
        raise ValueError(f"{', '.join(config.data.sources)}: {error}") from None
    torch.manual_seed(config.train.seed)
    with memory_errors():
        model = Transformer(config.model)
        if source:
            model.load_state_dict(source.load_model().state_dict())
        # After all that can be wrong with what was given.
        run = runs.create(path, config, tokenizer, corpus, model.state_dict())
        return _learn(run, data, model, None, quiet, track)


def resume(run: str | Path | Run, *, quiet: bool = False, track: str | None = None, **options: Any) -> Run:
    """Go on with a run from its last saved state, bit for bit as if it had never stopped.

    `options` may change `steps` (the rate then follows the schedule of the longer run), how often is looked and saved,
    and where it computes (which changes last digits); other knobs would make it another run.
    """
    check_tracker(track)
    run = Run(run) if isinstance(run, str | Path) else run
    if run.config.data.kind == "import":
        raise ValueError(f"{run.path} was imported, and has no training to go on with; `--from {run.path}` begins one")
    step, kept = run.load_state()
    allowed = runs.MAY_CHANGE | runs.MAY_MOVE
    for name in options:
        if name not in allowed:
            raise ValueError(
                f"--resume cannot change {name} (only {', '.join(sorted(allowed))}); use --from for a new run"
            )
    train_config = resolve(dataclasses.replace(run.config.train, **options))
    if step >= train_config.steps:
        raise ValueError(f"{run.path} has learned {step} steps already; `--steps {2 * max(1, step)}` goes on")
    if train_config != run.config.train:
        run.config = dataclasses.replace(run.config, train=train_config)
        with run.lock():
            runs.write_file(run.path / "config.toml", run.config.to_toml().encode())
    corpus = run.corpus()
    corpus.check()
    data = encode(corpus, run.tokenizer, run.config, run.path / "cache")
    with memory_errors():
        return _learn(run, data, Transformer(run.config.model), kept, quiet, track)


def plan(
    sources: Mapping[str, str | Path | Sequence[str | Path] | None],
    preset: str | None,
    source: Run | None,
    options: dict[str, Any],
) -> Config:
    """The configuration of a training on this machine. Raises ValueError for one that cannot be, before anything is
    read or written."""
    config = configure(sources, preset, source, options)
    config = dataclasses.replace(config, train=resolve(config.train))
    check_memory(config)
    return config


def configure(
    sources: Mapping[str, str | Path | Sequence[str | Path] | None],
    preset: str | None,
    source: Run | None,
    options: dict[str, Any],
) -> Config:
    """What to learn from, by kind; preset (or the earlier run's shape), then options.

    Raises ValueError for a knob or value that does not exist."""
    named = [
        (kind, str(given) if isinstance(given, str | Path) else "\n".join(map(str, given)))
        for kind, given in sources.items()
        if given is not None
    ]
    if len(named) > 1:
        raise ValueError(f"learn from one thing at a time, not {' and '.join(kind for kind, _ in named)}")
    base = knobs.preset(preset if preset is not None else "fish" if sources["text"] is None else "tiny")
    if source and preset is not None:
        raise ValueError("--from keeps the earlier run's shape; leave out --preset")
    config = Config(DataConfig(), base.model, base.train)
    if source:
        here = dataclasses.replace(source.config.train, device="auto", precision="auto", threads=0)
        config = Config(DataConfig(from_run=str(source.path)), source.config.model, here)
    kind, name = named[0] if named else ("persona", "fish")
    if name != name.encode("utf-8", "replace").decode():
        raise ValueError(f"the name {name!r} is not UTF-8 and cannot be written down; rename the file")
    chosen = {key: value for key, value in options.items() if value is not None} | {"kind": kind, "source": name}
    sections = {}
    for section, kind_of in knobs.SECTIONS.items():
        fields = {field.name for field in dataclasses.fields(kind_of)}
        given = {key: chosen.pop(key) for key in list(chosen) if key in fields}
        kept = [key for key in given if section == "model" or key in ("tokenizer", "vocab")]
        if source and kept:
            raise ValueError(f"--from keeps the earlier run's shape and tokenizer; leave out {', '.join(kept)}")
        sections[section] = dataclasses.replace(getattr(config, section), **given)
    if chosen:
        known = [field.name for kind_of in knobs.SECTIONS.values() for field in dataclasses.fields(kind_of)]
        raise ValueError(f"there is no knob {min(chosen)!r}{did_you_mean(min(chosen), known)}")
    check_parts(sections["model"])
    if source and (source.tokenizer.chat is None) != (kind == "text"):
        raise ValueError("--from needs data of the run's own kind: chats for a chat model, text for a text model")
    return Config(**sections)


def check_memory(config: Config) -> None:
    """Raises ValueError where what must be kept in memory to learn is more than the machine has, before any is taken.

    A lower bound: the embedding is not known yet, and activations come on top.
    """
    model = dataclasses.replace(config.model, vocab_size=max(1, config.model.vocab_size))
    counted = count(model, config.train.batch_tokens, config.train.optimizer)
    needed, there = counted.training_bytes, memory_of(config.train.device)
    if there and needed > there:
        raise ValueError(
            f"a model of {counted.parameters:,} parameters needs more memory than this machine has: "
            f"{needed / 2**30:,.0f} GiB for weights, gradients and optimizer, and there are {there / 2**30:,.0f}; "
            "take fewer --n-layers or a smaller --d-model, --d-ff or --context-length"
        )


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raises ValueError where torch says that memory is full; on a CPU it says so in words alone."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise ValueError(
                "out of memory; take smaller --batch-tokens (with --accumulate, the same batch in pieces) or a smaller "
                "model; nothing that was saved before is lost"
            ) from None
        raise


def free_name(data: DataConfig, folder: Path | None = None) -> Path:
    """runs/fish, or runs/fish-2 where that exists; runs/fish-cat for a mix."""
    names = parse_mix(data.source) if data.kind == "mix" else data.sources[:1]
    stem = "-".join(Path(name).stem for name in names)
    stem = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or data.kind  # whatever the file is called
    folder = folder or runs.RUNS
    n, path = 1, folder / stem
    while path.exists():
        n, path = n + 1, folder / f"{stem}-{n + 1}"
    return path


def _learn(
    run: Run, data: Material, model: Transformer, kept: dict[str, torch.Tensor] | None, quiet: bool, track: str | None
) -> Run:
    config = run.config
    start = int(kept["counters"][0]) if kept else 0
    parameters = sum(p.numel() for p in model.parameters())
    title = f"{run.name}: {parameters / 1e6:.2f} million parameters on {config.train.device}, {config.train.precision}"
    flops = 3 * count(config.model).flops_matrices  # the backward pass is two more products for each
    display = Display(config, title, start, math.inf if quiet else peak_flops(config.train) / flops)

    def show(line: Line) -> None:
        keep(line)
        if not quiet:
            display.show(line)

    with (
        stop_on_signal() as stopped,  # before the lock names this process to those who would stop it
        run.lock(),
        contextlib.nullcontext() if quiet else display,
        mirror(track, run, start) as keep,
    ):
        run.go_back_to(start if start else -1)  # step 0 is looked at again
        probe = Probe(data.batches, config.train)
        recorder = Recorder(
            run, config.train, data.quick, data.held_out, data.prompts, show, stopped.is_set, probe, data.facts, kept
        )
        last: list[Learner] = []

        def on_step(step: Any) -> bool:
            last[:] = [step.learner]
            return recorder(step)

        try:
            train(model, data.batches, config.train, on_step, kept)
        except NonFinite as error:
            for learner in last:  # none, where the first step of a resumed run fails: its state is saved already
                run.save_model(learner.model.state_dict())
                run.save_state(learner.step, learner.tensors())
            recorder.record(step=error.step, not_finite=str(error))
            recorder.consult(error.step)
            raise ValueError(f"{error}; try a lower learning rate, or a longer warm-up") from None
        finally:
            recorder.close()
    write_model_card(run)
    _report(run, quiet)
    if stopped.is_set() and run.step < config.train.steps and not quiet:
        print(f"stopped at step {run.step}; `barreleye train --resume {run.path}` goes on")
    return run


def _report(run: Run, quiet: bool) -> None:
    from barreleye.training.report import write_learning_report

    page = write_learning_report(run)
    if not quiet:
        print(f"the run is in {run.path}" + (f", its curves in {page}" if page else ""))


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Ctrl-C (or SIGTERM) asks the training to stop after the step at hand; a second Ctrl-C stops at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # only the main thread may listen for signals
        return

    def ask(number: int, frame: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
