"""Small models and checkpoints of other houses, made by their own programs, filled at random."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

WORDS = ["hello fish, the water is warm", "what do you eat?", "i eat 12 snails", "blub " * 5, "user\nassistant\n"]
SHAPE: dict[str, Any] = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
    max_position_embeddings=40,
)  # fmt: skip


def rope(theta: float) -> dict[str, Any]:
    """Where either version of transformers looks."""
    if transformers.__version__ < "5":
        return dict(rope_theta=theta)
    return dict(rope_parameters=dict(rope_type="default", rope_theta=theta))


SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": dict(model_type="gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=40),
    "gpt2-narrow-erf": dict(
        model_type="gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=40, n_inner=24, activation_function="gelu",
        layer_norm_epsilon=1e-3, tie_word_embeddings=False,
    ),
    "llama": dict(model_type="llama", rms_norm_eps=1e-6) | SHAPE,
    "llama-biased": dict(model_type="llama", attention_bias=True, tie_word_embeddings=True) | SHAPE,
    "llama-mlp-biased-wide": dict(model_type="llama", mlp_bias=True, head_dim=12) | SHAPE,
    "llama-3-theta": dict(model_type="llama") | rope(5e5) | SHAPE,
    "mistral": dict(model_type="mistral", sliding_window=None) | SHAPE,
    "mistral-window": dict(model_type="mistral", sliding_window=40, head_dim=16) | SHAPE,
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True) | SHAPE,
    "qwen3": dict(model_type="qwen3", head_dim=16) | rope(1e6) | SHAPE,
}  # fmt: skip


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter at random, gains and biases too: nothing may be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


def tokenizer(special: tuple[str, ...] = ("<|endoftext|>",), all_bytes: bool = True, first: bool = False) -> Tokenizer:
    """Byte-level BPE, learned by the library; `first`: special tokens come before the bytes, as GuppyLM's do."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if all_bytes else []
    trainer = trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=alphabet, show_progress=False, special_tokens=list(special) if first else []
    )
    made.train_from_iterator(WORDS, trainer)
    if not first:
        made.add_special_tokens([AddedToken(token, special=True) for token in special])
    return made


