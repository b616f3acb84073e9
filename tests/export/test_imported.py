"""What was imported goes out again: shapes, tokenizers and chats of other houses, in llama.cpp and in NumPy."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from barreleye.data.chat_format import Message, encode_chat
from barreleye.export import check as checking
from barreleye.export.check import ask, compare
from barreleye.export.gguf import export_gguf
from barreleye.export.importing import import_model
from barreleye.export.plain import export_plain
from barreleye.inference.plain_chat import fit, load

sys.path.insert(0, str(Path(__file__).parent))
from foreign import save_guppy, save_model

WITH_LLAMA = importlib.util.find_spec("llama_cpp") is not None
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nfish<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def of(name, **how):
        Path("theirs").mkdir()
        save_guppy(Path("theirs"), "hub") if name == "guppy" else save_model(Path("theirs"), name, **how)
        return import_model("theirs", "ours")

    return of


@pytest.mark.parametrize("name", ["llama-biased", "llama-mlp-biased-wide", "llama-3-theta", "qwen3", "guppy"])
def test_other_houses_shapes_in_other_programs(imported, tmp_path, monkeypatch, name):
    monkeypatch.setattr(checking, "STRINGS", 200)
    run = imported(name)
    asked = ask(run)
    files = {"numpy": export_plain(run, tmp_path / "plain")[0].parent}
    if name == "guppy":  # whose activation is ReLU
        with pytest.raises(ValueError, match="has the activation gelu, not relu"):
            export_gguf(run, tmp_path / "gguf", "f32")
    elif WITH_LLAMA:
        files["llama.cpp"] = export_gguf(run, tmp_path / "gguf", "f32")[0]
    for program, file in files.items():
        row = compare(name, program, file, asked, tmp_path)
        assert (row.problem, row.agreement, row.same_ids) == ("", 1, 1) and row.difference < 1e-4, program


def test_a_byte_that_a_tokenizer_lacks_is_refused_by_both_readers(imported, tmp_path):
    run = imported("guppy")
    _, plain = load(export_plain(run, tmp_path / "plain")[0].parent)
    assert plain.encode("hello fish") == run.tokenizer.encode("hello fish")
    for tokenizer in (plain, run.tokenizer):
        with pytest.raises(ValueError, match="this tokenizer has not seen 'Ω'"):
            tokenizer.encode("hello Ω")


def test_a_chat_is_spelled_as_its_own_template_says(imported, tmp_path):
    run = imported("gpt2", template=QWEN2)
    model, plain = load(export_plain(run, tmp_path / "plain")[0].parent)
    assert model.config.chat == {"tidy": False, "system": "fish"}
    turns = [("user", " EAT? ")]
    kept, ids = fit(plain, turns, model.config.chat["system"], model.config)
    assert kept == turns
    assert ids == encode_chat([Message(*turn) for turn in turns], run.tokenizer, add_generation_prompt=True)[0]
    _, modelfile = export_gguf(run, tmp_path / "gguf", "f32")
    assert 'SYSTEM """fish"""' in modelfile.read_text()


def test_a_tokenizer_that_cuts_another_way_is_refused(imported, tmp_path):
    run = imported("llama")
    file = run.path / "model" / "tokenizer.json"
    parts = json.loads(file.read_text())
    parts["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, parts["pre_tokenizer"]],
    }
    file.write_text(json.dumps(parts))
    for export, says in (
        (export_gguf, "cut in another way than GPT-2's"),
        (export_plain, "not cut as GPT-2 cuts them"),
    ):
        with pytest.raises(ValueError, match=says):
            export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
