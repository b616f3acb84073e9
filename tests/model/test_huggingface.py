import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from barreleye.config import PRESETS, ModelConfig
from barreleye.model.huggingface import architecture, from_huggingface, huggingface_config, to_huggingface
from barreleye.model.transformer import Transformer

SHAPE: dict[str, Any] = dict(n_layers=2, n_heads=4, d_model=32, d_ff=80, context_length=40, vocab_size=61)
LLAMA: dict[str, Any] = dict(positions="rope", norm="rmsnorm", activation="swiglu", bias=False)
EXPRESSIBLE = {
    "gpt2": ("gpt2", {}),
    "gpt2-relu": ("gpt2", dict(activation="relu")),
    "gpt2-relu2": ("gpt2", dict(activation="relu2")),
    "gpt2-untied": ("gpt2", dict(tie_embeddings=False)),
    "gpt2-all-heads-named": ("gpt2", dict(n_kv_heads=4, dropout=0.1)),
    "llama": ("llama", LLAMA),
    "llama-grouped": ("llama", LLAMA | dict(n_kv_heads=2)),
    "gpt2-exact-gelu": ("gpt2", dict(activation="gelu_erf", norm_eps=1e-3)),
    "llama-biased": ("llama", LLAMA | dict(bias=True, n_kv_heads=2, norm_eps=1e-6)),
    "llama-wide-heads": ("llama", LLAMA | dict(head_dim=12, n_kv_heads=2, rope_theta=500_000.0)),
    "qwen3": ("qwen3", LLAMA | dict(qk_norm=True, head_dim=16, n_kv_heads=2, rope_theta=1e6, norm_eps=1e-6)),
    "llama-one-kv-head-untied": ("llama", LLAMA | dict(n_kv_heads=1, tie_embeddings=False)),
}
OURS_ALONE = [
    dict(qk_norm=True),
    dict(head_dim=12),
    dict(d_ff=0),
    dict(positions="sinusoidal"),
    dict(positions="none", norm="rmsnorm"),
    dict(n_kv_heads=2),
    dict(bias=False),
    dict(activation="swiglu"),
    LLAMA | dict(activation="gelu"),
    LLAMA | dict(bias=True, qk_norm=True),
    LLAMA | dict(d_ff=0),
]
EXPRESSED = pytest.mark.parametrize(("kind", "knobs"), EXPRESSIBLE.values(), ids=EXPRESSIBLE)
EVERYTHING = pytest.mark.parametrize("knobs", [knobs for _, knobs in EXPRESSIBLE.values()] + OURS_ALONE, ids=str)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def configure(knobs: dict[str, Any]) -> ModelConfig:
    return ModelConfig(**(SHAPE | knobs))


def build(knobs: dict[str, Any]) -> Transformer:
    """Every parameter at random, gains and biases too: nothing may be left out by the mapping unseen."""
    generator = torch.Generator().manual_seed(0)
    model = Transformer(configure(knobs)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model


def export(folder: Path, model: Transformer) -> None:
    (folder / "config.json").write_text(json.dumps(huggingface_config(model.config, bos=1, eos=1)))
    save_file(to_huggingface(model.state_dict(), model.config), folder / "model.safetensors", {"format": "pt"})


def assert_same_logits(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


@EXPRESSED
@torch.no_grad()
def test_the_logits_are_those_of_hugging_face(tmp_path: Path, kind: str, knobs: dict[str, Any]) -> None:
    model = build(knobs)
    assert architecture(model.config) == kind
    export(tmp_path, model)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    expected = {
        "gpt2": transformers.GPT2LMHeadModel,
        "llama": transformers.LlamaForCausalLM,
        "qwen3": transformers.Qwen3ForCausalLM,
    }[kind]
    assert type(theirs) is expected
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in model.parameters())
    tokens = torch.randint(61, (2, 40), generator=torch.Generator().manual_seed(1))
    assert_same_logits(model(tokens), theirs.eval()(tokens).logits)


@EXPRESSED
@torch.no_grad()
def test_what_hugging_face_saves_we_read(tmp_path: Path, kind: str, knobs: dict[str, Any]) -> None:
    """A model of theirs, freshly made and filled, gives the same logits in ours."""
    config = configure(knobs)
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**huggingface_config(config, bos=1, eos=1))
    ).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0, 0.3)
    model = Transformer(config).eval()
    model.load_state_dict(from_huggingface(dict(theirs.state_dict()), config))
    tokens = torch.arange(40).view(1, 40)
    assert_same_logits(model(tokens), theirs(tokens).logits)


@EVERYTHING
def test_there_and_back_is_the_identity(knobs: dict[str, Any]) -> None:
    model = build(knobs)
    weights = model.state_dict()
    theirs = to_huggingface(weights, model.config)
    assert all(tensor.is_contiguous() for tensor in theirs.values())
    back = from_huggingface(theirs, model.config)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize("knobs", OURS_ALONE, ids=str)
def test_what_neither_can_express_keeps_its_own_names(knobs: dict[str, Any]) -> None:
    model = build(knobs)
    assert architecture(model.config) == "barreleye"
    assert huggingface_config(model.config)["model_type"] == "barreleye"
    assert set(to_huggingface(model.state_dict(), model.config)) == set(dict(model.named_parameters()))


@EVERYTHING
def test_weights_that_lack_or_misshape_a_tensor_are_refused(knobs: dict[str, Any]) -> None:
    model = build(knobs)
    theirs = to_huggingface(model.state_dict(), model.config)
    for name, tensor in list(theirs.items())[::6]:
        with pytest.raises(ValueError, match=f"the weights lack '{name}'"):
            from_huggingface({other: t for other, t in theirs.items() if other != name}, model.config)
        with pytest.raises(ValueError, match=f"'{name}' has shape"):
            from_huggingface(theirs | {name: tensor[:-1]}, model.config)


def test_the_presets_can_be_carried_away() -> None:
    kinds = {name: architecture(preset.model) for name, preset in PRESETS.items()}
    assert set(kinds.values()) == {"gpt2", "llama"}
    assert kinds["fish"] == kinds["gpt2"] == "gpt2" and kinds["modern"] == kinds["stories15m"] == "llama"
