"""Talk to a model with nothing but Python and NumPy: `python chat.py`, in a folder that `barreleye export RUN plain`
wrote.

chat.py is this page; plain.py is the model and the sampler, weights.py reads model.safetensors, tokenizer.py reads
tokenizer.json.
"""

import argparse
import codecs
import json
import math
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from barreleye.inference.plain import Plain
from barreleye.inference.plain_text import PlainTokenizer
from barreleye.inference.plain_weights import load_weights

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
LONGEST_REPLY = 128
ENDED_BY_PIPE = 128 + 13  # what a shell reports of a program that wrote to a closed pipe
SAMPLING = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "top_k": (0, math.inf),
    "repetition_penalty": (0.01, 100),
}
MOST = {
    "n_layers": 1000,
    "n_heads": 1000,
    "n_kv_heads": 1000,
    "d_model": 100_000,
    "head_dim": 10_000,
    "d_ff": 1_000_000,
}
MOST |= {"context_length": 1_000_000, "vocab_size": 10_000_000}
LEAST_0 = ("n_kv_heads", "head_dim", "d_ff")
OTHERS = {"positions": str, "norm": str, "activation": str, "tie_embeddings": bool, "qk_norm": bool, "bias": bool}
OTHERS |= dict.fromkeys(("init_std", "embed_std", "rope_theta", "norm_eps"), float)


def main() -> None:
    folder = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Talk to the model in this folder.")
    parser.add_argument("--prompt", action="append", help="answer this and leave (repeat it for a conversation)")
    parser.add_argument("--system", default="", help="a system turn to begin with")
    parser.add_argument("--max-tokens", type=int, default=LONGEST_REPLY, help="how many tokens to write at most")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 takes the likeliest token")
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--top-k", type=int, default=0, help="0: all")
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int, help="of the draw (default: another each time)")
    arguments = parser.parse_args()
    try:
        check_sampling(arguments)
        for piece in talk(*load(folder), arguments):
            print(piece, end="", flush=True)
    except ValueError as error:
        fail(str(error))
    except MemoryError:
        fail("not enough memory for this model")
    except BrokenPipeError:
        # What standard output refuses now is not tried again at exit, where it would be a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ENDED_BY_PIPE)
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message: str) -> None:
    print(f"chat.py: {message}", file=sys.stderr)
    sys.exit(2)


def check_sampling(arguments: Any) -> None:
    """Raises ValueError for an option that nothing could be drawn by."""
    for name, (least, most) in SAMPLING.items():
        option, value = f"--{name.replace('_', '-')}", getattr(arguments, name)
        if not value >= least:  # which a nan is not either
            raise ValueError(f"{option} must be at least {least}, not {value}")
        if not value <= most:
            raise ValueError(f"{option} must be at most {most}, not {value}")


def load(folder: Path) -> tuple[Plain, PlainTokenizer]:
    """The model and the tokenizer of a folder. Raises ValueError for one that is damaged."""
    config = read_config(folder / "config.json")
    tokenizer = PlainTokenizer(folder / "tokenizer.json")
    if len(tokenizer.bytes_of) != config.vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer.bytes_of)} tokens, the model {config.vocab_size}")
    return Plain(load_weights(folder / "model.safetensors", config), config), tokenizer


