"""Our names and configuration, and those of `GPT2LMHeadModel` and `LlamaForCausalLM`: both ways.

Every weight goes through `to_huggingface` and `from_huggingface`, so that the folder a run saves is a model folder
that other tools load with no code of ours. A variant that neither class can express keeps its own names.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from barreleye.config import ModelConfig, Sampling
from barreleye.data.chat_format import CHAT_TEMPLATE, IM_END, IM_START
from barreleye.data.tokenizer import Tokenizer
from barreleye.model.parts import NORM_EPS, ROPE_THETA

SMALL = 2**26  # weights: a quarter of a gigabyte
GPT2_ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "relu2": "relu2"}


def architecture(config: ModelConfig) -> str:
    """`gpt2`, `llama`, or `barreleye` where neither computes what this configuration asks for."""
    if config.qk_norm or config.d_ff == 0:
        return "barreleye"
    grouped = config.kv_heads != config.n_heads
    if (config.positions, config.norm, config.bias, grouped) == ("learned", "layernorm", True, False):
        return "gpt2" if config.activation in GPT2_ACTIVATIONS else "barreleye"
    if (config.positions, config.norm, config.activation, config.bias) == (
        "rope",
        "rmsnorm",
        "swiglu",
        False,
    ):
        return "llama"
    return "barreleye"


def huggingface_config(config: ModelConfig, bos: int | None = None, eos: int | None = None) -> dict[str, Any]:
    """The `config.json` of a model folder; `bos` and `eos` are token ids."""
    shared = {
        "vocab_size": config.vocab_size,
        "initializer_range": config.matrix_std,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "dtype": "float32",
        "torch_dtype": "float32",  # the name before transformers 5
        "use_cache": True,
    }
    match architecture(config):
        case "gpt2":
            return shared | {
                "architectures": ["GPT2LMHeadModel"],
                "model_type": "gpt2",
                "n_embd": config.d_model,
                "n_layer": config.n_layers,
                "n_head": config.n_heads,
                "n_inner": config.d_ff,
                "n_positions": config.context_length,
                "n_ctx": config.context_length,
                "activation_function": GPT2_ACTIVATIONS[config.activation],
                "layer_norm_epsilon": NORM_EPS,
                "resid_pdrop": config.dropout,
                "embd_pdrop": config.dropout,
                "attn_pdrop": config.dropout,
            }
        case "llama":
            return shared | {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "hidden_size": config.d_model,
                "num_hidden_layers": config.n_layers,
                "num_attention_heads": config.n_heads,
                "num_key_value_heads": config.kv_heads,
                "head_dim": config.d_head,
                "intermediate_size": config.d_ff,
                "max_position_embeddings": config.context_length,
                "hidden_act": "silu",
                "rms_norm_eps": NORM_EPS,
                "rope_theta": ROPE_THETA,  # where transformers 4 looks
                "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},  # where 5 looks
                "attention_bias": False,
                "mlp_bias": False,
            }
    return shared | {"model_type": "barreleye"}


def small_files(
    config: ModelConfig, tokenizer: Tokenizer, source: str, is_chat: bool
) -> dict[str, dict[str, Any] | bytes]:
    """All of a model folder but the weights and tokenizer.json: file name -> JSON object, or text as bytes."""
    end = {"eos_token": IM_END, "pad_token": IM_END} if is_chat else {}
    ids = {f"{name}_id": tokenizer.id_of(token) for name, token in end.items()}
    sampling = Sampling()
    shape = f"{config.n_layers} layers wide {config.d_model}"
    files: dict[str, dict[str, Any] | bytes] = {
        "config.json": huggingface_config(
            config, tokenizer.id_of(IM_START) if is_chat else None, ids.get("eos_token_id")
        ),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.context_length,
            "clean_up_tokenization_spaces": False,
            **end,
        },
        "generation_config.json": {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **ids,
        },
        "README.md": f"# {source}\n\nA small language model grown from scratch with Barreleye, {shape}.\n".encode(),
    }
    return files | ({"chat_template.jinja": CHAT_TEMPLATE.encode()} if is_chat else {})


def to_huggingface(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Rename, split and transpose our weights into those of the Hugging Face class of the same architecture."""
    kind = architecture(config)
    theirs: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name == "unembed.weight" and config.tie_embeddings:
            continue
        layer, part = _layer_and_part(name)
        if kind == "llama" and part == "attn.qkv.weight":
            for piece, rows in zip("qkv", tensor.split(_qkv_rows(config)), strict=True):
                theirs[f"model.layers.{layer}.self_attn.{piece}_proj.weight"] = rows.contiguous()
        elif kind == "gpt2":
            # GPT-2's Conv1D keeps (in, out) where a linear layer keeps (out, in).
            conv1d = part in GPT2_PARTS and tensor.ndim == 2
            theirs[_gpt2_name(layer, part)] = (tensor.T if conv1d else tensor).contiguous()
        else:
            theirs[_llama_name(layer, part) if kind == "llama" else name] = tensor.contiguous()
    return theirs


