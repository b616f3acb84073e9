"""How fast the default fish speaks: one stream, 64 streams, the first token; against llama.cpp and the ancestor's way.

    python benchmarks/decode.py [RUN] [--rounds N]

Weights are random, as speed does not depend on them; sampling is at its defaults (temperature 0.7, top-p 0.9).
llama.cpp is compared where it is installed (the dependency group `bench`): the same weights, in F32 and Q8_0, called as
its C programs call it. Each round measures everything once; ratios are taken within a round, to the better of
llama.cpp's one thread and two, and the median of the rounds is told. With a run it also says how often its compiled
engines choose the readable path's greedy token.
"""

import argparse
import copy
import ctypes
import dataclasses
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import machine
import numpy as np
import torch
from plain import plain_model

from barreleye import PRESETS, Run, Sampling, Transformer
from barreleye.data.batches import IGNORE
from barreleye.export.gguf import write_knobs, write_weights
from barreleye.inference.fast import FastDecoder
from barreleye.inference.generate import Decoder, Stream, TorchStream, decode_one_token, prefill, sample
from barreleye.model.cache import KVCache
from barreleye.training.device import best_precision
from barreleye.training.material import held_out_batches

PROMPT, TOKENS, ROUNDS, STREAMS = 40, 200, 7, 64
THREADS = 2
TOGETHER, FIRST = f"{STREAMS} streams together", "first token of 60, ms"
FLOAT32, EIGHT_BITS, READABLE, ANCESTOR = (
    "compiled, float32",
    "compiled, 8 bits",
    "readable (torch, KV cache)",
    "the ancestor's way (torch, no cache)",
)
SAMPLING, GREEDY = Sampling(), Sampling(temperature=0)
NEAR_TIE, COMPARED = 1e-2, 1000
RNG = random.Random(0)


def fish() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(dataclasses.replace(PRESETS["fish"].model, vocab_size=4096)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:  # logits spread as a trained model's: top-p then keeps a few tokens, not thousands
            torch.nn.init.normal_(parameter, std=0.3 if name == "embed.weight" else 0.05)
    return model


def per_second(stream: Stream) -> float:
    """Tokens per second of one stream, sampling included."""
    stream.start([1] * PROMPT)
    began = time.perf_counter()
    for _ in range(TOKENS):
        stream.read(stream.draw(SAMPLING, [], RNG.random()))
    return TOKENS / (time.perf_counter() - began)


@torch.inference_mode()
def without_cache(model: Transformer) -> float:
    """The ancestor's way: the whole text through the whole model for each token, all logits, multinomial."""
    tokens = [1] * PROMPT
    began = time.perf_counter()
    for _ in range(TOKENS):
        logits_V = model(torch.tensor([tokens[-256:]]))[0, -1] / SAMPLING.temperature
        logits_V[logits_V < logits_V.topk(50).values[-1]] = -torch.inf
        tokens.append(int(torch.multinomial(logits_V.softmax(-1), 1)))
    return TOKENS / (time.perf_counter() - began)


@torch.inference_mode()
def side_by_side(model: Transformer) -> float:
    """Tokens per second of 64 streams that share each pass, with weights and caches in bfloat16 where that is fast."""
    dtype = torch.bfloat16 if best_precision("cpu") == "bfloat16" else torch.float32
    model, cache = copy.deepcopy(model).to(dtype), KVCache(model.config, STREAMS, dtype=dtype)
    logits_BV = prefill(model, torch.ones(STREAMS, PROMPT, dtype=torch.long), cache)
    seen_BT = torch.empty(STREAMS, 0, dtype=torch.long)
    began = time.perf_counter()
    for _ in range(TOKENS):
        logits_BV = decode_one_token(model, sample(logits_BV, SAMPLING, seen_BT, torch.rand(STREAMS)), cache)
    return STREAMS * TOKENS / (time.perf_counter() - began)


def first_token(decoder: Decoder) -> float:
    """Milliseconds from a prompt of 60 tokens to the first token of the reply."""
    prompt = list(range(60))
    began = time.perf_counter()
    stream = decoder.stream()
    stream.start(prompt)
    stream.draw(SAMPLING, [], RNG.random())
    return 1000 * (time.perf_counter() - began)


@torch.inference_mode()
def agreement(run: Run, bits: int) -> tuple[float, int]:
    """Along held-out texts of a run, after how many tokens both engines say the same, near ties left out."""
    model, said = run.load_model(), list[bool]()
    stream = FastDecoder(model, bits).stream()
    for tokens_BT, targets_BT, _ in held_out_batches(
        run.corpus().held_out, run.tokenizer, model.config.context_length
    )():
        rows = zip(tokens_BT, (targets_BT != IGNORE).sum(-1).tolist(), model(tokens_BT), strict=True)
        for tokens_T, logits_TV in ((tokens_T[:n], logits_TV[:n]) for tokens_T, n, logits_TV in rows):
            stream.start(tokens_T[:1].tolist())
            for token, logits_V in zip(tokens_T[1:].tolist(), logits_TV[1:], strict=True):
                stream.read(token)
                best, second = logits_V.topk(2).values.tolist()
                if best - second > NEAR_TIE:
                    said.append(stream.draw(GREEDY, [], 0.0) == int(logits_V.argmax()))
            if len(said) >= COMPARED:
                return statistics.mean(said), len(said)
    return statistics.mean(said), len(said)


class Llama:
    """llama.cpp with a model's weights, decoding one stream."""

    def __init__(self, model: Transformer, kind: str, threads: int, folder: Path) -> None:
        import llama_cpp

        self.lib = llama_cpp
        file = folder / f"{kind}.gguf"
        if not file.exists():
            write_gguf(model, kind, file)
        self.log = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.log, None)
        settings = llama_cpp.llama_model_default_params()
        settings.use_extra_bufts = "amx" not in machine.name()  # docs/export.md: Q8_0 crashed there
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), settings)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = 256, threads, threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        assert self.model and self.context
        self.sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for part in (
            llama_cpp.llama_sampler_init_top_p(SAMPLING.top_p, 1),
            llama_cpp.llama_sampler_init_temp(SAMPLING.temperature),
            llama_cpp.llama_sampler_init_dist(0),
        ):
            llama_cpp.llama_sampler_chain_add(self.sampler, part)

    def decode(self, tokens: list[int]) -> None:
        ids = (ctypes.c_int * len(tokens))(*tokens)
        assert self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(ids, len(tokens))) == 0

    def logits(self, vocab: int) -> np.ndarray:
        return np.ctypeslib.as_array(self.lib.llama_get_logits(self.context), (vocab,)).copy()

    def forget(self) -> None:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def per_second(self) -> float:
        self.forget()
        self.decode([1] * PROMPT)
        began = time.perf_counter()
        for _ in range(TOKENS):
            self.decode([self.lib.llama_sampler_sample(self.sampler, self.context, -1)])
        return TOKENS / (time.perf_counter() - began)


