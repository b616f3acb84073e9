"""Each file that an import reads, damaged many times: read, or refused with one line, in little time and room.

`make stress` takes 10,000 of each. What is damaged, and the rule that readers keep: mutations.py."""

import json
import random
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from barreleye.config import ModelConfig
from barreleye.data.chat_template import CHAT_TEMPLATE, recognize
from barreleye.data.tokenizer import Tokenizer, learn_characters, parse
from barreleye.export.ancestors import guppy, is_nanogpt, nanogpt, read_checkpoint
from barreleye.export.from_huggingface import Weights, model_config, read_json
from barreleye.export.importing import load_tokenizer
from barreleye.files import tensor_shapes
from barreleye.model.huggingface import our_shapes

sys.path.insert(0, str(Path(__file__).parent))
from foreign import GUPPY, ancestor_weights, save_guppy, save_model, save_nanogpt, tokenizer
from mutated_checkpoints import mutate_held, mutate_pickle

sys.path.insert(0, str(Path(__file__).parents[1]))
import mutations
from mutated_files import mutate_safetensors, mutate_tokenizer
from mutations import mutate_bytes, mutate_json


class Reader(NamedTuple):
    """`make` writes whole files, and returns the one that is to be damaged. `parse` finds out whether it is a file of
    its kind, and `judge` looks at what stands in it: of no less than this share of the files, and it takes some."""

    make: Callable[[Path], Path]
    mutate: Callable[[bytes, random.Random], bytes]
    parse: Callable[[Path], Any]
    judge: Callable[[Any], object]
    share: float = 0.0


# What they read ----------------------------------------------------------------------------------------------------


