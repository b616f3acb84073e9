"""The parity table, from the programs themselves."""

import dataclasses
import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest

from barreleye.cli import main
from barreleye.export import check as module
from barreleye.export.check import Asked, ask, check, compare, exports, figures, some_strings
from barreleye.export.gguf import export_gguf
from barreleye.export.own_text import own_text
from barreleye.export.peers import NOT_INSTALLED
from barreleye.export.plain import export_plain

WITH_LLAMA = importlib.util.find_spec("llama_cpp") is not None
GGUF, ONNX = ("gguf f32", "gguf f16", "gguf q8_0"), ("onnx", "onnx int8")
# Of logits, as a share of the largest. llama.cpp looks GELU up in a table of float16.
FARTHEST = {
    "huggingface": 1e-5,
    "plain": 1e-5,
    "onnx": 1e-5,
    "gguf f32": 3e-3,
    "gguf f16": 1e-2,
    "gguf q8_0": 0.1,
    "onnx int8": 0.2,
}


def without_onnx(run, folder):
    yield from (one for one in exports(run, folder) if one[1] != "onnxruntime")


@pytest.fixture(scope="module", params=["vanilla", "modern", "letters"])
def table(request, runs, onnx_folder):
    """Tracing a graph takes ten seconds: once for each run, and not where ONNX Runtime is asked nothing new."""
    run = runs[request.param]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "export_onnx", lambda run, out, int8: [shutil.copytree(onnx_folder(run.name), out)])
        if request.param == "letters":
            patched.setattr(module, "exports", without_onnx)
        yield run, {row.format: row for row in check(run)}


def test_every_program_computes_what_the_run_does(table):
    run, rows = table
    assert [*rows] == ["huggingface", "plain", *GGUF, *(ONNX if run.name != "letters" else ())]
    largest = np.abs(ask(run).logits_BTV).max()
    for name, row in rows.items():
        if row.program == "llama.cpp" and not WITH_LLAMA:
            assert row.problem == "not installed here; pip install 'barreleye[peers]'"
            continue
        assert not row.problem
        assert row.difference <= FARTHEST[name] * largest, name
        assert row.compared >= 500
        assert row.agreement == 1 if name in ("huggingface", "plain", "onnx", "gguf f32") else row.agreement > 0.9, name
        assert row.same_ids == (None if name in ONNX else 1), name
        assert row.size > 10_000 and row.load_seconds > 0 and row.tokens_per_second > 1
    if run.name != "letters":
        assert rows["onnx int8"].difference > rows["onnx"].difference


@pytest.mark.skipif(not WITH_LLAMA, reason="llama-cpp-python is not installed: make test-peers")
@pytest.mark.parametrize("name", ["vanilla", "modern", "letters"])
def test_llama_cpp_says_the_same_along_100_prompts(runs, tmp_path, name):
    tokens_BT, logits_BTV = own_text(runs[name].load_model(), 100, 32)
    strings = some_strings(runs[name].tokenizer, tokens_BT.tolist())
    asked = Asked(tokens_BT.numpy(), logits_BTV.numpy(), strings, runs[name].tokenizer.encode_batch(strings))
    row = compare("gguf f32", "llama.cpp", export_gguf(runs[name], tmp_path / "gguf", "f32")[0], asked, tmp_path)
    assert (row.problem, row.agreement, row.same_ids) == ("", 1, 1) and row.compared == module.COMPARED


def test_what_is_asked(runs):
    asked = ask(runs["vanilla"])
    assert asked.tokens_BT.size >= module.COMPARED and len(asked.strings) == module.STRINGS
    assert all(asked.strings) and len(set(asked.strings)) > 900
    special = {"<|im_start|>", "<|im_end|>"}
    assert any(token in text for text in asked.strings for token in special)
    assert not runs["vanilla"].tokenizer.special_ids & {i for ids in asked.ids for i in ids}


