"""Asked of ONNX Runtime, as transformers.js asks it."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from barreleye.config import ModelConfig
from barreleye.data.chat_template import CHAT_TEMPLATE
from barreleye.export.onnx import write_onnx
from barreleye.model.transformer import Transformer

ROWS, LENGTH = 3, 40


@pytest.fixture(scope="module")
def written(onnx_folder):
    return {name: [f for f in onnx_folder(name).rglob("*") if f.is_file()] for name in ("modern", "own")}


@pytest.fixture(params=["modern", "own"])
def both(request, runs, written):
    """A run's model, and a session of its graph."""
    (file,) = [path for path in written[request.param] if path.name == "model.onnx"]
    return runs[request.param].load_model(), onnxruntime.InferenceSession(str(file))


def ask(session, tokens_BT, mask, positions, past=None):
    """Logits, and what to come back with; at first, keys and values are of length zero."""
    empty = {
        given.name: np.zeros((len(tokens_BT), given.shape[1], 0, given.shape[3]), np.float32)
        for given in session.get_inputs()
        if given.name.startswith("past")
    }
    given = {"input_ids": tokens_BT, "attention_mask": mask, "position_ids": positions}
    logits_BTV, *present = session.run(None, given | (past or empty))
    return logits_BTV, dict(zip(empty, present, strict=True))


@torch.no_grad()
def test_logits_are_those_of_torch_in_any_pieces(both):
    model, session = both
    tokens_BT = torch.randint(model.config.vocab_size, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    theirs, past, at = [], None, 0
    for n in (1, 11, 1, 27):
        mask, positions = np.ones((ROWS, at + n), np.int64), np.tile(np.arange(at, at + n), (ROWS, 1))
        logits_BTV, past = ask(session, tokens_BT[:, at : at + n].numpy(), mask, positions, past)
        theirs.append(logits_BTV)
        at += n
    np.testing.assert_allclose(np.concatenate(theirs, 1), model(tokens_BT).numpy(), atol=1e-4)


@torch.no_grad()
def test_rows_of_other_lengths_are_filled_on_the_left(both):
    model, session = both
    tokens_BT = torch.randint(model.config.vocab_size, (2, 10), generator=torch.Generator().manual_seed(1))
    mask = np.array([[1] * 10, [0] * 4 + [1] * 6])
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    logits_BTV, _ = ask(session, tokens_BT.numpy(), mask, positions)
    np.testing.assert_allclose(logits_BTV[0], model(tokens_BT[:1])[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(logits_BTV[1, 4:], model(tokens_BT[1:, 4:])[0].numpy(), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("context", [2, 3, 4])
def test_a_short_context(tmp_path, context):
    model = Transformer(ModelConfig(n_layers=1, n_heads=2, d_model=8, d_ff=8, vocab_size=9, context_length=context))
    tokens_BT = torch.randint(9, (ROWS, context), generator=torch.Generator().manual_seed(3))
    logits_BTV, past, theirs = model(tokens_BT).numpy(), None, []
    write_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for at in range(context):
        mask, positions = np.ones((ROWS, at + 1), np.int64), np.full((ROWS, 1), at)
        next_logits_BTV, past = ask(session, tokens_BT[:, at : at + 1].numpy(), mask, positions, past)
        theirs.append(next_logits_BTV)
    np.testing.assert_allclose(np.concatenate(theirs, 1), logits_BTV, atol=1e-4)


def test_a_context_of_one_token_is_refused(tmp_path):
    with pytest.raises(ValueError, match="context_length = 1: ONNX is for models that see two tokens or more"):
        write_onnx(Transformer(ModelConfig(n_layers=1, vocab_size=9, context_length=1)), tmp_path / "model.onnx")


def test_the_graph_has_the_names_that_transformers_js_gives(both):
    model, session = both
    names = [f"{layer}.{part}" for layer in range(model.config.n_layers) for part in ("key", "value")]
    given = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in names)]
    assert [i.name for i in session.get_inputs()] == given
    assert [o.name for o in session.get_outputs()] == ["logits", *(f"present.{name}" for name in names)]
    heads, d_head = model.config.kv_heads, model.config.d_head
    assert session.get_inputs()[3].shape == ["batch", heads, "past", d_head]


def test_the_folder(onnx_folder, written):
    files = {
        path.parent.name + "/" + path.name if path.parent.name == "onnx" else path.name for path in written["modern"]
    }
    small = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert files == {"onnx/model.onnx", "onnx/model_quantized.onnx"} | small
    folder = onnx_folder("modern")
    assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    assert not (onnx_folder("own") / "chat_template.jinja").exists()


def test_one_file_that_says_nothing_of_this_machine(written):
    for path in written["modern"]:
        if path.suffix == ".onnx":
            onnx.checker.check_model(path)
            assert not re.search(rb"/(home|root|tmp|usr|work)/|\.py\b", path.read_bytes())
            assert not any(t.external_data for t in onnx.load(path, load_external_data=False).graph.initializer)


@torch.no_grad()
def test_in_8_bits(runs, written):
    model, files = runs["modern"].load_model(), {path.name: path for path in written["modern"]}
    quantized = onnxruntime.InferenceSession(str(files["model_quantized.onnx"]))
    tokens_BT = torch.randint(model.config.vocab_size, (4, 64), generator=torch.Generator().manual_seed(2))
    positions = np.tile(np.arange(64), (4, 1))
    logits_BTV, _ = ask(quantized, tokens_BT.numpy(), np.ones_like(positions), positions)
    ours = model(tokens_BT).numpy()
    difference = np.abs(logits_BTV - ours).max()
    assert 0 < difference < 0.1 * np.abs(ours).max()
    graph = onnx.load(files["model_quantized.onnx"]).graph
    small = [i for i in graph.initializer if len(i.dims) == 2 and i.data_type == onnx.TensorProto.UINT8]
    assert sorted(tuple(i.dims) for i in small) == sorted(
        model.config.n_layers * [(32, 64), (32, 32), (32, 96), (32, 96)]
    )
    assert files["model_quantized.onnx"].stat().st_size < files["model.onnx"].stat().st_size
