"""Trainings as processes of their own: begun, paused, gone on with. None is hurt when the page or the studio is closed.

A training is `barreleye train` in a session of its own. What it says goes to the run folder's cache/training.log, whose
lock it holds from its first moment to its last; run.py's lock it holds while it learns, and that one names its process.
Nothing else is known of it, so a later studio, or one beside this, knows as much.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from barreleye.config import SECTIONS, Config
from barreleye.files import is_locked, lock_patiently, to_json, write_file
from barreleye.run import Run

LOG, ASKED, PLAN = "training.log", "asked.json", "plan.toml"  # in the run folder's cache/
OWN_LINE = "barreleye: "  # how the command line begins the one that says what is wrong
LONGEST_LOG = 2**16  # bytes of it that are read


class WrongState(ValueError):
    """409: what is asked of a training does not fit what it does now."""


# Begin and go on -----------------------------------------------------------------------------------------------------

_begun: dict[Path, subprocess.Popen[bytes]] = {}  # by this studio
_beginning = threading.Lock()


def begin(path: Path, config: Config, sources: dict[str, Any], preset: str | None, knobs: dict[str, Any]) -> None:
    """Train a new run in `path`, which run.check_free found free. `config` is what will come of it, to be shown until
    the training has written its own."""
    words = [f"--out={path}", *options(knobs), *([] if preset is None else [f"--preset={preset}"])]
    persona = sources.get("persona")
    words += [f"--{name}={sources[name]}" for name in ("mix", "text") if name in sources]
    words += [f"--from={sources['from_run']}"] if "from_run" in sources else []
    words += [f"--chats={file}" for file in sources.get("chats") or ()]
    _launch(path, [*words, *([] if persona is None else ["--", persona])], config)


def go_on(path: Path, config: Config, knobs: dict[str, Any]) -> None:
    """`train --resume`. Raises WrongState where it is being trained. `config` is what the run will have by then."""
    if is_live(path):
        raise WrongState(f"{path.name} is being trained already; wait until it ends")
    _launch(path, [f"--resume={path}", *options(knobs)], config)


def options(knobs: dict[str, Any]) -> list[str]:
    """What one would type for them."""
    kinds = {name: kind for section in SECTIONS.values() for name, kind in section.__annotations__.items()}
    words = []
    for name, value in knobs.items():
        option = name.replace("_", "-")
        if kinds[name] is bool:
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words.append(f"--{option}={value}")
    return words


def _launch(path: Path, words: Sequence[str], config: Config) -> None:
    cache = path / "cache"
    with _beginning:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / LOG).open("ab", buffering=0) as log:
            if not lock_patiently(log.fileno()):  # is handed on with the file, and free when all who have it are gone
                raise WrongState(f"{path.name} is being trained already")
            log.truncate(0)
            (cache / ASKED).unlink(missing_ok=True)
            write_file(cache / PLAN, config.to_toml().encode())
            process = subprocess.Popen(
                # -P: no module of the folder where the studio was started takes the place of one of Python's.
                [sys.executable, "-P", "-m", "barreleye", "train", "--quiet", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _begun[path] = process
    threading.Thread(target=process.wait, daemon=True).start()  # so that the system can forget it when it ends


# Pause and stop ------------------------------------------------------------------------------------------------------


def pause(path: Path) -> None:
    """Ctrl-C to exactly that process: it saves after the step at hand, and leaves. Raises WrongState where there is no
    such process, or none that is certain to be it."""
    if not is_live(path):
        raise WrongState(f"{path.name} is not learning")
    if not is_learning(path):
        raise WrongState(f"{path.name} does not learn at this moment: it prepares its data, or writes its report; wait")
    _interrupt(path, "pause")


def stop(path: Path) -> None:
    """The same, for good: it is not offered to go on. One that has not begun to learn is ended at once."""
    if is_learning(path):
        _interrupt(path, "stop")
    elif is_live(path):
        process = _begun.get(path)
        if process is None or process.poll() is not None:
            raise WrongState(f"{path.name} is not learning yet; wait a moment, then stop it")
        _note(path, "stop", process.pid, _last_writer(path))
        process.terminate()  # where it has just begun to learn, it saves and leaves
    else:
        _note(path, "stop", _last_writer(path))


def _interrupt(path: Path, what: str) -> None:
    with certain(path) as (pid, handle):
        asked_before = pid in _asked(path).get("of", ())
        _note(path, what, pid)
        if asked_before:
            return  # a second Ctrl-C would not let it save
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            if handle is None:
                os.kill(pid, signal.SIGINT)
            else:
                signal.pidfd_send_signal(handle, signal.SIGINT)


@contextlib.contextmanager
def certain(path: Path) -> Iterator[tuple[int, int | None]]:
    """The process that learns in this folder, and a handle that never becomes another's where the system has such.

    The lock names it; it has the lock's file open, and the file is locked. Raises WrongState where that is not so.
    """
    pid = _last_writer(path)
    if pid is None:
        raise WrongState(f"{path.name}: its process is not known; press Ctrl-C where it was started")
    handle = None
    with contextlib.suppress(AttributeError, OSError):
        handle = os.pidfd_open(pid)
    try:
        if not (has_open(pid, path / "lock") and is_learning(path) and _last_writer(path) == pid):
            raise WrongState(
                f"{path.name}: process {pid} cannot be shown to be its training; press Ctrl-C where it was started"
            )
        yield pid, handle
    finally:
        if handle is not None:
            os.close(handle)


def has_open(pid: int, file: Path) -> bool:
    """Whether a process has a file open, as far as one may know."""
    handles = Path(f"/proc/{pid}/fd")
    if handles.is_dir():
        try:
            return any(handle.exists() and handle.samefile(file) for handle in handles.iterdir())
        except OSError:
            return False
    if (lsof := shutil.which("lsof")) is None:
        return False
    listed = subprocess.run([lsof, "-t", "--", str(file)], capture_output=True, text=True, check=False)
    return str(pid) in listed.stdout.split()


# What is known of it -------------------------------------------------------------------------------------------------


def is_learning(path: Path) -> bool:
    """Whether a training writes here: one of this studio, of another, or of the command line."""
    return is_locked(path / "lock")


def is_live(path: Path) -> bool:
    """The same, and while one that a studio began prepares its data, or writes its last report."""
    return is_learning(path) or is_locked(path / "cache" / LOG)


def asked(path: Path) -> str:
    """What was asked of the training that learns here, or was the last to: "pause", "stop", or nothing."""
    found = _asked(path)
    return str(found["what"]) if found and (not is_learning(path) or _last_writer(path) in found["of"]) else ""


def was_stopped(path: Path) -> bool:
    """Whether its last training was asked to stop for good; one of the command line may have gone on since."""
    found = _asked(path)
    return bool(found) and found["what"] == "stop" and _last_writer(path) in (None, *found["of"])


def planned(path: Path) -> Config | None:
    """What a training will be that a studio began, and that has not written it down yet."""
    try:
        return Config.from_toml(path / "cache" / PLAN)
    except (OSError, ValueError):
        return None


def complaint(path: Path) -> str:
    """The line with which the last training that a studio began gave up; empty where it did not, or another went on
    since."""
    log, record = path / "cache" / LOG, path / "metrics.jsonl"
    try:
        if record.exists() and record.stat().st_mtime_ns > log.stat().st_mtime_ns:
            return ""
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LONGEST_LOG))
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return ""
    if lines and lines[-1].startswith(OWN_LINE):
        return lines[-1].removeprefix(OWN_LINE)
    return lines[-1] if any(line.startswith("Traceback ") for line in lines) else ""


def _last_writer(path: Path) -> int | None:
    try:
        return Run(path).last_writer
    except ValueError:
        return None


def _note(path: Path, what: str, *of: int | None) -> None:
    (path / "cache").mkdir(exist_ok=True)
    write_file(path / "cache" / ASKED, to_json({"what": what, "of": of}))


def _asked(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / "cache" / ASKED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(found, dict) and found.get("what") in ("pause", "stop") and isinstance(found.get("of"), list)
    return found if known else {}
