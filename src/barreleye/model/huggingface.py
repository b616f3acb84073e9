"""Our names and configuration, and those of `GPT2LMHeadModel`, `LlamaForCausalLM` and `Qwen3ForCausalLM`: both ways.

Every weight goes through `to_huggingface` and `from_huggingface`, so that the folder a run saves is a model folder
that other tools load with no code of ours. A variant that no class of theirs computes keeps its own names.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from barreleye.config import ModelConfig, Sampling
from barreleye.data.chat_template import IM_END, IM_START
from barreleye.data.tokenizer import Tokenizer

GPT2_ACTIVATIONS = {"gelu": "gelu_new", "gelu_erf": "gelu", "relu": "relu", "relu2": "relu2"}


def architecture(config: ModelConfig) -> str:
    """`gpt2`, `llama`, `qwen3` (Llama with normalized queries and keys), or `barreleye` where none of them computes
    what this configuration asks for."""
    if obstacles(config):
        return "barreleye"
    if config.positions == "learned":
        return "gpt2"
    return "qwen3" if config.qk_norm else "llama"


def obstacles(config: ModelConfig) -> list[str]:
    """The knobs that keep a model from being one of theirs, as `norm = 'rmsnorm'`; none where it is."""
    if config.positions == "rope":
        fitting: dict[str, list[object]] = {
            "norm": ["rmsnorm"],
            "activation": ["swiglu"],
            "bias": [False] if config.qk_norm else [False, True],
        }
    else:
        fitting = {
            "positions": ["learned"],
            "norm": ["layernorm"],
            "activation": list(GPT2_ACTIVATIONS),
            "bias": [True],
            "n_kv_heads": [0, config.n_heads],
            "head_dim": [0, config.d_model / config.n_heads],
            "qk_norm": [False],
        }
    found = [
        f"{knob} = {getattr(config, knob)!r}" for knob, values in fitting.items() if getattr(config, knob) not in values
    ]
    return found + (["d_ff = 0"] if config.d_ff == 0 else [])


def check_expressible(config: ModelConfig) -> None:
    """Raises ValueError for a model that is none of theirs."""
    if found := obstacles(config):
        raise ValueError(
            f"no model of Hugging Face's computes {', '.join(found)}, so this export is not available; "
            "the presets fish and modern are of kinds that it has"
        )


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
    match kind := architecture(config):
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
                "layer_norm_epsilon": config.norm_eps,
                "resid_pdrop": config.dropout,
                "embd_pdrop": config.dropout,
                "attn_pdrop": config.dropout,
            }
        case "llama" | "qwen3":
            return shared | {
                "architectures": [f"{kind.title()}ForCausalLM"],
                "model_type": kind,
                "hidden_size": config.d_model,
                "num_hidden_layers": config.n_layers,
                "num_attention_heads": config.n_heads,
                "num_key_value_heads": config.kv_heads,
                "head_dim": config.d_head,
                "intermediate_size": config.d_ff,
                "max_position_embeddings": config.context_length,
                "hidden_act": "silu",
                "rms_norm_eps": config.norm_eps,
                "rope_theta": config.rope_theta,  # where transformers 4 looks
                "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},  # where 5 looks
                "attention_bias": config.bias,
                "mlp_bias": config.bias,
                "attention_dropout": config.dropout,
            }
    return shared | {"model_type": "barreleye"}


def last_token(tokenizer: Tokenizer) -> str | None:
    """What ends a reply, or a text; None for a tokenizer of text that has nothing for it."""
    return IM_END if tokenizer.chat else tokenizer.decode(sorted(tokenizer.end_ids)[:1]) or None


def small_files(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, dict[str, Any] | bytes]:
    """All of a model folder but weights, tokenizer.json and card: file name -> JSON object, or text as bytes."""
    last = last_token(tokenizer)
    end = {"eos_token": last, "pad_token": last} if last else {}
    ids = {f"{name}_id": tokenizer.id_of(token) for name, token in end.items()}
    sampling = Sampling()
    files: dict[str, dict[str, Any] | bytes] = {
        "config.json": huggingface_config(
            config, tokenizer.id_of(IM_START) if tokenizer.chat else None, ids.get("eos_token_id")
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
    }
    return files | ({"chat_template.jinja": tokenizer.chat.template.encode()} if tokenizer.chat else {})


def to_huggingface(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Rename, split and transpose our weights into those of the Hugging Face class of the same architecture."""
    kind = architecture(config)
    theirs: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name == "unembed.weight" and config.tie_embeddings:
            continue
        layer, part = layer_and_part(name)
        if kind in ("llama", "qwen3") and part.startswith("attn.qkv."):
            for piece, rows in zip("qkv", tensor.split(_qkv_rows(config)), strict=True):
                theirs[_llama_projection(layer, piece, part)] = rows.contiguous()
        elif kind == "gpt2":
            # GPT-2's Conv1D keeps (in, out) where a linear layer keeps (out, in).
            conv1d = part in GPT2_PARTS and tensor.ndim == 2
            theirs[gpt2_name(layer, part)] = (tensor.T if conv1d else tensor).contiguous()
        else:
            theirs[name if kind == "barreleye" else _llama_name(layer, part)] = tensor.contiguous()
    return theirs


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Their name -> shape of every tensor that a model of this configuration has; takes little memory."""
    # The mapping over placeholders tells where each of our tensors goes.
    with torch.device("meta"):
        placeholders = to_huggingface({name: torch.empty(shape) for name, shape in our_shapes(config).items()}, config)
    return {name: tuple(tensor.shape) for name, tensor in placeholders.items()}


@lru_cache(1)  # it takes as long as reading the weights, and a timeline asks twenty times
def our_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    from barreleye.model.transformer import skeleton

    return {name: tuple(tensor.shape) for name, tensor in skeleton(config).state_dict().items()}


def from_huggingface(theirs: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The inverse of `to_huggingface`. Raises ValueError for a tensor that is missing or has another shape."""
    check_shapes({name: tuple(tensor.shape) for name, tensor in theirs.items()}, config)
    kind = architecture(config)
    ours: dict[str, Tensor] = {}
    for name in our_shapes(config):
        if name == "unembed.weight" and config.tie_embeddings:
            continue
        layer, part = layer_and_part(name)
        if kind in ("llama", "qwen3") and part.startswith("attn.qkv."):
            ours[name] = torch.cat([theirs[_llama_projection(layer, piece, part)] for piece in "qkv"])
        elif kind == "gpt2":
            tensor = theirs[gpt2_name(layer, part)]
            ours[name] = tensor.T.contiguous() if part in GPT2_PARTS and tensor.ndim == 2 else tensor
        else:
            ours[name] = theirs[name if kind == "barreleye" else _llama_name(layer, part)]
    if config.tie_embeddings:
        ours["unembed.weight"] = ours["embed.weight"]
    return ours


