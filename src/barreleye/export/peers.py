"""Other programs, asked in a process of their own what they compute with a file that we exported.

    python -P peers.py transformers|llama.cpp|onnxruntime|numpy FILE ASKED ANSWER

ASKED is an .npz with `tokens_BT` (texts to read) and `strings` (UTF-8, to tokenize), ANSWER an .npz with what the
program says: `logits_BTV`, `ids` and `lengths` (of the strings, one after another), `load_seconds`,
`tokens_per_second` (one text, token by token, on one thread) and `version`. Exit code 3: the program is not installed.

B batch, T time (position), V vocabulary."""

import ctypes
import importlib
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
NOT_INSTALLED = 3


class Peer(Protocol):
    version: str

    def start(self) -> None:
        """Forget what was read."""

    def read(self, tokens: Sequence[int]) -> Array:
        """Go on with these; the logits after each, shape (T, V)."""

    def encode(self, text: bytes) -> list[int] | None:
        """The ids of a text; None where the program reads no text."""


class Transformers:
    """A model folder as `AutoModelForCausalLM` and `AutoTokenizer` load it."""

    def __init__(self, folder: Path) -> None:
        import torch
        import transformers

        self.torch, self.version = torch, transformers.__version__
        transformers.logging.set_verbosity_error()
        here: dict[str, Any] = dict(local_files_only=True)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, **here).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **here)
        self.start()

    def start(self) -> None:
        self.past: Any = None

    def read(self, tokens: Sequence[int]) -> Array:
        with self.torch.inference_mode():
            said = self.model(self.torch.tensor([list(tokens)]), past_key_values=self.past, use_cache=True)
        self.past = said.past_key_values
        return np.asarray(said.logits[0].float())

    def encode(self, text: bytes) -> list[int]:
        """As what a person typed, in which no special token is read."""
        return list(self.tokenizer(text.decode(), add_special_tokens=False, split_special_tokens=True)["input_ids"])


class LlamaCpp:
    """llama.cpp, called as its C programs call it, with keys and values kept in float32."""

    def __init__(self, file: Path) -> None:
        import llama_cpp

        self.lib, self.version = llama_cpp, metadata.version("llama-cpp-python")
        self.log = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.log, ctypes.c_void_p(0))
        settings = llama_cpp.llama_model_default_params()
        settings.use_extra_bufts = False  # with them, q8_0 was seen to crash in one virtual machine (docs/export.md)
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), settings)
        if not self.model:
            raise ValueError("llama.cpp does not load the file")
        params = llama_cpp.llama_context_default_params()
        self.length = llama_cpp.llama_model_n_ctx_train(self.model)
        params.n_ctx = params.n_batch = params.n_ubatch = self.length
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        self.batch = llama_cpp.llama_batch_init(self.length, 0, 1)
        self.start()

    def start(self) -> None:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        self.at = 0

    def read(self, tokens: Sequence[int]) -> Array:
        self.batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = token, self.at + i, 1
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, 0
        if self.lib.llama_decode(self.context, self.batch):
            raise ValueError("llama.cpp cannot read the tokens")
        self.at += len(tokens)
        logits = self.lib.llama_get_logits(self.context)
        return np.ctypeslib.as_array(logits, (len(tokens), self.n_vocab)).copy()

    def encode(self, text: bytes) -> list[int]:
        room = len(text) + 8
        ids = (ctypes.c_int32 * room)()
        n = self.lib.llama_tokenize(self.vocabulary, text, len(text), ids, room, False, False)
        return list(ids[: max(n, 0)])


class OnnxRuntime:
    """ONNX Runtime, given keys and values as transformers.js gives them: of length zero at first."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.version = onnxruntime.__version__
        self.start()

    def start(self) -> None:
        self.at = 0
        self.past = {
            given.name: np.zeros([n if isinstance(n, int) else (1, 0)[i == 2] for i, n in enumerate(given.shape)], "f4")
            for given in self.session.get_inputs()
            if given.name.startswith("past_key_values.")
        }

    def read(self, tokens: Sequence[int]) -> Array:
        end = self.at + len(tokens)
        given = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self.at, end)[None],
        }
        logits_BTV, *present = self.session.run(None, given | self.past)
        self.past, self.at = dict(zip(self.past, present, strict=True)), end
        return np.asarray(logits_BTV[0])

    def encode(self, text: bytes) -> None:
        return None


class Numpy:
    """The exported pages themselves, imported from their folder."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        self.model, self.tokenizer = importlib.import_module("chat").load(folder)
        self.forward, self.cache = (getattr(importlib.import_module("plain"), name) for name in ("forward", "KVCache"))
        self.version = np.__version__
        if {"torch", "tokenizers", "safetensors"} & set(sys.modules):
            raise ValueError("the pages import more than NumPy")
        self.start()

    def start(self) -> None:
        self.kept = self.cache(self.model.config)

    def read(self, tokens: Sequence[int]) -> Array:
        return np.asarray(self.forward(self.model.weights, self.model.config, tokens, self.kept))

    def encode(self, text: bytes) -> list[int]:
        return list(self.tokenizer.encode(text.decode()))


PEERS: dict[str, Any] = {
    "transformers": Transformers,
    "llama.cpp": LlamaCpp,
    "onnxruntime": OnnxRuntime,
    "numpy": Numpy,
}
PACKAGES = {"transformers", "llama_cpp", "onnxruntime"}


def main(name: str, file: str, asked: str, answer: str) -> int:
    began = time.perf_counter()
    try:
        peer: Peer = PEERS[name](Path(file))
    except ImportError as error:
        if error.name not in PACKAGES:
            raise
        return NOT_INSTALLED
    load_seconds = time.perf_counter() - began
    with np.load(asked) as given:
        tokens_BT, strings = given["tokens_BT"], given["strings"].tobytes().split(b"\0")
    np.savez(answer, **answers(peer, tokens_BT, strings), load_seconds=load_seconds)
    return 0


def answers(peer: Peer, tokens_BT: Array, strings: Sequence[bytes]) -> dict[str, Any]:
    """What a program says, all but how long it took to load."""
    logits = []
    for tokens_T in tokens_BT.tolist():
        peer.start()
        # A prompt at once and the rest on top of it: both ways of reading are compared.
        half = len(tokens_T) // 2
        logits.append(np.concatenate([peer.read(part) for part in (tokens_T[:half], tokens_T[half:]) if part]))
    peer.start()
    began = time.perf_counter()
    for token in tokens_BT[0].tolist():
        peer.read([token])
    seconds = time.perf_counter() - began
    ids = [peer.encode(text) for text in strings]
    known = [row for row in ids if row is not None]
    return dict(
        logits_BTV=np.stack(logits),
        ids=np.array([i for row in known for i in row], np.int64),
        lengths=np.array([len(row) for row in known], np.int64),
        tokens_per_second=tokens_BT.shape[1] / seconds,
        version=np.array(peer.version),
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
