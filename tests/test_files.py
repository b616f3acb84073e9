import errno
import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from barreleye import files
from barreleye.files import (
    check_manifest,
    copy_file,
    json_lines,
    lock_file,
    read_tensors,
    to_json,
    write_file,
    write_folder,
)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def full_disk(handle: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# One file ----------------------------------------------------------------------------------------------------------


def test_a_file_is_written_and_written_over(tmp_path: Path) -> None:
    for data in (b"one", b"", b"two" * 10_000):
        write_file(tmp_path / "a", data)
        assert (tmp_path / "a").read_bytes() == data and names(tmp_path) == {"a"}


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    for name in ("a", "b"):
        with pytest.raises(OSError, match="No space left"):
            write_file(tmp_path / name, b"new")
        with pytest.raises(OSError, match="No space left"):
            copy_file(Path(__file__), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == {"a"}


def test_a_file_is_copied_piece_by_piece(tmp_path: Path) -> None:
    data = b"0123456789" * 2**20
    write_file(tmp_path / "a", data)
    tracemalloc.start()
    copy_file(tmp_path / "a", tmp_path / "b")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "b").read_bytes() == data and peak < len(data) / 2


def test_the_bytes_are_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the file, rename, fsync of the folder: in this order a power cut leaves the old file or the new."""
    events: list[str] = []
    sync, replace = os.fsync, Path.replace

    def spy_sync(handle: int) -> None:
        events.append("sync " + Path(f"/proc/self/fd/{handle}").readlink().name)
        sync(handle)

    def spy_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        assert self.read_bytes() == b"new"
        return replace(self, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("handles have no names here")
    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write_file(tmp_path / "a", b"new")
    assert events == ["sync .a.partial", "rename", f"sync {tmp_path.name}"]


def test_a_process_killed_while_it_writes_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    file = tmp_path / "a"
    code = (
        "import itertools, pathlib, sys\n"
        "from barreleye.files import write_file\n"
        "for n in itertools.count():\n"
        "    write_file(pathlib.Path(sys.argv[1]), (str(n % 10) * 3_000_000).encode())\n"
    )
    for wait in (0.05, 0.11, 0.17):
        process = subprocess.Popen([sys.executable, "-c", code, str(file)])
        while not file.exists():
            time.sleep(0.01)
        time.sleep(wait)
        process.kill()
        process.wait()
        data = file.read_bytes()
        assert data == data[:1] * 3_000_000
    write_file(file, b"and it goes on")
    assert names(tmp_path) == {"a"}


# A folder ----------------------------------------------------------------------------------------------------------


def test_a_folder_has_a_manifest_that_holds(tmp_path: Path) -> None:
    write_folder(tmp_path / "s" / "7", {"a": b"one", "b": b""})
    check_manifest(tmp_path / "s" / "7")
    assert names(tmp_path / "s" / "7") == {"a", "b", "manifest.json"} and names(tmp_path / "s") == {"7"}
    write_folder(tmp_path / "s" / "7", {"a": b"again"})
    check_manifest(tmp_path / "s" / "7")
    assert names(tmp_path / "s" / "7") == {"a", "manifest.json"}


def test_a_folder_that_a_full_disk_cut_short_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "7", {"a": b"old"})
    monkeypatch.setattr(os, "fsync", full_disk)
    for name in ("7", "8"):
        with pytest.raises(OSError, match="No space left"):
            write_folder(tmp_path / name, {"a": b"new"})
    assert names(tmp_path) == {"7"} and (tmp_path / "7" / "a").read_bytes() == b"old"
    check_manifest(tmp_path / "7")


def test_what_an_earlier_try_left_is_not_taken_along(tmp_path: Path) -> None:
    (tmp_path / ".7.partial").mkdir()
    (tmp_path / ".7.partial" / "stale").write_bytes(b"x")
    write_folder(tmp_path / "7", {"a": b"one"})
    assert names(tmp_path) == {"7"} and names(tmp_path / "7") == {"a", "manifest.json"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a").write_bytes(b"onf"),
        lambda folder: (folder / "a").write_bytes(b"on"),
        lambda folder: (folder / "a").write_bytes(b""),
        lambda folder: (folder / "a").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_bytes(b""),
        lambda folder: (folder / "manifest.json").write_bytes(b"{"),
        lambda folder: (folder / "manifest.json").write_bytes(b"[1]"),
        lambda folder: (folder / "manifest.json").write_bytes(b"\xff"),
    ],
)
def test_damage_is_noticed(tmp_path: Path, damage: object) -> None:
    write_folder(tmp_path / "7", {"a": b"one"})
    damage(tmp_path / "7")  # type: ignore[operator]
    with pytest.raises(ValueError, match="damaged") as raised:
        check_manifest(tmp_path / "7")
    assert str(raised.value).startswith(str(tmp_path / "7")) and "\n" not in str(raised.value)


# Tensors -----------------------------------------------------------------------------------------------------------


def test_tensors(tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2])}
    save_file(tensors, file)
    read = read_tensors(file)
    assert read.keys() == tensors.keys() and all(torch.equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("data", [b"", b"x" * 100, save({"a": torch.ones(9)})[:-3], b"\xff" * 8, b"\x80\x04N."])
def test_tensors_that_are_not_whole_are_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "t.safetensors"
    file.write_bytes(data)
    with pytest.raises(ValueError, match="is not a whole safetensors file") as raised:
        read_tensors(file)
    assert str(raised.value).startswith(str(file)) and "\n" not in str(raised.value)


def test_tensors_that_are_not_there_or_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is no such file"):
        read_tensors(tmp_path / "t")
    with pytest.raises(ValueError, match="there is no such file"):
        read_tensors(tmp_path)
    save_file({"a": torch.ones(9)}, tmp_path / "t")
    monkeypatch.setattr(files, "LARGEST_FILE", 10)
    with pytest.raises(ValueError, match="larger than any model of ours"):
        read_tensors(tmp_path / "t")


# Lines and locks ---------------------------------------------------------------------------------------------------


def test_json_lines_leave_out_a_torn_one(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    assert list(json_lines(file)) == []
    whole = [{"step": 1, "text": "é🐟\u2028"}, {"step": 2}]
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in whole).encode()
    for torn in (b"", b'{"step": 3, "los', b"{", '{"text": "é'.encode()[:-1], b"\n\n"):
        file.write_bytes(lines + torn)
        assert list(json_lines(file)) == whole


def test_json_is_utf8_with_a_last_newline() -> None:
    assert to_json({"a": "é"}) == '{\n  "a": "é"\n}\n'.encode()


def test_a_lock_is_of_one_and_goes_with_its_process(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    code = (
        "import sys, time\n"
        "from barreleye.files import lock_file\n"
        "file = open(sys.argv[1], 'a+b')\n"
        "lock_file(file.fileno())\n"
        "print('locked', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline().strip() == b"locked"
    with file.open("a+b") as mine:
        with pytest.raises(OSError):
            lock_file(mine.fileno())
        process.kill()
        process.wait()
        process.stdout.close()
        lock_file(mine.fileno())
        with file.open("a+b") as another, pytest.raises(OSError):
            lock_file(another.fileno())
