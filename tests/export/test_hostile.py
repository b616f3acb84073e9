"""Files that a stranger made, or a bad disk: refused with one line, at once, before memory is taken.

`make stress` gives each reader 10,000 mutated files, the tests a part of them (mutations.py).
"""

import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from barreleye.data.chat_template import CHAT_TEMPLATE, recognize
from barreleye.data.tokenizer import parse
from barreleye.export.ancestors import guppy, is_nanogpt, nanogpt, read_checkpoint
from barreleye.export.from_huggingface import Weights, model_config, read_json, shards
from barreleye.files import read_tensors, tensor_shapes

sys.path.insert(0, str(Path(__file__).parent))
from foreign import SHAPES, save_guppy, save_nanogpt, tokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
import mutations

TENSORS = save({"a": torch.arange(12.0).view(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)})


def header(content: str, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = content.encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def tensor(shape: str, begin: int, end: int, dtype: str = "F32") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}'


HOSTILE = {
    "nothing": b"",
    "cut in the length": TENSORS[:5],
    "cut in the header": TENSORS[:40],
    "cut in the data": TENSORS[:-3],
    "a header of 10 GB": header("{}", length=10 * 2**30),
    "a header of 2^64 - 1": header("{}", length=2**64 - 1),
    "a header longer than the file": header("{}", length=4096),
    "a shape of 1e9 x 1e9": header(f'{{"a":{tensor("[1000000000,1000000000]", 0, 4)}}}', b"\0" * 4),
    "a shape whose product overflows": header(f'{{"a":{tensor("[4294967296,4294967296]", 0, 0)}}}'),
    "a shape larger than its data": header(f'{{"a":{tensor("[1000000000]", 0, 4)}}}', b"\0" * 4),
    "a negative shape": header(f'{{"a":{tensor("[-1]", 0, 4)}}}', b"\0" * 4),
    "overlapping tensors": header(f'{{"a":{tensor("[2]", 0, 8)},"b":{tensor("[2]", 4, 12)}}}', b"\0" * 12),
    "offsets beyond the file": header(f'{{"a":{tensor("[250000000]", 0, 1000000000)}}}', b"\0" * 8),
    "offsets backwards": header(f'{{"a":{tensor("[1]", 8, 4)}}}', b"\0" * 8),
    "a hole": header(f'{{"a":{tensor("[1]", 4, 8)}}}', b"\0" * 8),
    "an unknown type": header(f'{{"a":{tensor("[1]", 0, 4, "OBJECT")}}}', b"\0" * 4),
    "no object": header("[1]"),
    "brackets": header("[" * 100_000),
    "not UTF-8": struct.pack("<Q", 2) + b"\xff\xfe",
    "a pickle": pickle.dumps({"a": [1.0] * 100}),
    "a zip": b"PK\x03\x04" + b"\0" * 100,
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("read", [read_tensors, tensor_shapes])
def test_a_hostile_safetensors_file_is_refused(tmp_path: Path, read: Callable[[Path], object], data: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    with pytest.raises(ValueError) as refusal:
        read(file)
    assert str(refusal.value).startswith(f"{file}: is not a whole safetensors file") and "\n" not in str(refusal.value)


def test_a_header_of_a_million_tensors_is_refused_by_its_length(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    many = ",".join(f'"t{i}":{tensor("[0]", 0, 0)}' for i in range(400_000))
    file.write_bytes(header(f"{{{many}}}"))
    with pytest.raises(ValueError, match="its header would be"):
        tensor_shapes(file)


REFUSE = """
import resource, sys
from barreleye.cli import main
import torch, barreleye.export.importing, barreleye.model.count
here = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (here + 200 * 2**20,) * 2)
sys.argv[1:] = sys.argv[1:]
main()
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set from Linux's own count")
@pytest.mark.parametrize(
    ("config", "says"),
    [
        (dict(n_embd=99_996, n_layer=999, n_head=4), "has shape"),
        (dict(n_positions=1_000_000, n_embd=99_996), "has shape"),
        (dict(vocab_size=9_999_999), "has shape"),
        (dict(n_inner=999_999), "has shape"),
    ],
)
def test_an_absurd_configuration_is_refused_in_200_megabytes(tmp_path: Path, config: dict[str, int], says: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(
        save({"transformer.wte.weight": torch.ones(4, 4), "transformer.wpe.weight": torch.ones(4, 4)})
    )
    (tmp_path / "config.json").write_text(json.dumps(SHAPES["gpt2"] | config))
    done = subprocess.run(
        [sys.executable, "-c", REFUSE, "import", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr and not (tmp_path / "runs").exists()


# Pickles -----------------------------------------------------------------------------------------------------------


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


# Mutations ---------------------------------------------------------------------------------------------------------


def read_weights(folder: Path) -> None:
    config, absent = model_config(json.loads(CONFIG))
    Weights(folder).check(config, absent)


def read_config(folder: Path) -> None:
    model_config(read_json(folder / "config.json"))


def read_pt(folder: Path) -> None:
    held = read_checkpoint(folder / "file.pt")
    nanogpt(held) if is_nanogpt(held) else guppy(held, None)


def nanogpt_file(folder: Path) -> bytes:
    save_nanogpt(folder, 15)
    return (folder / "ckpt.pt").read_bytes()


def guppy_file(folder: Path) -> bytes:
    save_guppy(folder, "training")
    return (folder / "checkpoints" / "best_model.pt").read_bytes()


CONFIG = json.dumps(SHAPES["llama-3-theta"] | dict(vocab_size=281, sliding_window=40, layer_types=["full_attention"]))
INDEX = json.dumps(
    {"metadata": {"total_size": 9}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
)
WORDS = tokenizer(("<|im_start|>", "<|im_end|>")).to_str()
READERS: dict[str, tuple[str, Callable[[Path], bytes], Callable[[Path], object]]] = {
    "tensors": ("file.safetensors", lambda folder: TENSORS, lambda folder: read_tensors(folder / "file.safetensors")),
    "weights": ("model.safetensors", lambda folder: TENSORS, read_weights),
    "config": ("config.json", lambda folder: CONFIG.encode(), read_config),
    "index": ("model.safetensors.index.json", lambda folder: INDEX.encode(), shards),
    "tokenizer": ("file.json", lambda folder: WORDS.encode(), lambda folder: parse(text_of(folder / "file.json"))),
    "nanogpt": ("file.pt", nanogpt_file, read_pt),
    "guppy": ("file.pt", guppy_file, read_pt),
    "template": (
        "file.jinja",
        lambda folder: CHAT_TEMPLATE.encode(),
        lambda folder: recognize(text_of(folder / "file.jinja")),
    ),
}


def text_of(file: Path) -> str:
    return file.read_bytes().decode("utf-8", "replace")


@pytest.mark.parametrize("reader", READERS)
def test_mutated_files_neither_crash_nor_hang(tmp_path: Path, reader: str) -> None:
    name, make, read = READERS[reader]
    whole = make(tmp_path)
    (tmp_path / name).write_bytes(whole)
    if reader != "weights":  # whose two tensors are no model: there, each mutation is to be refused
        read(tmp_path)
    refused = mutations.read_mutated(whole, tmp_path / name, lambda file: read(file.parent))
    assert reader == "template" or refused > mutations.N / 4
    # Nothing that was read took more memory than the files are large, many times over.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20
