"""A run as llama.cpp and Ollama read it: one GGUF file with weights, tokenizer and chat template, and a Modelfile.

llama.cpp's graphs fix what a model is: its `gpt2` is GPT-2 (GELU, biases, learned positions), its `llama` is Llama
(RoPE, RMSNorm, SwiGLU), its `qwen3` is Llama with normalized queries and keys. `llama` turns neighbouring channels of
queries and keys, where ours and `qwen3` turn channel i with i + D/2: their rows are put in its order. Its words are cut
by rules that it knows by name, and ours are GPT-2's.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from barreleye.config import ModelConfig, Sampling
from barreleye.data.bpe import BYTE_LETTERS, LETTER_OF_BYTE
from barreleye.data.chat_template import IM_END, IM_START, ChatFormat
from barreleye.data.pre_tokenizer import house_of
from barreleye.data.tokenizer import Tokenizer
from barreleye.export.folder import whole_folder
from barreleye.export.own_text import least_likely
from barreleye.files import write_file
from barreleye.model.huggingface import architecture, last_token, obstacles
from barreleye.model.transformer import Transformer
from barreleye.run import Run

KINDS = ("f32", "f16", "q8_0")
BLOCK = 32  # weights that share a scale in q8_0
TOP = {"embed": "token_embd", "positions": "position_embd", "ln_final": "output_norm", "unembed": "output"}
PARTS = {"ln1": "attn_norm", "attn.qkv": "attn_qkv", "attn.out": "attn_output", "ln2": "ffn_norm"}
PARTS |= {"attn.q_norm": "attn_q_norm", "attn.k_norm": "attn_k_norm"}
PARTS |= {"mlp.up": "ffn_up", "mlp.gate": "ffn_gate", "mlp.down": "ffn_down"}
# No text in UTF-8 has this byte: a merge for the file of a tokenizer that has none, as llama.cpp wants one.
NEVER = " ".join(2 * [BYTE_LETTERS[-1]])


def export_gguf(run: Run, out: Path, quantize: str = "f16") -> list[Path]:
    """Write `<name>-<quantize>.gguf` and a Modelfile into the new folder `out`; returns both.

    Matrices are stored as `quantize` says, norms, biases and positions in float32. Raises ValueError, by name, for
    what llama.cpp cannot express."""
    import gguf

    if quantize not in KINDS:
        raise ValueError(f"--quantize cannot be {quantize!r}; choose one of: {', '.join(KINDS)}")
    config, tokenizer = run.config.model, run.tokenizer
    refuse(config, quantize)
    vocabulary = vocabulary_of(tokenizer)
    model = run.load_model()
    last = last_token(tokenizer)
    end = tokenizer.id_of(last) if last else least_likely(model)
    with whole_folder(out) as folder:
        file = folder / f"{run.name}-{quantize}.gguf"
        writer = gguf.GGUFWriter(file, architecture(config))
        write_knobs(writer, config)
        writer.add_name(run.name)
        write_tokenizer(writer, tokenizer, vocabulary, end)
        write_weights(writer, model, quantize)
        write_file(folder / "Modelfile", modelfile(file.name, config, tokenizer.chat).encode())
    return [out / file.name, out / "Modelfile"]


def refuse(config: ModelConfig, quantize: str) -> None:
    """Raises ValueError for what llama.cpp's graphs of GPT-2, Llama and Qwen 3 do not compute."""
    if found := obstacles(config):
        raise ValueError(
            f"llama.cpp computes what GPT-2, Llama and Qwen 3 do, not {', '.join(found)}; "
            "`barreleye export RUN onnx` or `plain` takes it"
        )
    if architecture(config) == "gpt2" and config.activation != "gelu":
        raise ValueError(f"llama.cpp's GPT-2 has the activation gelu, not {config.activation}")
    widths = {"d_model": config.d_model, "d_ff": config.d_ff, "n_heads x head_dim": config.n_heads * config.d_head}
    for knob, width in widths.items():
        if quantize == "q8_0" and width % BLOCK:
            raise ValueError(f"q8_0 stores {BLOCK} weights at a time; {knob} {width} is no multiple")


def write_knobs(writer: Any, config: ModelConfig) -> None:
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    if architecture(config) == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
    else:
        writer.add_head_count_kv(config.kv_heads)
        writer.add_layer_norm_rms_eps(config.norm_eps)
        writer.add_rope_dimension_count(config.d_head)
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_key_length(config.d_head)
        writer.add_value_length(config.d_head)
        writer.add_vocab_size(config.vocab_size)


