"""Checkpoints that a stranger made: nothing in them is run, and none takes more memory than its file says."""

import io
import os
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from barreleye.export.ancestors import read_checkpoint

sys.path.insert(0, str(Path(__file__).parent))
from foreign import NANOGPT, ancestor_weights, never_ends, save_nanogpt
from mutated_checkpoints import packed, unpacked

Refusal = Callable[..., str]
VOCAB, CONTEXT = 15, 24  # of the nanoGPT


class Deed:
    """What runs when it is unpickled, by whoever unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("form", ["torch", "old", "plain"])
def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, form: str) -> None:
    mark, file = tmp_path / "owned", tmp_path / "ckpt.pt"
    held = {"model": {"x": torch.ones(2)}, "model_args": Deed(mark)}
    if form == "plain":
        file.write_bytes(pickle.dumps({"model_args": Deed(mark)}))
    else:
        torch.save(held, file, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(ValueError) as refusal:
        read_checkpoint(file)
    assert str(refusal.value).startswith(f"{file}: ") and "\n" not in str(refusal.value)
    assert not mark.exists()


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ckpt.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ckpt/data.pkl", pickle.dumps({}))
        archive.writestr("ckpt/data/0", b"\0" * 50_000_000)
    with pytest.raises(ValueError, match=r"ckpt\.pt: unpacks to 50,000,\d+ bytes"):
        read_checkpoint(file)


@pytest.mark.parametrize("extra", [False, True], ids=["all of them", "one that is left over"])
def test_a_checkpoint_of_9_kb_that_says_41_gb(tmp_path: Path, refusal: Refusal, extra: bool) -> None:
    """One number, which stands for each of 10 million rows: torch loads it, and a copy of it would be that large."""
    rows, width = (VOCAB, 32) if extra else (10_000_000, 1024)
    shapes = {name: tensor.shape for name, tensor in ancestor_weights(NANOGPT, VOCAB, CONTEXT).items()}
    args = dict(n_layer=2, n_head=4, n_embd=width, block_size=CONTEXT, vocab_size=rows, bias=False)
    model = {
        name: torch.zeros(1).expand([{VOCAB: rows}.get(n, n // 32 * width or n) for n in shape])
        for name, shape in shapes.items()
    }
    if extra:
        model["transformer.h.0.attn.more"] = torch.zeros(1).expand(10_000_000, 1024)
    torch.save({"model": model, "model_args": args}, tmp_path / "ckpt.pt")
    assert (tmp_path / "ckpt.pt").stat().st_size < 20_000
    refusal(tmp_path / "ckpt.pt", text=text(tmp_path))


class Claims:
    """What pickles as a call of something that weights may be made of."""

    def __init__(self, what: Callable[..., object], *arguments: object) -> None:
        self.called = what, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.called


@pytest.mark.parametrize(
    "claims",
    [
        Claims(bytearray, 6 * 2**30),
        Claims(set, Claims(bytearray, 6 * 2**30)),
        Claims(torch.FloatTensor, 10**10),
        Claims(torch.UntypedStorage, 6 * 2**30),
    ],
    ids=["bytes", "a set of bytes", "a tensor", "a storage"],
)
def test_a_checkpoint_of_a_kilobyte_that_takes_6_gb(tmp_path: Path, refusal: Refusal, claims: Claims) -> None:
    torch.save({"model": {}, "model_args": {}, "config": claims}, tmp_path / "ckpt.pt")
    assert (tmp_path / "ckpt.pt").stat().st_size < 2000
    refusal(tmp_path / "ckpt.pt", text=text(tmp_path))


ODD = {
    "on no device": lambda t: t.to("meta"),
    "on no device, and large": lambda t: torch.empty(10**6, 10**6, device="meta"),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
    "sparse": lambda t: t.to_sparse(),
    "complex": lambda t: t.to(torch.complex64),
    "quantized": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "a list": lambda t: t.tolist(),
}


@pytest.mark.filterwarnings("ignore")  # of torch, that sparse and quantized tensors will change
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_odd_tensors_are_refused(tmp_path: Path, refusal: Refusal, odd: Callable[[torch.Tensor], object]) -> None:
    weights = ancestor_weights(NANOGPT, VOCAB, CONTEXT)
    for name in ("transformer.wte.weight", "transformer.h.1.attn.c_attn.bias"):
        save_nanogpt(tmp_path, VOCAB, model=weights | {name: odd(weights[name])})
        refusal(tmp_path / "ckpt.pt", text=text(tmp_path))


@pytest.mark.parametrize("name", ["n_layer", "more", 1])
@pytest.mark.parametrize(
    "said",
    ["two\nlines", torch.ones(3, 3), [torch.ones(3, 3)], "<lists>"],
    ids=["lines", "a tensor", "a list", "lists in lists"],
)
def test_what_a_checkpoint_says_instead_of_numbers_is_quoted_in_one_line(
    tmp_path: Path, refusal: Refusal, name: object, said: object
) -> None:
    args = dict(n_layer=2, n_head=4, n_embd=32, block_size=CONTEXT, vocab_size=VOCAB, another=said)
    save_nanogpt(tmp_path, VOCAB, model_args=args | {name: said})
    lists = b"]" * 50_000 + b"a" * 49_999
    rewrite(tmp_path / "ckpt.pt", lambda data: data.replace(b"X\x07\0\0\0<lists>", lists))
    refusal(tmp_path / "ckpt.pt", text=text(tmp_path))


def rewrite(file: Path, change: Callable[[bytes], bytes]) -> None:
    """Another data.pkl in a checkpoint."""
    entries = unpacked(file.read_bytes())
    file.write_bytes(packed(entries | {name: change(entries[name]) for name in entries if name.endswith("data.pkl")}))


def test_a_pickle_of_15_mb_that_makes_a_gigabyte_of_lists(tmp_path: Path, refusal: Refusal) -> None:
    save_nanogpt(tmp_path, VOCAB)
    rewrite(tmp_path / "ckpt.pt", lambda data: b"\x80\x02" + b"]" * (15 * 2**20) + b".")
    refusal(tmp_path / "ckpt.pt", text=text(tmp_path))


def test_a_pickle_by_another_name(tmp_path: Path, refusal: Refusal) -> None:
    """torch finds data.pkl in whatever case it is written."""
    file = tmp_path / "ckpt.pt"
    save_nanogpt(tmp_path, VOCAB, config=Claims(bytearray, 6 * 2**30))
    entries = unpacked(file.read_bytes())
    file.write_bytes(packed({name.replace("data.pkl", "data.PKL"): held for name, held in entries.items()}))
    refusal(file, text=text(tmp_path))


def test_two_archives_in_one_file(tmp_path: Path, refusal: Refusal) -> None:
    """Where both are as long, zipfile finds the second and torch the first: what is looked at is not what is read."""
    file, entries = tmp_path / "ckpt.pt", []
    for config in (Claims(bytearray, 6 * 2**30), {}):
        save_nanogpt(tmp_path, VOCAB, config=config)
        rewrite(file, lambda data: data.ljust(10_000, b"\0"))
        entries.append(file.read_bytes())
    file.write_bytes(b"".join(entries))
    refusal(file, text=text(tmp_path))


def test_two_directories_in_one_archive(tmp_path: Path, refusal: Refusal) -> None:
    """zipfile reads the large directory (zip64) that stands before its pointer, torch the one that this points to."""
    file, entries, directories = tmp_path / "ckpt.pt", b"", []
    for config in ({}, Claims(bytearray, 6 * 2**30)):
        save_nanogpt(tmp_path, VOCAB, config=config)
        data = packed(unpacked(file.read_bytes()))
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            many, at = len(archive.infolist()), archive.start_dir
        directory = bytearray(data[at:-22])
        for entry in re.finditer(rb"PK\x01\x02", directory):  # each says where its bytes begin
            place = slice(entry.start() + 42, entry.start() + 46)
            directory[place] = struct.pack("<I", len(entries) + struct.unpack("<I", directory[place])[0])
        entries += data[:at]
        directories.append((many, bytes(directory)))
    (many, looked_at), (_, read) = directories
    end = struct.Struct("<4sQ2H2L4Q")
    whole = entries
    for directory in (read, looked_at):
        whole += directory + end.pack(b"PK\6\6", 44, 45, 45, 0, 0, many, many, len(directory), len(whole))
    whole += struct.pack("<4sLQL", b"PK\6\7", 0, len(entries + read), 1)
    file.write_bytes(whole + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0))
    refusal(file, text=text(tmp_path))


@pytest.mark.parametrize("more", [{}, {"config": Claims(bytearray, 6 * 2**30)}], ids=["whole", "6 GB"])
def test_an_old_checkpoint_with_the_end_of_a_zip(tmp_path: Path, refusal: Refusal, more: dict[str, object]) -> None:
    """torch goes by how a file begins, zipfile by how it ends: what is looked at would not be what is read."""
    file, end = tmp_path / "ckpt.pt", io.BytesIO()
    save_nanogpt(tmp_path, VOCAB)
    torch.save(torch.load(file, weights_only=True) | more, file, _use_new_zipfile_serialization=False)
    zipfile.ZipFile(end, "w").close()
    file.write_bytes(file.read_bytes() + end.getvalue())
    refusal(file, text=text(tmp_path))


def test_a_program_of_torchscript_is_refused_in_one_line(tmp_path: Path, refusal: Refusal) -> None:
    save_nanogpt(tmp_path, VOCAB)
    file = tmp_path / "ckpt.pt"
    file.write_bytes(packed(unpacked(file.read_bytes()) | {"ckpt/constants.pkl": pickle.dumps((), 2)}))
    refusal(file, text=text(tmp_path))


def text(folder: Path) -> Path:
    """That a nanoGPT of as many characters learned from."""
    (folder / "input.txt").write_text("abcdefghijklmno"[:VOCAB])
    return folder / "input.txt"


@pytest.mark.parametrize("kind", ["/dev/zero", "a pipe"])
def test_a_checkpoint_that_is_no_file_is_not_read(tmp_path: Path, refusal: Refusal, kind: str) -> None:
    never_ends(tmp_path / "ckpt.pt", kind)
    refusal(tmp_path / "ckpt.pt")