def write_gguf(model: Transformer, kind: str, file: Path) -> None:
    """With a tokenizer that is made up: only ids are used."""
    import gguf

    writer = gguf.GGUFWriter(file, "gpt2")
    write_knobs(writer, model.config)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(model.config.vocab_size)])
    writer.add_token_merges(["t 0"])
    write_weights(writer, model, kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="a finished run")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    model = fish()
    decoders = {FLOAT32: FastDecoder(model), EIGHT_BITS: FastDecoder(model, 8)}
    plain = plain_model(4096).eval()
    measured: dict[str, Callable[[], float]] = {
        **{name: lambda d=decoder: per_second(d.stream()) for name, decoder in decoders.items()},
        READABLE: lambda: per_second(TorchStream(model)),
        ANCESTOR: lambda: without_cache(plain),
        TOGETHER: lambda: side_by_side(model),
        FIRST: lambda: first_token(decoders[FLOAT32]),
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            for kind in ("F32", "Q8_0"):
                for threads in (1, THREADS):
                    llama = Llama(model, kind, threads, Path(folder))
                    measured[f"llama.cpp {kind}, {threads} threads"] = llama.per_second
        except ImportError:
            print("no comparison with llama.cpp: pip install --group bench")
        for measure in measured.values():
            measure()  # compiles, warms up
        table = {name: [] for name in measured}
        for _ in range(arguments.rounds):
            for name, measure in measured.items():
                table[name].append(measure())
    print(f"{machine.name()}, {THREADS} threads; tokens per second, median of {arguments.rounds} rounds (least, most)")
    for name, values in table.items():
        print(f"{name:40}{statistics.median(values):10,.0f}   ({min(values):,.0f}, {max(values):,.0f})")
    for kind in ("F32", "Q8_0"):
        rounds = [table[name] for name in table if name.startswith(f"llama.cpp {kind},")]
        table[f"llama.cpp {kind}"] = [max(values) for values in zip(*rounds, strict=True)]
    for ours, theirs, promised in (
        (FLOAT32, "llama.cpp F32", 1.0),
        (EIGHT_BITS, "llama.cpp Q8_0", 0.8),
        (READABLE, ANCESTOR, 8.0),
    ):
        if table[theirs]:
            ratio = statistics.median(a / b for a, b in zip(table[ours], table[theirs], strict=True))
            machine.tell(f"{ours} / {theirs}", ratio, promised)
    machine.tell(TOGETHER, statistics.median(table[TOGETHER]), 10_000, "tokens/s")
    machine.tell("first token of a prompt of 60", statistics.median(table[FIRST]), 15, "ms", at_most=True)
    if arguments.run:
        for bits, promised in ((32, 1.0), (8, 0.99)):
            share, n = agreement(Run(arguments.run), bits)
            machine.tell(f"same greedy token, {bits} bits, of {n:,}", share, promised, "")


if __name__ == "__main__":
    main()
