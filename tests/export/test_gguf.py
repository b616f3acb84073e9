"""What is written is read back with the gguf package; what llama.cpp makes of it, test_check.py asks llama.cpp."""

import gguf
import numpy as np
import pytest

from barreleye.config import ModelConfig
from barreleye.data.chat_template import CHAT_TEMPLATE, IM_END, IM_START
from barreleye.data.tokenizer import learn_characters
from barreleye.export.gguf import BLOCK, export_gguf, refuse, to_gguf, vocabulary_of
from barreleye.export.own_text import own_text
from barreleye.model.transformer import Transformer


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    kinds = [("vanilla", "f32"), ("vanilla", "q8_0"), ("modern", "f32"), ("modern", "f16"), ("letters", "f16")]
    return {(run, kind): export_gguf(runs[run], folder / f"{run}-{kind}", kind) for run, kind in kinds}


def fields(file):
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def tensors(file):
    return {
        t.name: (gguf.quants.dequantize(t.data, t.tensor_type), t.tensor_type.name)
        for t in gguf.GGUFReader(file).tensors
    }


def test_a_vanilla_model_is_llama_cpp_s_gpt2(runs, written):
    found = fields(written["vanilla", "f32"][0])
    assert found["general.architecture"] == "gpt2" and found["general.name"] == "vanilla"
    expected = {"context_length": 64, "embedding_length": 32, "block_count": 2, "feed_forward_length": 96}
    expected |= {"attention.head_count": 4, "attention.layer_norm_epsilon": pytest.approx(1e-5)}
    assert {name: found[f"gpt2.{name}"] for name in expected} == expected
    weights, theirs = runs["vanilla"].load_model().state_dict(), tensors(written["vanilla", "f32"][0])
    assert "output.weight" not in theirs and len(theirs) == len(weights) - 1  # the head is the embedding
    for ours, name in (("embed.weight", "token_embd.weight"), ("blocks.1.attn.qkv.bias", "blk.1.attn_qkv.bias")):
        assert np.array_equal(weights[ours].numpy(), theirs[name][0])


def test_a_modern_model_is_llama_cpp_s_llama(runs, written):
    found = fields(written["modern", "f32"][0])
    assert found["general.architecture"] == "llama" and found["llama.attention.head_count_kv"] == 2
    assert found["llama.rope.dimension_count"] == 8 and found["llama.rope.freq_base"] == 10_000
    q_rows = runs["modern"].load_model().state_dict()["blocks.0.attn.qkv.weight"][:32].numpy()
    theirs = tensors(written["modern", "f32"][0])["blk.0.attn_q.weight"][0]
    # Of the head of eight channels that begins at row 8: channel i of ours turns with i + 4, theirs with the next one.
    assert np.array_equal(theirs[8:16], q_rows[[8, 12, 9, 13, 10, 14, 11, 15]])
    assert np.array_equal(np.sort(theirs, 0), np.sort(q_rows, 0))


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 1e-3), ("q8_0", 1e-2)])
def test_matrices_are_rounded_and_the_rest_is_not(runs, written, kind, tolerance):
    run = {"f16": "modern", "q8_0": "vanilla"}[kind]
    weights = to_gguf(runs[run].load_model().state_dict(), runs[run].config.model)
    for name, (array, stored) in tensors(written[run, kind][0]).items():
        is_matrix = array.ndim == 2 and name != "position_embd.weight"
        assert stored == (kind.upper() if is_matrix else "F32")
        assert np.abs(array - weights[name].numpy()).max() <= (tolerance * np.abs(array).max() if is_matrix else 0)


def test_the_tokenizer_of_chats(runs, written):
    found, tokenizer = fields(written["vanilla", "f32"][0]), runs["vanilla"].tokenizer
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert found["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.ggml.eos_token_id"] == found["tokenizer.ggml.eot_token_id"] == tokenizer.id_of(IM_END)
    tokens, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert [tokens[i] for i, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL] == [IM_START, IM_END]
    assert len(tokens) == len(set(tokens)) == tokenizer.vocab_size
    assert len(found["tokenizer.ggml.merges"]) == tokenizer.vocab_size - 258


