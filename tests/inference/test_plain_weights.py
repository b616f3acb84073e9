import dataclasses
import json
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from barreleye.config import ModelConfig
from barreleye.inference.plain_weights import load_weights, read_safetensors, shapes_of
from barreleye.model.huggingface import to_huggingface
from barreleye.model.transformer import Transformer

sys.path.insert(0, str(Path(__file__).parents[1]))
import mutations
from mutated_files import mutate_safetensors

SHAPE = dict(n_layers=2, n_heads=4, d_model=32, d_ff=80, context_length=24, vocab_size=61)
LLAMA = dict(positions="rope", norm="rmsnorm", activation="swiglu", bias=False)
KINDS = {
    "gpt2": {},
    "gpt2-untied": dict(tie_embeddings=False, activation="relu2"),
    "llama": LLAMA,
    "llama-grouped-untied": LLAMA | dict(n_kv_heads=2, tie_embeddings=False),
    "llama-biased-wide-heads": LLAMA | dict(bias=True, head_dim=12),
    "qwen3": LLAMA | dict(qk_norm=True, n_kv_heads=2, head_dim=16),
    "own": dict(qk_norm=True, positions="none"),
    "own-attention-only": dict(d_ff=0, positions="sinusoidal"),
}


def write(file, dtype=torch.float32, **knobs):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**(SHAPE | knobs)))
    weights = {name: tensor.detach().normal_().to(dtype) for name, tensor in model.state_dict().items()}
    save_file(to_huggingface(weights, model.config), file)
    return model.config, weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("knobs", KINDS.values(), ids=KINDS)
def test_a_run_s_weights_come_back_under_their_own_names(tmp_path, knobs, dtype):
    config, weights = write(tmp_path / "m.safetensors", dtype, **knobs)
    read = load_weights(tmp_path / "m.safetensors", config)
    assert read.keys() == {name for name in weights if not (name == "unembed.weight" and config.tie_embeddings)}
    for name, array in read.items():
        assert array.dtype == np.float32 and array.flags["C_CONTIGUOUS"]
        assert np.array_equal(array, weights[name].float().numpy()), name


def test_shapes_are_those_of_the_transformer():
    for knobs in KINDS.values():
        config = ModelConfig(**(SHAPE | knobs))
        theirs = {name: tuple(p.shape) for name, p in Transformer(config).named_parameters()}
        assert shapes_of(config) == theirs


def test_other_weights_than_the_configuration_says(tmp_path):
    config, _ = write(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"the weights lack 'blocks\.2\.ln1\.weight'"):
        load_weights(tmp_path / "m.safetensors", dataclasses.replace(config, n_layers=3))
    with pytest.raises(ValueError, match=r"'embed.weight' has shape \(61, 32\), not \(62, 32\)"):
        load_weights(tmp_path / "m.safetensors", dataclasses.replace(config, vocab_size=62))


def tensor(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def packed(header, data=b"\0" * 16):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


HOSTILE = {
    "empty": (b"", "is not a whole safetensors file"),
    "seven bytes": (b"\0" * 7, "is not a whole safetensors file"),
    "a header of 10 GB": ((10 * 2**30).to_bytes(8, "little") + b"{}", "a header of 10,737,418,240 bytes in 10"),
    "a header of 2^64": (b"\xff" * 8 + b"{}", "a header of 18,446,744,073,709,551,615 bytes"),
    "not UTF-8": (packed(b"\xff\xfe"), "is not a whole safetensors file"),
    "not JSON": (packed(b"{'a': 1}"), "is not a whole safetensors file"),
    "deep": (packed(b"[" * 200_000), "is not a whole safetensors file"),
    "a list": (packed(b"[]"), "its header is no table"),
    "a tensor that is a number": (packed({"a": 1}), "'a' lacks a dtype, a shape or offsets"),
    "an unknown type": (packed({"a": tensor(0, 16, dtype="I64")}), "'a' is of type 'I64'"),
    "negative": (packed({"a": tensor(0, 16, (-2, -2))}), "'a' has no shape that could be"),
    "true for one": (packed({"a": tensor(0, 16, (True, 4))}), "'a' has no shape that could be"),
    "a billion to the eighth": (
        packed({"a": tensor(0, 16, [10**9] * 8)}),
        "does not lie in the file as its shape says",
    ),
    "too large": (packed({"a": tensor(0, 16, (2**48,))}), "'a' has no shape that could be"),
    "nine dimensions": (packed({"a": tensor(0, 16, [1] * 8 + [4])}), "'a' has no shape that could be"),
    "beyond the end": (packed({"a": tensor(8, 24, (4,))}), "does not lie in the file"),
    "backwards": (packed({"a": tensor(8, 0)}), "does not lie in the file"),
    "overlapping": (packed({"a": tensor(0, 12, (3,)), "b": tensor(8, 16)}), "'b' does not begin where"),
    "a hole": (packed({"a": tensor(0, 4, (1,)), "b": tensor(8, 16)}), "'b' does not begin where"),
    "bytes of nobody": (packed({"a": tensor(0, 8)}), "some of its bytes belong to no tensor"),
    "twice": (packed(b'{"a": 1, "a": 2}'), "a name stands there twice"),
    "a number of 5,000 digits": (packed(b'{"a": ' + b"9" * 5000 + b"}"), "is not a whole safetensors file"),
}


@pytest.mark.parametrize(("data", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_one_line(tmp_path, data, says):
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        read_safetensors(file)
    assert says in str(caught.value) and str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


def test_nothing_is_taken_for_a_header_that_lies(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(packed({"a": tensor(0, 4 * 10**11, (10**11,))}))
    os.truncate(file, 2**36)  # sparse: 64 GiB that take no room
    tracemalloc.start()
    with pytest.raises(ValueError, match="does not lie in the file"):
        read_safetensors(file)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_header_of_a_billion_tensors_is_refused_by_its_length(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes((60 * 10**9).to_bytes(8, "little"))
    os.truncate(file, 2**37)
    with pytest.raises(ValueError, match="a header of 60,000,000,000 bytes"):
        read_safetensors(file)


@pytest.mark.parametrize("knobs", [KINDS["gpt2"], KINDS["llama-biased-wide-heads"]], ids=["gpt2", "llama"])
@pytest.mark.parametrize("mutate", [mutations.mutate_bytes, mutate_safetensors])
def test_mutated_files(tmp_path, knobs, mutate):
    file = tmp_path / "model.safetensors"
    config, _ = write(file, **knobs)

    def parse(file):
        read_safetensors(file)
        return file

    def judge(file):
        weights = load_weights(file, config)
        assert {name: array.shape for name, array in weights.items()} == shapes_of(config)
        assert all(array.dtype == np.float32 and array.flags["C_CONTIGUOUS"] for array in weights.values())

    judge(parse(file))
    counted = mutations.read_mutated(file.read_bytes(), file, parse, judge, mutate)
    assert counted.parsed < mutations.N
    assert mutate is mutations.mutate_bytes or mutations.N * 0.3 < counted.parsed > 2 * counted.read > 0
