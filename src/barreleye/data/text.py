"""Plain text: a file, or tiny Shakespeare, which is fetched once."""

import hashlib
import http.client
import io
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

MAX_BYTES = 4 * 2**30  # the text and its tokens are held in memory
MAX_LINE_BYTES = 16 * 2**20  # a longer line is not text that anybody wrote
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def check_file(path: Path) -> None:
    """Raises ValueError for what cannot be opened as a file, or is more than can be held in memory."""
    try:
        if path.is_char_device() or path.is_block_device():
            raise ValueError(f"{path}: is a device; name a file")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: is larger than {MAX_BYTES // 2**30} GiB; learn from a part of it")
        path.open("rb").close()
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file; check its name") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder; name a file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); name a file that can") from None


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises ValueError, naming file and line, for anything else."""
    check_file(path)
    data = path.read_bytes()
    if not data.strip():
        raise ValueError(f"{path}: is empty; name a file with text in it")
    if b"\0" in data:
        raise ValueError(f"{path}:{_line_at(data, data.index(0))}: has a NUL byte; this is not a text file")
    for number, row in enumerate(io.BytesIO(data), 1):
        if len(row) > MAX_LINE_BYTES:
            raise ValueError(
                f"{path}:{number}: a line of {len(row):,} bytes; text has line ends (at most {MAX_LINE_BYTES:,})"
            )
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = _line_at(data, error.start)
        raise ValueError(f"{path}:{line}: is not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8") from None


def _line_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


# Tiny Shakespeare --------------------------------------------------------------------------------------------------


def read_shakespeare(fetch: Callable[[str], bytes] | None = None) -> str:
    """Tiny Shakespeare (Karpathy 2015; 1,115,394 bytes), fetched once and kept in the user's cache folder."""
    file = cache_folder() / "tinyshakespeare.txt"
    if not (file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == SHAKESPEARE_SHA256):
        try:
            data = (fetch or _fetch)(SHAKESPEARE_URL)
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)).strip()
            raise ValueError(
                f"tiny Shakespeare could not be fetched ({reason}); name a file of your own: --text FILE"
            ) from None
        if hashlib.sha256(data).hexdigest() != SHAKESPEARE_SHA256:
            raise ValueError("what was fetched is not tiny Shakespeare (its SHA-256 differs); name a file: --text FILE")
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_bytes(data)
        partial.replace(file)
    return read_text(file)


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.read(4 * 2**20)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise


def cache_folder() -> Path:
    """Where this user's programs keep what they can fetch again."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "barreleye"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "barreleye"
    return Path.home() / ".cache" / "barreleye"
