"""Files that are whole or absent: whatever happens to the process or the machine, nothing is half written."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PARTIAL = ".partial"  # how the name of a file ends that is not whole yet
PATIENCE = (0.01, 0.02, 0.04, 0.08)  # seconds
LARGEST_FILE = 64 * 2**30
LARGEST_HEADER = 16 * 2**20  # names and shapes of some hundred thousand tensors


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Says which file it was where writing fails: the system's own error does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_file(path: Path, data: bytes) -> None:
    """Write `data` so that, whatever happens, `path` holds either all of it or what it held before."""
    with _whole_file(path) as file:
        file.write(data)


def copy_file(source: Path, path: Path) -> None:
    """`write_file` of what another file holds, which may be larger than memory."""
    with source.open("rb") as read, _whole_file(path) as file:
        shutil.copyfileobj(read, file)


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with naming(path), partial.open("wb") as file:
            yield file
            _sync(file.fileno())
        with naming(path):
            partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_folder(path: Path, files: dict[str, bytes]) -> None:
    """A folder with a manifest of SHA-256 sums, renamed into place once it is whole, and then never touched."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, data in files.items():
            write_file(partial / name, data)
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        write_file(partial / "manifest.json", to_json(sums))
        shutil.rmtree(path, ignore_errors=True)  # the same step, saved by a training that was since resumed earlier
        partial.replace(path)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(path.parent)


def check_manifest(folder: Path) -> None:
    """Raises ValueError when a file of the folder is not the one that was written."""
    try:
        sums = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for name, expected in sums.items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise ValueError(f"{folder / name}: is damaged (its SHA-256 differs from the manifest)")
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, AttributeError, RecursionError):
        raise ValueError(f"{folder}: its manifest or a file of it is missing or damaged") from None


def read_tensors(file: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file. Raises ValueError for one that is missing, cut short or not safetensors."""
    return dict(iterate_tensors(file))


def iterate_tensors(file: Path, names: Iterable[str] | None = None) -> "Iterator[tuple[str, Tensor]]":
    """Those tensors (all, unless named), one after the other. Raises ValueError as `read_tensors`."""
    with _open_tensors(file, "pt") as tensors:
        for name in tensors.keys() if names is None else names:
            yield name, tensors.get_tensor(name)


def tensor_shapes(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type ("F32", "BF16", ...) and shape of each tensor; only the header is read. Raises as `read_tensors`."""
    with _open_tensors(file, "np") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - it is no dictionary
        return {name: (str(s.get_dtype()), tuple(s.get_shape())) for name, s in slices.items()}


@contextlib.contextmanager
def _open_tensors(file: Path, framework: str) -> Iterator[Any]:
    """The library checks the header against the file; before that, here, that it is not absurdly long."""
    import safetensors

    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    if file.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{file}: is larger than any model of ours")
    with file.open("rb") as begun:
        header = int.from_bytes(begun.read(8), "little")
    if header > min(LARGEST_HEADER, file.stat().st_size):
        raise ValueError(f"{file}: is not a whole safetensors file (its header would be {header:,} bytes)")
    try:
        with safetensors.safe_open(file, framework) as tensors:
            yield tensors
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file}: is not a whole safetensors file ({' '.join(str(error).split())})") from None


def sync_folder(folder: Path) -> None:
    """Make a rename last. Windows has no handle for a folder, and keeps renames in its journal."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync(handle: int) -> None:
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # not every file system knows it
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)  # fsync alone leaves the data in the drive's cache there
            return
    os.fsync(handle)


def lock_file(handle: int, shared: bool = False) -> None:
    """Lock without waiting; the lock goes with the process, however it ends. shared: only others' locks of the other
    kind are in the way, where the system has both."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def lock_patiently(handle: int) -> bool:
    """Lock, waiting no longer than those take who only look (`is_locked`). Says whether it worked."""
    for patience in (*PATIENCE, 0.0):
        try:
            lock_file(handle)
            return True
        except (BlockingIOError, PermissionError):
            time.sleep(patience)
    return False


def is_locked(file: Path) -> bool:
    """Whether a process holds the lock of a file now."""
    if not file.exists():
        return False
    with file.open("rb") as lock:  # looking changes nothing, so a folder that one may only read can be asked too
        try:
            lock_file(lock.fileno(), shared=True)  # two who look are not in each other's way
        except OSError:
            return True
        return False


def to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def json_lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(json.JSONDecodeError, RecursionError):
                if isinstance(value := json.loads(line), dict):
                    yield value
