"""Files and data sets -> rows: JSON, JSON lines, CSV, Parquet, and what the Hugging Face Hub has by name."""

import csv
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from barreleye.data.text import check_file, read_text

DATA_SET = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)?")  # owner/name, or owner/name/configuration
LONGEST_CELL = 2**31 - 1  # characters: the most that every platform takes
LONGEST_ROW = 1_000  # lines: where more are unreadable, a quote was left open, and what it swallowed is not one row
NEEDS_EXTRA = "takes packages that are not installed; pip install 'barreleye[chats]'"

Row = Any
"""What stands at a line, or the ValueError that says why it cannot be read."""


def read_rows(source: str | Path) -> Iterator[tuple[str, int, Row]]:
    """(file, line, row) for each row of a file or a data set; raises ValueError where it cannot be read at all."""
    path = Path(source)
    kind = path.suffix.lower()
    if kind not in READERS and not path.is_file() and DATA_SET.fullmatch(str(source)):
        yield from _data_set(str(source))
    else:
        for line, row in READERS.get(kind, _json)(path):
            yield str(path), line, row


def _json(path: Path) -> Iterator[tuple[int, Row]]:
    text = read_text(path)
    if text.lstrip().startswith("["):
        yield from _array(path, text)
        return
    for line, written in enumerate(text.split("\n"), 1):
        if written.strip():
            yield line, _loads(written)


def _loads(written: str) -> Row:
    try:
        return json.loads(written)
    except json.JSONDecodeError as error:
        return ValueError(f"is not JSON ({error.msg}); chats are one JSON object a line")
    except RecursionError:
        return ValueError("is nested too deeply for a chat; see its brackets")
    except ValueError as error:  # a number of more digits than Python reads
        return error


def _array(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    """The elements of one JSON array, each with the line it begins on."""
    decoder, space = json.JSONDecoder(), re.compile(r"\s*")
    line, counted = 1, 0

    def skip(position: int) -> int:
        nonlocal line, counted
        position = space.match(text, position).end()  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, position), position
        return position

    position = skip(skip(0) + 1)
    goes_on = text[position : position + 1] != "]"
    while goes_on:
        try:
            row, position = decoder.raw_decode(text, position)
        except RecursionError:
            raise ValueError(f"{path}:{line}: is nested too deeply for a chat; see its brackets") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{error.lineno}: is not JSON ({error.msg})") from None
        except ValueError as error:  # a number of more digits than Python reads
            raise ValueError(f"{path}:{line}: {error}") from None
        yield line, row
        position = skip(position)
        goes_on = text[position : position + 1] == ","
        if goes_on:
            position = skip(position + 1)
    if text[position:].strip() != "]":
        raise ValueError(f"{path}:{line}: is not JSON (the array must go on with a comma, or end with its bracket)")


def _csv(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows by the names of the header, read without regard to case."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not names or reader.line_num - line > LONGEST_ROW:
                raise ValueError(f"{path}:{line}: is not CSV ({error}); see its quotes") from None
            yield line, ValueError(f"is not CSV ({error}); see its quotes")
            continue
        if not names:
            names = [name.strip().lower() for name in values]
            if twice := {name for name in names if name and names.count(name) > 1}:
                raise ValueError(f"{path}:{line}: two columns are called {min(twice)!r}; rename one")
        elif len(values) > len(names):
            yield line, ValueError("has more cells than the header; put a cell with a comma in it in quotes")
        elif values:
            yield line, {name: value for name, value in zip(names, values, strict=False) if name}


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    check_file(path)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path}: Parquet {NEEDS_EXTRA}") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from enumerate(rows, 1)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: is not whole Parquet ({error})") from None


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
    ".json": _json,
    ".jsonl": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _data_set(source: str) -> Iterator[tuple[str, int, Row]]:
    """Every split of a data set that `datasets` can load: from a folder of that name, or from the Hugging Face Hub."""
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{source}: there is no such file, and a data set {NEEDS_EXTRA}") from None
    owner, name, *configuration = source.split("/")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would tell of each try to reach the Hub
    try:
        # Streamed: what is kept are our conversations, not the tables too.
        splits = datasets.load_dataset(f"{owner}/{name}", *configuration, streaming=True)
        for split, rows in splits.items():
            for number, row in enumerate(rows, 1):
                yield f"{source}[{split}]", number, row
    except Exception as error:  # its own, of the network and of every format it knows: there is no common one
        raise ValueError(
            f"{source}: is no file, and no data set that can be loaded ({error}); check its name"
        ) from None