def write_weights(writer: Any, model: Transformer, quantize: str) -> None:
    """All tensors, and the end of the file."""
    import gguf

    matrices = gguf.GGMLQuantizationType[quantize.upper()]
    for name, tensor in to_gguf(model.state_dict(), model.config).items():
        is_matrix = tensor.ndim == 2 and name != "position_embd.weight"
        kind = matrices if is_matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def to_gguf(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our weights under llama.cpp's names, in its order of rows."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name == "unembed.weight" and config.tie_embeddings:
            continue
        module, _, leaf = name.rpartition(".")
        if module in TOP:
            theirs[f"{TOP[module]}.{leaf}"] = tensor
            continue
        _, layer, part = module.split(".", 2)
        if part == "attn.qkv" and architecture(config) != "gpt2":
            rows = [heads * config.d_head for heads in (config.n_heads, config.kv_heads, config.kv_heads)]
            q, k, v = tensor.split(rows)
            if architecture(config) == "llama":
                q, k = neighbours(q, config), neighbours(k, config)
            for piece, matrix in (("q", q), ("k", k), ("v", v)):
                theirs[f"blk.{layer}.attn_{piece}.{leaf}"] = matrix.contiguous()
        else:
            theirs[f"blk.{layer}.{PARTS[part]}.{leaf}"] = tensor
    return theirs


def neighbours(matrix: Tensor, config: ModelConfig) -> Tensor:
    """Rows (of a bias: numbers) i and i + D/2 of each head, which rotate together, put side by side."""
    return matrix.view(-1, 2, config.d_head // 2, *matrix.shape[1:]).transpose(1, 2).reshape(matrix.shape)


# The tokenizer -----------------------------------------------------------------------------------------------------


def vocabulary_of(tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """Every token, in byte letters but for the special ones, and the merges, each as two tokens with a space between.

    A tokenizer by characters is byte-level BPE whose merges make each character of its bytes: what begins a character
    in UTF-8 never stands within one, so that no merge spans two. Raises ValueError where words are cut another way."""
    letters = ["".join(LETTER_OF_BYTE[b] for b in tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    spelled = [tokenizer.decode([i]) if i in tokenizer.special_ids else token for i, token in enumerate(letters)]
    if tokenizer.kind == "characters":
        merges = [
            f"{t[:n]} {t[n]}" for i, t in enumerate(letters) if i not in tokenizer.special_ids for n in range(1, len(t))
        ]
        return spelled, list(dict.fromkeys(merges)) or [NEVER]
    table = json.loads(tokenizer.to_json())
    if house_of(table["pre_tokenizer"]) != "GPT-2" or not all(token["special"] for token in table["added_tokens"]):
        raise ValueError("its words are cut in another way than GPT-2's, which is the one that is written into GGUF")
    for named, there in (("normalizer", table["normalizer"]), ("ignore_merges", table["model"].get("ignore_merges"))):
        if there:
            raise ValueError(f"its tokenizer has what GGUF cannot say beside GPT-2's way to cut words: {named}")
    return spelled, [m if isinstance(m, str) else " ".join(m) for m in table["model"]["merges"]] or [NEVER]


def write_tokenizer(writer: Any, tokenizer: Tokenizer, vocabulary: tuple[list[str], list[str]], end: int) -> None:
    import gguf

    tokens, merges = vocabulary
    kinds = [
        gguf.TokenType.CONTROL if i in tokenizer.special_ids else gguf.TokenType.NORMAL for i in range(len(tokens))
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    # Where none is named, llama.cpp takes token 11 for both.
    writer.add_eos_token_id(end)
    writer.add_bos_token_id(tokenizer.id_of(IM_START) if tokenizer.chat else end)
    if tokenizer.chat:
        writer.add_eot_token_id(end)
        writer.add_pad_token_id(end)
        writer.add_chat_template(tokenizer.chat.template)


def modelfile(file: str, config: ModelConfig, chat: ChatFormat | None) -> str:
    """For `ollama create`. Its own defaults (a top-k of 40, a repetition penalty) are set to ours."""
    sampling = Sampling()
    parameters = {
        "num_ctx": config.context_length,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repeat_penalty": sampling.repetition_penalty,
    }
    lines = [f"FROM ./{file}"]
    if chat:
        turn = f"{IM_START}{{{{ .Role }}}}\n{{{{ .Content }}}}{IM_END}\n"
        lines.append(f'TEMPLATE """{{{{ range .Messages }}}}{turn}{{{{ end }}}}{IM_START}assistant\n"""')
        lines += [f'SYSTEM """{chat.system}"""'] if chat.system else []
    else:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    lines += [f'PARAMETER stop "{token}"' for token in (IM_END, IM_START) if chat]
    return "\n".join(lines) + "\n"
