import sys

import pytest
import torch

from barreleye.config import ModelConfig
from barreleye.inference.engine import make_decoder
from barreleye.inference.fast import FastDecoder
from barreleye.model import parts
from barreleye.model.transformer import Transformer

SHAPE = ModelConfig(n_layers=1, n_heads=2, d_model=16, d_ff=32, context_length=16, vocab_size=13)


def test_the_compiled_engine_is_taken_where_it_runs() -> None:
    model = Transformer(SHAPE)
    for engine, dtype in (("auto", "float32"), ("fast", "float32"), ("int8", "int8")):
        decoder, reason = make_decoder(model, engine)
        assert isinstance(decoder, FastDecoder) and not reason
        assert decoder.weights.qkv.weight_LMN.dtype == dtype
    assert make_decoder(model, "torch") == (model, "")


def test_without_numba_torch_decodes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "barreleye.inference.fast")
    monkeypatch.setitem(sys.modules, "numba", None)
    model = Transformer(SHAPE)
    decoder, reason = make_decoder(model)
    assert decoder is model and reason == "numba is not installed; pip install 'barreleye[fast]'"
    with pytest.raises(ValueError, match="the engine int8 cannot run here: numba is not installed"):
        make_decoder(model, "int8")


def test_what_is_not_compiled_is_decoded_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parts.ACTIVATIONS, "tanh", parts.Activation(torch.tanh))
    model = Transformer(ModelConfig(**(vars(SHAPE) | {"activation": "tanh"})))
    assert make_decoder(model) == (model, "the part 'tanh' is not compiled")
    with pytest.raises(ValueError, match="the engine fast cannot run here: the part 'tanh' is not compiled"):
        make_decoder(model, "fast")
    assert make_decoder(Transformer(SHAPE).to("meta"))[1] == ""  # on another device torch is no second choice


def test_damaged_compiled_code_is_no_end_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(*given: object, **named: object) -> None:
        raise EOFError

    monkeypatch.setattr("barreleye.inference.fast.FastDecoder", torn)
    model = Transformer(SHAPE)
    reason = "EOFError (if that lasts, delete the compiled code: docs/speed.md)"
    assert make_decoder(model) == (model, reason)


def test_an_engine_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="there is no engine 'gpu'; choose one of: auto, fast, int8, torch, plain"):
        make_decoder(Transformer(SHAPE), "gpu")