def test_a_text_ends_at_the_least_likely_token_and_never_at_token_11(runs, written):
    found, model = fields(written["letters", "f16"][0]), runs["letters"].load_model()
    end = found["tokenizer.ggml.eos_token_id"]
    assert "tokenizer.chat_template" not in found
    _, logits_BTV = own_text(model, 8)
    share_V = logits_BTV.softmax(-1).mean((0, 1))
    assert share_V[end] == share_V.min()


def test_characters_are_merged_of_their_bytes():
    spelled, merges = vocabulary_of(learn_characters("aé日🐟b"))
    assert spelled[:2] == ["a", "b"] and len(spelled) == 5
    assert len(merges) == 1 + 2 + 3  # of two, three and four bytes
    made = {merge.replace(" ", "") for merge in merges}
    assert set(spelled[2:]) <= made
    assert vocabulary_of(learn_characters("ab"))[1] == ["ÿ ÿ"]  # a byte that UTF-8 has not


def test_the_modelfile(written, runs):
    for (run, kind), (file, modelfile) in written.items():
        text = modelfile.read_text()
        assert text.startswith(f"FROM ./{run}-{kind}.gguf\n") and file.name in text
        assert ('PARAMETER stop "<|im_end|>"' in text) == (run != "letters") == ("{{ range .Messages }}" in text)
        assert "PARAMETER num_ctx 64\n" in text and "PARAMETER top_k 0\n" in text and "repeat_penalty 1.0" in text


MODERN = dict(positions="rope", norm="rmsnorm", activation="swiglu", bias=False)


@pytest.mark.parametrize(
    ("knobs", "kind", "says"),
    [
        (dict(activation="relu"), "f32", "llama.cpp's GPT-2 has the activation gelu, not relu"),
        (dict(activation="relu2"), "f16", "not relu2"),
        (dict(activation="gelu_erf"), "f32", "not gelu_erf"),
        (dict(qk_norm=True), "f32", "not qk_norm = True"),
        (dict(positions="sinusoidal"), "f32", "not positions = 'sinusoidal'"),
        (dict(d_ff=0), "f32", "not d_ff = 0"),
        (dict(bias=False), "f32", "not bias = False"),
        (MODERN | dict(bias=True, qk_norm=True), "f32", "not bias = True"),
        (MODERN | dict(head_dim=24, n_heads=1), "q8_0", "n_heads x head_dim 24 is no multiple"),
        (dict(d_model=48, d_ff=96, n_heads=4), "q8_0", "d_model 48 is no multiple"),
        (dict(d_ff=100), "q8_0", "d_ff 100 is no multiple"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(knobs, kind, says):
    with pytest.raises(ValueError, match=says):
        refuse(ModelConfig(**(dict(d_model=64, d_ff=128, n_heads=4, vocab_size=10) | knobs)), kind)


def test_what_is_refused_leaves_nothing_behind(runs, tmp_path):
    for name, kind in (("own", "f32"), ("vanilla", "q4")):
        with pytest.raises(ValueError):
            export_gguf(runs[name], tmp_path / "out", kind)
    assert not list(tmp_path.iterdir())


def test_every_tensor_of_either_architecture_has_a_name():
    shape = dict(n_layers=1, n_heads=2, d_model=BLOCK, d_ff=BLOCK, context_length=8, vocab_size=7, tie_embeddings=False)
    for knobs in ({}, MODERN | dict(n_kv_heads=1), MODERN | dict(bias=True), MODERN | dict(qk_norm=True)):
        model = Transformer(ModelConfig(**(shape | knobs)))
        theirs = to_gguf(model.state_dict(), model.config)
        assert sum(t.numel() for t in theirs.values()) == sum(p.numel() for p in model.parameters())
        assert "output.weight" in theirs
