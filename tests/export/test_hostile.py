"""Files that a stranger made, or a bad disk: refused with one line, at once, before memory is taken."""

import json
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from barreleye.files import read_tensors, tensor_shapes

sys.path.insert(0, str(Path(__file__).parent))
from foreign import SHAPES, never_ends

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


@pytest.mark.parametrize("kind", ["/dev/zero", "a pipe"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"])
def test_what_is_no_file_is_not_read(
    tmp_path: Path, whole: Path, refusal: Callable[..., str], name: str, kind: str
) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(whole, theirs, ignore=shutil.ignore_patterns(name))
    if name.endswith("index.json"):
        (theirs / "model.safetensors").rename(theirs / "model-1.safetensors")
    never_ends(theirs / name, kind)
    refusal(theirs)