def from_huggingface(theirs: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The inverse of `to_huggingface`. Raises ValueError for a tensor that is missing or has another shape."""
    shapes = _shapes(config)
    # The forward mapping over placeholders tells where each of our tensors went, and in which shape.
    expected = to_huggingface({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, config)
    for name, placeholder in expected.items():
        if name not in theirs:
            raise ValueError(f"the weights lack {name!r}, which this configuration needs")
        if theirs[name].shape != placeholder.shape:
            raise ValueError(f"{name!r} has shape {tuple(theirs[name].shape)}, not {tuple(placeholder.shape)}")
    kind = architecture(config)
    ours: dict[str, Tensor] = {}
    for name in shapes:
        if name == "unembed.weight" and config.tie_embeddings:
            continue
        layer, part = _layer_and_part(name)
        if kind == "llama" and part == "attn.qkv.weight":
            ours[name] = torch.cat([theirs[f"model.layers.{layer}.self_attn.{piece}_proj.weight"] for piece in "qkv"])
        elif kind == "gpt2":
            tensor = theirs[_gpt2_name(layer, part)]
            ours[name] = tensor.T.contiguous() if part in GPT2_PARTS and tensor.ndim == 2 else tensor
        else:
            ours[name] = theirs[_llama_name(layer, part) if kind == "llama" else name]
    if config.tie_embeddings:
        ours["unembed.weight"] = ours["embed.weight"]
    return ours


@lru_cache(1)  # it takes as long as reading the weights, and a timeline asks twenty times
def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    from barreleye.model.transformer import Transformer

    # The meta device takes no memory, but sines and random numbers there make torch import its compiler, for two
    # seconds. What is small is sooner built.
    widest = max(config.vocab_size, config.context_length, config.d_ff, 3 * config.d_model)
    small = widest * config.d_model * config.n_layers < SMALL
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if small else "meta"):
        return {name: tuple(p.shape) for name, p in Transformer(config).state_dict().items()}


GPT2_TOP = {
    "embed.weight": "transformer.wte.weight",
    "positions.weight": "transformer.wpe.weight",
    "ln_final.weight": "transformer.ln_f.weight",
    "ln_final.bias": "transformer.ln_f.bias",
    "unembed.weight": "lm_head.weight",
}
GPT2_PARTS = {
    f"{ours}.{kind}": f"{theirs}.{kind}"
    for ours, theirs in {
        "ln1": "ln_1",
        "ln2": "ln_2",
        "attn.qkv": "attn.c_attn",
        "attn.out": "attn.c_proj",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }.items()
    for kind in ("weight", "bias")
}
LLAMA_TOP = {
    "embed.weight": "model.embed_tokens.weight",
    "ln_final.weight": "model.norm.weight",
    "unembed.weight": "lm_head.weight",
}
LLAMA_PARTS = {
    "ln1.weight": "input_layernorm.weight",
    "ln2.weight": "post_attention_layernorm.weight",
    "attn.out.weight": "self_attn.o_proj.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}


def _layer_and_part(name: str) -> tuple[str, str]:
    """`blocks.3.attn.out.weight` -> (`3`, `attn.out.weight`); a name outside the blocks has no layer."""
    if not name.startswith("blocks."):
        return "", name
    _, layer, part = name.split(".", 2)
    return layer, part


def _gpt2_name(layer: str, part: str) -> str:
    return f"transformer.h.{layer}.{GPT2_PARTS[part]}" if layer else GPT2_TOP[part]


def _llama_name(layer: str, part: str) -> str:
    return f"model.layers.{layer}.{LLAMA_PARTS[part]}" if layer else LLAMA_TOP[part]


def _qkv_rows(config: ModelConfig) -> list[int]:
    return [heads * config.d_head for heads in (config.n_heads, config.kv_heads, config.kv_heads)]