def check_shapes(there: dict[str, tuple[int, ...]], config: ModelConfig) -> None:
    """Raises ValueError for a tensor that is missing or has another shape than the configuration says."""
    for name, shape in expected_shapes(config).items():
        if name not in there:
            raise ValueError(f"the weights lack {name!r}, which this configuration needs")
        if there[name] != shape:
            raise ValueError(f"{name!r} has shape {there[name]}, not {shape}")


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
    "attn.q_norm.weight": "self_attn.q_norm.weight",
    "attn.k_norm.weight": "self_attn.k_norm.weight",
} | {
    f"{ours}.{kind}": f"{theirs}.{kind}"
    for ours, theirs in {
        "attn.out": "self_attn.o_proj",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    }.items()
    for kind in ("weight", "bias")
}


def layer_and_part(name: str) -> tuple[str, str]:
    """`blocks.3.attn.out.weight` -> (`3`, `attn.out.weight`); a name outside the blocks has no layer."""
    if not name.startswith("blocks."):
        return "", name
    _, layer, part = name.split(".", 2)
    return layer, part


def gpt2_name(layer: str, part: str) -> str:
    return f"transformer.h.{layer}.{GPT2_PARTS[part]}" if layer else GPT2_TOP[part]


def _llama_name(layer: str, part: str) -> str:
    return f"model.layers.{layer}.{LLAMA_PARTS[part]}" if layer else LLAMA_TOP[part]


def _llama_projection(layer: str, piece: str, part: str) -> str:
    """Theirs keep queries, keys and values apart: (`3`, `q`, `attn.qkv.bias`) -> ...`q_proj.bias`."""
    return f"model.layers.{layer}.self_attn.{piece}_proj.{part.rpartition('.')[2]}"


def _qkv_rows(config: ModelConfig) -> list[int]:
    return [heads * config.d_head for heads in (config.n_heads, config.kv_heads, config.kv_heads)]