def a_folder(name: str, file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save_model(folder, name, template=CHAT_TEMPLATE, max_shard_size="20KB" if "index" in file else "1GB")
        return folder / file

    return make


def a_text(text: str, name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return make


def a_template_inside(folder: Path) -> Path:
    """As before transformers 4.43."""
    words = a_folder("gpt2", "tokenizer.json")(folder)
    (folder / "chat_template.jinja").unlink()
    settings = dict(
        chat_template=CHAT_TEMPLATE, eos_token="<|im_end|>", added_tokens_decoder={"281": {"special": True}}
    )
    words.with_name("tokenizer_config.json").write_text(json.dumps(settings))
    return words.with_name("tokenizer_config.json")


def a_nanogpt(folder: Path) -> Path:
    save_nanogpt(folder, 15)
    return folder / "ckpt.pt"


def a_guppy(folder: Path) -> Path:
    save_guppy(folder, "training")
    return folder / "checkpoints" / "best_model.pt"


def a_guppy_config(folder: Path) -> Path:
    save_guppy(folder, "hub")
    return folder / "config.json"


# How they read it --------------------------------------------------------------------------------------------------


def judge_folder(folder: Path) -> None:
    """All of a model folder but its tokenizer."""
    config, absent = model_config(read_json(folder / "config.json"))
    weights = Weights(folder)
    weights.check(config, absent)
    check_weights(config, weights.read(config, absent, config))


def judge_ancestor(held: dict[str, Any], beside: dict[str, Any] | None = None) -> None:
    check_weights(*nanogpt(held) if is_nanogpt(held) and beside is None else guppy(held, beside))


def check_weights(config: ModelConfig, weights: dict[str, torch.Tensor]) -> None:
    """What was not refused is what the model takes."""
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == our_shapes(config)
    for name, tensor in weights.items():
        kind = (type(tensor), tensor.dtype, tensor.layout, tensor.device.type, tensor.requires_grad)
        assert kind == (torch.Tensor, torch.float32, torch.strided, "cpu", False), (name, kind)


def judge_tokenizer(read: Tokenizer) -> None:
    """Text comes back, and is never a special token, even where it looks like one."""
    special = [read.token_bytes(i).decode() for i in read.special_ids]
    for text in ("hello fish, the water is warm", "12 snails\n\n ?", "é🐟\x00", "".join(special), *special):
        try:
            ids = read.encode(text)
        except ValueError as error:  # a character that it has not seen
            mutations.check_refusal(error)
            continue
        assert not read.special_ids & set(ids), f"a special token is made of {text!r}"
        assert read.decode(ids) == text, f"it is not what comes back of {text!r}"


def parse_tokenizer(file: Path) -> Tokenizer:
    return parse(file.read_text(encoding="utf-8"))


def parse_settings(file: Path) -> Tokenizer:
    return load_tokenizer(file.parent, file.parent, lambda line: None)


def parse_shapes(file: Path) -> Path:
    tensor_shapes(file)
    return file.parent


def parse_json(file: Path) -> Path:
    read_json(file)
    return file.parent


def parse_text(file: Path) -> str:
    return file.read_bytes().decode("utf-8", "replace")


def judge_guppy_config(beside: dict[str, Any]) -> None:
    judge_ancestor(guppy_weights(), beside)


@cache
def guppy_weights() -> dict[str, torch.Tensor]:
    return ancestor_weights(GUPPY, GUPPY_TOKENIZER.get_vocab_size(), 32, d_ff=64)


GUPPY_TOKENIZER = tokenizer(("<pad>", "<|im_start|>", "<|im_end|>"), all_bytes=False, first=True)
GUPPY_JSON = GUPPY_TOKENIZER.to_str()
CHARACTERS = learn_characters("the fish swims.\n", ["<|a|>"]).to_json()
READERS = {
    # A folder of Hugging Face's.
    "tensors": Reader(a_folder("qwen2", "model.safetensors"), mutate_bytes, parse_shapes, judge_folder),
    "llama": Reader(a_folder("llama", "model.safetensors"), mutate_safetensors, parse_shapes, judge_folder, 0.4),
    "gpt2": Reader(
        a_folder("gpt2-narrow-erf", "model.safetensors"), mutate_safetensors, parse_shapes, judge_folder, 0.4
    ),
    "index": Reader(a_folder("gpt2", "model.safetensors.index.json"), mutate_json, parse_json, judge_folder, 0.7),
    "config": Reader(a_folder("mistral-window", "config.json"), mutate_bytes, read_json, model_config),
    "config-llama": Reader(a_folder("llama-3-theta", "config.json"), mutate_json, read_json, model_config, 0.7),
    "config-qwen3": Reader(a_folder("qwen3", "config.json"), mutate_json, read_json, model_config, 0.7),
    "config-gpt2": Reader(a_folder("gpt2", "config.json"), mutate_json, read_json, model_config, 0.7),
    "config-beside-weights": Reader(a_folder("qwen2", "config.json"), mutate_json, parse_json, judge_folder, 0.7),
    "settings": Reader(a_template_inside, mutate_json, parse_settings, judge_tokenizer, 0.7),
    "template": Reader(a_text(CHAT_TEMPLATE, "chat_template.jinja"), mutate_bytes, parse_text, recognize, 1.0),
    # tokenizer.json, of which little is looked at by anybody but the library.
    "tokenizer": Reader(a_folder("gpt2", "tokenizer.json"), mutate_bytes, parse_tokenizer, judge_tokenizer),
    "bpe": Reader(a_folder("gpt2", "tokenizer.json"), mutate_tokenizer, parse_tokenizer, judge_tokenizer, 0.08),
    "bpe-of-few-bytes": Reader(
        a_text(GUPPY_JSON, "tokenizer.json"), mutate_tokenizer, parse_tokenizer, judge_tokenizer, 0.08
    ),
    "characters": Reader(
        a_text(CHARACTERS, "tokenizer.json"), mutate_tokenizer, parse_tokenizer, judge_tokenizer, 0.08
    ),
    # Checkpoints. The sums of a zip find nearly each changed byte, so that only those of the others reach ancestors.py.
    "nanogpt": Reader(a_nanogpt, mutate_bytes, read_checkpoint, judge_ancestor),
    "nanogpt-pickle": Reader(a_nanogpt, mutate_pickle, read_checkpoint, judge_ancestor, 0.15),
    "nanogpt-held": Reader(a_nanogpt, mutate_held, read_checkpoint, judge_ancestor, 0.5),
    "guppy-held": Reader(a_guppy, mutate_held, read_checkpoint, judge_ancestor, 0.5),
    "guppy-config": Reader(a_guppy_config, mutate_json, read_json, judge_guppy_config, 0.7),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path, reader: Reader) -> None:
    file = reader.make(tmp_path)
    reader.judge(reader.parse(file))
    counted = mutations.read_mutated(file.read_bytes(), file, reader.parse, reader.judge, reader.mutate)
    assert counted.parsed >= reader.share * mutations.N and counted.read >= bool(reader.share), counted