def test_a_program_that_says_something_else_is_seen(runs):
    asked = ask(runs["vanilla"])
    answer = dict(
        logits_BTV=asked.logits_BTV, ids=np.concatenate(asked.ids), lengths=np.array([len(row) for row in asked.ids]),
        load_seconds=0.1, tokens_per_second=9.0,
    )  # fmt: skip
    same = figures(asked, answer)
    assert (same["difference"], same["agreement"], same["same_ids"]) == (0, 1, 1)
    other = figures(asked, answer | dict(logits_BTV=-asked.logits_BTV, ids=answer["ids"] + 1))
    assert other["difference"] > 0.1 and other["agreement"] < 0.5 and other["same_ids"] == 0
    near = Asked(asked.tokens_BT, np.zeros_like(asked.logits_BTV), asked.strings, asked.ids)
    assert figures(near, answer)["compared"] == 0


def test_weights_of_another_run_are_seen(runs, tmp_path):
    folder = export_plain(runs["vanilla"], tmp_path / "plain")[0].parent
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-100_000:-50_000] = bytes(50_000)
    (folder / "model.safetensors").write_bytes(weights)
    row = compare("plain", "numpy", folder, ask(runs["vanilla"]), tmp_path)
    assert row.difference > 1e-2


def test_what_does_not_load_says_why(runs, tmp_path):
    folder = export_plain(runs["vanilla"], tmp_path / "plain")[0].parent
    (folder / "model.safetensors").write_bytes(b"")
    row = compare("plain", "numpy", folder, ask(runs["vanilla"]), tmp_path)
    assert row.problem.startswith("does not load: ValueError") and "is not a whole safetensors file" in row.problem


def test_what_cannot_be_expressed_says_so(runs, monkeypatch):
    monkeypatch.setattr(module, "exports", without_onnx)
    rows = {row.format: row for row in check(runs["own"])}
    assert not rows["plain"].problem and rows["plain"].agreement == 1
    assert all("not expressible: llama.cpp computes what GPT-2, Llama and Qwen" in rows[name].problem for name in GGUF)
    assert "not expressible: no model of Hugging Face's computes norm = 'layernorm'" in rows["huggingface"].problem


def test_a_program_that_is_not_installed_says_so(tmp_path, monkeypatch):
    from barreleye.export import peers

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert peers.main("onnxruntime", "file", "asked", "answer") == NOT_INSTALLED


def test_the_verb(runs, tmp_path, monkeypatch, capsys):
    run = tmp_path / "runs" / "fish"
    shutil.copytree(runs["vanilla"].path, run)
    monkeypatch.chdir(tmp_path)

    def plain_alone(run, folder):
        yield next(one for one in exports(run, folder) if one[0] == "plain")
        yield "gguf f32", "llama.cpp", lambda: (_ for _ in ()).throw(ValueError("it is a fish"))

    monkeypatch.setattr(module, "exports", plain_alone)

    def barreleye(*argv):
        monkeypatch.setattr(sys, "argv", ["barreleye", *argv])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capsys.readouterr()

    code, out, _ = barreleye("export", "check", "fish")
    assert code in (0, None) and "100.0% of" in out and "gguf f32, llama.cpp: not expressible: it is a fish" in out
    saved = json.loads((run / "reports" / "export.json").read_text())
    assert [row["format"] for row in saved] == ["plain", "gguf f32"] and saved[0].keys() == {
        field.name for field in dataclasses.fields(module.Parity)
    }
    code, out, _ = barreleye("export", "fish", "plain")
    assert code in (0, None) and "fish-plain/chat.py" in out and (tmp_path / "fish-plain" / "chat.py").exists()
    code, out, _ = barreleye("export", "fish", "gguf", "--quantize", "q8_0", "--out", "there")
    assert out.split() == ["there/fish-q8_0.gguf", "there/Modelfile"]
    assert barreleye("export", "fish", "plain")[0] == 2
