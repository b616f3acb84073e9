"""What cannot be carried away, or brought here. No case reaches the Hub: what is wrong is seen before."""

from bad_inputs import Case, cut, each, edit, sparse, write

MODEL = "runs/text/model"
EXPORTS = [
    Case("export text", "Missing argument 'FORMAT'"),
    Case("export text ggfu", "there is no format 'ggfu'; did you mean 'gguf'?"),
    Case("export text pickle", "there is no format 'pickle'; there are: huggingface, gguf, onnx, plain"),
    Case("export nobody plain", "there is no run at 'nobody'"),
    Case("export check nobody", "there is no run at 'nobody'"),
    Case("export check text --int8", "export check writes every format and keeps none; leave out its options"),
    Case("export text gguf --int8", "--int8 is for onnx; leave it out"),
    Case("export text onnx --quantize f16", "--quantize is for gguf; leave it out"),
    Case("export text gguf --quantize q4_0", "--quantize cannot be 'q4_0'; choose one of: f32, f16, q8_0"),
    Case("export text gguf --quantize q8_0", "q8_0 stores 32 weights at a time; d_model 8 is no multiple"),
    Case("export text plain --out runs", "runs is there already; remove it, or choose another --out"),
    Case("export text plain --out text.txt", "text.txt is there already"),
    Case("export stopped gguf --quantize f64", "--quantize cannot be 'f64'"),
    Case("export text huggingface --int8", "--int8 is for onnx; leave it out"),
    Case(
        "export text huggingface",
        "no model of Hugging Face's computes qk_norm = True",
        edit("runs/text/config.toml", "qk_norm = false", "qk_norm = true"),
    ),
]
IMPORTS = [
    Case("import", "Missing argument 'source'"),
    Case(
        f"import {MODEL} --name text", "runs/text already holds a run; `--resume runs/text` goes on with it, or choose"
    ),
    Case(f"import {MODEL} --name runs/text/config.toml", "is a file; choose another --name"),
    *(
        Case(f"import {MODEL} --name '{name}'", f"--name '{name}' is no name; give one, as fish")
        for name in ("", ".", "..", "./", "runs/..")
    ),
    Case("import text.txt --name x", "text.txt: is neither a model folder nor a checkpoint (.pt, .pth, .bin)"),
    Case("import runs --name x", "runs/config.json: there is no such file; a model folder has one"),
    Case("import /no/where", "there is no such folder or file, and it is no name on the Hub"),
    Case("import ''", "'' is neither a path nor a name"),
    Case("import too/many/parts", "there is no such folder or file, and it is no name on the Hub"),
    Case(f"import {MODEL} --name x --context-length 0", "--context-length"),
    Case(f"import {MODEL} --name x --context-length 999", "the model knows 32 positions"),
    Case(f"import {MODEL} --name x --tokenizer no/such/place", "no/such/place: there is no such folder or file"),
    Case(f"import {MODEL} --name x --tokenizer runs", "runs: holds no tokenizer.json"),
    Case(f"import {MODEL} --name x --tokenizer text.txt", "text.txt/tokenizer.json: there is no such file"),
    Case(f"import {MODEL} --name x --tokenizer runs/chat/model", "tokens, the model "),
    Case(f"import {MODEL} --name x --text text.txt", "has a tokenizer of its own"),
    Case(f"import {MODEL} --name x --text text.txt --tokenizer runs", "give --tokenizer or --text, not both"),
    Case("import a.pt --name x", "a.pt: is not a whole checkpoint", write("a.pt", b"\x80\x04.")),
    Case("import a.safetensors --name x", "is neither a model folder nor a checkpoint", write("a.safetensors", b"1")),
    Case(f"import {MODEL} --name x", "is not a whole safetensors file", cut(f"{MODEL}/model.safetensors", 0.5)),
    Case(f"import {MODEL} --name x", "is larger than any model", sparse(f"{MODEL}/model.safetensors", 2**40)),
    Case(f"import {MODEL} --name x", "is not JSON", cut(f"{MODEL}/config.json", 0.5)),
    Case(f"import {MODEL} --name x", "is not JSON", write(f"{MODEL}/tokenizer_config.json", "{")),
    Case(
        f"import {MODEL} --name x", "model_type 'bert' is not supported", edit(f"{MODEL}/config.json", "gpt2", "bert")
    ),
    Case(f"import {MODEL} --name x", "has shape", edit(f"{MODEL}/config.json", '"n_inner": 16', '"n_inner": 32')),
    Case(
        "import away --name x",
        "which is not a safetensors file of this folder",
        each(
            write("away/config.json", '{"model_type": "gpt2"}'),
            write("away/model.safetensors.index.json", '{"weight_map": {"a": "../text.safetensors"}}'),
        ),
    ),
]
PUSHES = [
    Case("push text", "Missing argument 'name'"),
    Case("push nobody me/fish", "there is no run at 'nobody'"),
    Case("push text 'a b'", "a b: is no name on the Hub"),
    Case("push text ../x", "../x: is no name on the Hub"),
    Case("push text ''", "is no name on the Hub"),
]
CASES = [*EXPORTS, *IMPORTS, *PUSHES]