def read_config(file: Path) -> Any:
    """The model's knobs. Raises ValueError for one that is missing, or is not a number that could be."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is not JSON ({error})") from None
    if not isinstance(table, dict):
        raise ValueError(f"{file}: is no table of knobs")
    for name, most in MOST.items():
        if type(table.get(name)) is not int or not (name not in LEAST_0) <= table[name] <= most:
            raise ValueError(f"{file}: {name} must be a whole number of at most {most}")
    table.setdefault("chat", None)
    for name, kind in OTHERS.items():
        if type(table.get(name)) is not kind:
            raise ValueError(f"{file}: {name} must be a {kind.__name__}")
    config = SimpleNamespace(**table)
    kv_heads, d_head = config.n_kv_heads or config.n_heads, config.head_dim or config.d_model // config.n_heads
    if (config.d_model % config.n_heads and not config.head_dim) or config.n_heads % kv_heads:
        raise ValueError(f"{file}: n_heads must divide d_model, and n_kv_heads n_heads")
    if config.positions == "rope" and d_head % 2:
        raise ValueError(f"{file}: rope turns pairs of channels: those per head must be even")
    if not (1 <= config.rope_theta <= 1e12 and 0 <= config.norm_eps <= 1):
        raise ValueError(f"{file}: rope_theta must be 1 to 1e12, norm_eps 0 to 1")
    match config.chat:
        case None | {"tidy": bool(), "system": str()}:
            return config
    raise ValueError(f"{file}: chat must be null, or say tidy (true or false) and system (a text)")


def talk(model: Plain, tokenizer: PlainTokenizer, arguments: Any) -> Iterator[str]:
    """The answers to what a person says, or how a text goes on, piece by piece."""
    chats = model.config.chat
    if chats and not {IM_START, IM_END} <= tokenizer.special.keys():
        raise ValueError("the tokenizer lacks the tokens of a chat")
    turns: list[tuple[str, str]] = []
    for said in arguments.prompt or ask_person():
        if chats:
            turns.append(("user", said.lower() if chats["tidy"] else said))
            turns, ids = fit(tokenizer, turns, arguments.system or chats["system"], model.config)
        else:
            yield said
            ids = tokenizer.encode(said)
        if not ids:
            raise ValueError("say something")
        decoder, reply = codecs.getincrementaldecoder("utf-8")("replace"), ""
        room, stop = (
            model.config.context_length,
            {tokenizer.special[IM_START], tokenizer.special[IM_END]} if chats else set(),
        )
        most = min(arguments.max_tokens, max(1, room // 2), room - len(ids)) if chats else arguments.max_tokens
        for token in generate(model, ids, most, arguments, stop):
            piece = decoder.decode(tokenizer.bytes_of[token])
            reply += piece
            yield piece
        yield decoder.decode(b"", final=True) + "\n"
        turns.append(("assistant", reply))


def fit(
    tokenizer: PlainTokenizer, turns: list[tuple[str, str]], system: str, config: Any
) -> tuple[list[tuple[str, str]], list[int]]:
    """The latest whole exchanges that leave room for a reply, and their ids in ChatML."""
    im_start, im_end = tokenizer.special[IM_START], tokenizer.special[IM_END]
    newline, room = tokenizer.encode("\n"), config.context_length
    longest = min(LONGEST_REPLY, max(1, room // 2))
    while True:
        ids = []
        for role, content in [("system", system)] * bool(system) + turns:
            # Where whitespace stays, a word may span the role's line and what is said.
            pieces = [role + "\n", content.strip()] if config.chat["tidy"] else [role + "\n" + content]
            ids += [im_start, *(i for piece in pieces for i in tokenizer.encode(piece)), im_end, *newline]
        ids += [im_start, *tokenizer.encode("assistant\n")]
        if len(ids) <= room - longest:
            return turns, ids
        if len(turns) == 1:
            if len(ids) >= room:
                raise ValueError(f"that is {len(ids)} tokens, and the model sees {room} at a time; say it shorter")
            return turns, ids
        turns = turns[2:]  # the oldest exchange: what was asked and what was answered go together


def generate(model: Plain, prompt: list[int], most: int, sampling: Any, stop: set[int]) -> Iterator[int]:
    """At most `most` token ids that continue `prompt`, until one of `stop`. When the context is full, its later half is
    read anew."""
    numbers, context = random.Random(sampling.seed), model.config.context_length
    stream, tokens = model.stream(), list(prompt)
    stream.start(tokens[-context:])
    for _ in range(most):
        seen = tokens if sampling.repetition_penalty != 1 else []
        token = stream.draw(sampling, seen, numbers.random())
        if token in stop:
            return
        yield token
        tokens.append(token)
        if stream.room:
            stream.read(token)
        else:
            stream.start(tokens[-max(1, context // 2) :])


def ask_person() -> Iterator[str]:
    """Lines typed by a person, until an empty one or the end of file."""
    if sys.stdin is None or sys.stdout is None:
        raise ValueError("standard input or output is closed; give --prompt TEXT")
    print("say something (an empty line or Ctrl-D leaves)")
    while True:
        try:
            said = input("> ")
        except EOFError:
            return
        if not said.strip():
            return
        yield said


if __name__ == "__main__":
    main()