def save_model(folder: Path, name: str, spare_rows: int = 0, template: str = "", **how: Any) -> Any:
    """A model of SHAPES, saved by transformers with a tokenizer beside it."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>") if template else ("<|endoftext|>",)
    words = tokenizer(special)
    knobs = dict(SHAPES[name])
    config = transformers.AutoConfig.for_model(
        knobs.pop("model_type"), **knobs, vocab_size=words.get_vocab_size() + spare_rows
    )
    dtype = how.pop("dtype", torch.float32)
    model = fill(transformers.AutoModelForCausalLM.from_config(config)).to(dtype)
    model.save_pretrained(folder, **how)
    words.save(str(folder / "tokenizer.json"))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    # Read anew, not turned back: the tables of rotary positions were rounded too, and are not in the file.
    return model if dtype == torch.float32 else type(model).from_pretrained(folder, dtype=torch.float32).eval()


# GuppyLM and nanoGPT, by their equations ---------------------------------------------------------------------------


def decoder(weights: dict[str, Tensor], at: dict[str, str], heads: int, activation: Any, tokens_T: Tensor) -> Tensor:
    """A pre-norm transformer in plain functions: the logits that either house's own code would give.

    at: our short name -> the name in `weights`, with {i} for the layer.
    """

    def linear(x: Tensor, name: str, i: int) -> Tensor:
        key = at[name].format(i=i)
        return nn.functional.linear(x, weights[f"{key}.weight"], weights.get(f"{key}.bias"))

    def norm(x: Tensor, name: str, i: int = 0) -> Tensor:
        key = at[name].format(i=i)
        return nn.functional.layer_norm(x, x.shape[-1:], weights[f"{key}.weight"], weights.get(f"{key}.bias"), 1e-5)

    n = len(tokens_T)
    x = weights[at["embed"] + ".weight"][tokens_T] + weights[at["positions"] + ".weight"][:n]
    width = x.shape[-1]
    later = torch.ones(n, n, dtype=torch.bool).triu(1)
    for i in range(LAYERS):
        q, k, v = linear(norm(x, "ln1", i), "qkv", i).split(width, -1)
        q, k, v = (t.view(n, heads, width // heads).transpose(0, 1) for t in (q, k, v))
        scores = (q @ k.transpose(1, 2) / (width // heads) ** 0.5).masked_fill(later, -torch.inf)
        x = x + linear((scores.softmax(-1) @ v).transpose(0, 1).reshape(n, width), "out", i)
        x = x + linear(activation(linear(norm(x, "ln2", i), "up", i)), "down", i)
    return norm(x, "final") @ weights[at["embed"] + ".weight"].T


LAYERS = 2
NANOGPT = dict(
    embed="transformer.wte", positions="transformer.wpe", final="transformer.ln_f", ln1="transformer.h.{i}.ln_1",
    ln2="transformer.h.{i}.ln_2", qkv="transformer.h.{i}.attn.c_attn", out="transformer.h.{i}.attn.c_proj",
    up="transformer.h.{i}.mlp.c_fc", down="transformer.h.{i}.mlp.c_proj",
)  # fmt: skip
GUPPY = dict(
    embed="tok_emb", positions="pos_emb", final="norm", ln1="blocks.{i}.norm1", ln2="blocks.{i}.norm2",
    qkv="blocks.{i}.attn.qkv", out="blocks.{i}.attn.out", up="blocks.{i}.ffn.up", down="blocks.{i}.ffn.down",
)  # fmt: skip


def ancestor_weights(
    at: dict[str, str], vocab: int, context: int, width: int = 32, d_ff: int = 128, bias: bool = True
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed": (vocab, width), "positions": (context, width)}
    shapes |= dict.fromkeys(("final", "ln1", "ln2"), (width,))
    shapes |= {"qkv": (3 * width, width), "out": (width, width), "up": (d_ff, width), "down": (width, d_ff)}
    weights = {}
    for name, shape in shapes.items():
        for i in range(LAYERS if "{i}" in at[name] else 1):
            key = at[name].format(i=i)
            weights[f"{key}.weight"] = 0.3 * torch.randn(shape, generator=generator)
            if bias and name not in ("embed", "positions"):
                weights[f"{key}.bias"] = 0.3 * torch.randn(shape[0], generator=generator)
    return weights | {"lm_head.weight": weights[at["embed"] + ".weight"]}


def save_nanogpt(folder: Path, vocab: int, bias: bool = True, compiled: bool = False, **more: Any) -> dict[str, Tensor]:
    """As nanoGPT's train.py writes it."""
    weights = ancestor_weights(NANOGPT, vocab, 24, bias=bias)
    prefix = "_orig_mod." if compiled else ""
    args = dict(n_layer=2, n_head=4, n_embd=32, block_size=24, bias=bias, vocab_size=vocab, dropout=0.1)
    torch.save(
        {
            "model": {prefix + name: tensor for name, tensor in weights.items()},
            "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
            "model_args": args,
            "iter_num": 3,
            "best_val_loss": torch.tensor(1.5),
            "config": {"dataset": "tiny", "compile": compiled},
        }
        | more,
        folder / "ckpt.pt",
    )
    return weights


def save_guppy(folder: Path, layout: str) -> dict[str, Tensor]:
    """`hub`: as it is published; `training`: as its training leaves it, the tokenizer elsewhere."""
    words = tokenizer(("<pad>", "<|im_start|>", "<|im_end|>"), all_bytes=False, first=True)
    vocab = words.get_vocab_size()
    weights = ancestor_weights(GUPPY, vocab, 32, d_ff=64)
    config = dict(vocab_size=vocab, max_seq_len=32, d_model=32, n_layers=2, n_heads=4, ffn_hidden=64, dropout=0.1)
    if layout == "hub":
        torch.save(weights, folder / "pytorch_model.bin")
        named = dict(
            model_type="guppylm", vocab_size=vocab, max_position_embeddings=32, hidden_size=32, num_hidden_layers=2,
            num_attention_heads=4, intermediate_size=64, hidden_dropout_prob=0.1, pad_token_id=0,
        )  # fmt: skip
        (folder / "config.json").write_text(json.dumps(named))
        words.save(str(folder / "tokenizer.json"))
    else:
        (folder / "data").mkdir()
        (folder / "checkpoints").mkdir()
        words.save(str(folder / "data" / "tokenizer.json"))
        held = {"step": 9, "model_state_dict": weights, "config": config, "eval_loss": 1.5}
        torch.save(held, folder / "checkpoints" / "best_model.pt")
        (folder / "checkpoints" / "config.json").write_text(json.dumps({"model": config, "train": {"lr": 1}}))
    return weights


# What is no file ---------------------------------------------------------------------------------------------------


def never_ends(file: Path, kind: str) -> None:
    """What can be read for ever, or what nobody writes to."""
    if kind == "/dev/zero" and Path(kind).exists():
        file.symlink_to(kind)
    elif kind == "a pipe" and hasattr(os, "mkfifo"):
        os.mkfifo(file)
    else:
        pytest.skip("there is no such thing here")
