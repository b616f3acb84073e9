"""Who is looked at, and at which text: a run or a model with its tokenizer, and a prompt as token ids."""

import operator
import reprlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

from torch import Tensor

from barreleye.data.chat_format import Message, encode_chat
from barreleye.data.tokenizer import Tokenizer
from barreleye.model.transformer import Block, Transformer
from barreleye.run import Run

MODELS_KEPT = 3  # opened runs, so that the second look at one does not load it again


class Subject(NamedTuple):
    """A model, its tokenizer, and the system turn that a chat with it begins with."""

    model: Transformer
    tokenizer: Tokenizer
    system: str = ""


Who = Run | str | Path | tuple[Transformer, Tokenizer] | Subject
"""A run, its path or its name, or a model and its tokenizer."""

Text = str | Sequence[Message | Mapping[str, str]] | Sequence[SupportsIndex] | Tensor
"""What is read: a text, the turns of a chat (as messages, or as dictionaries of role and content), or token ids."""


def subject_of(who: Who, step: int | None = None) -> Subject:
    """The model that is meant, as last saved or as it was at `step`, one of `run.steps()`.

    Raises ValueError where there is no such run or step.
    """
    if isinstance(who, tuple) and step is None:
        return Subject(*who)
    run = run_of(who, "steps to look back at")
    return _open(run.path, step, files_of(run, step))


def saved_ns(run: Run, step: int | None) -> int:
    """When the weights were saved: a step may be learned, and so saved, again. 0 where they are not there."""
    file = run.weights_file(step)
    return file.stat().st_mtime_ns if file.exists() else 0


def files_of(run: Run, step: int | None) -> tuple[int, ...]:
    """Which files the weights of a step and the configuration are: others where they were written anew, or another run
    was put in the place of this one."""
    files = [file.stat() for file in (run.weights_file(step), run.path / "config.toml") if file.exists()]
    return tuple(number for status in files for number in (status.st_mtime_ns, status.st_ino))


def run_of(who: Who, what: str) -> Run:
    """The run that is meant. Raises ValueError for a model alone, which does not have `what` is asked of it."""
    if isinstance(who, tuple):
        raise ValueError(f"only a run has {what}, and this is a model alone; give the run")
    return who if isinstance(who, Run) else Run(who)


@lru_cache(MODELS_KEPT)
def _open(path: Path, step: int | None, files: tuple[int, ...]) -> Subject:
    """Opened once for as long as the files stay as they are."""
    run = Run(path)
    tokenizer = run.tokenizer  # first: it is the faster one to find wrong
    return Subject(run.load_model(step=step), tokenizer, next(iter(run.characters), ""))


def encode(subject: Subject, text: Text, chat: bool | None = None) -> list[int]:
    """Token ids of what is read.

    chat: a text is what a person says in a chat, and the model answers next. None: so it is where the model learned
    chats. Turns are always a chat; the model answers next unless it had the last word.
    Raises ValueError for an empty text, one that does not fit the context, or what the tokenizer cannot encode.
    """
    tokenizer, config = subject.tokenizer, subject.model.config
    if isinstance(text, str) and (tokenizer.chat is not None if chat is None else chat):
        text = [Message("user", text)] if text.strip() else ""
    turns, ids = ([], tokenizer.encode(text)) if isinstance(text, str) else _turns_or_ids(text)
    if turns:
        if subject.system and turns[0].role != "system":
            turns.insert(0, Message("system", subject.system))
        ids, _ = encode_chat(turns, tokenizer, add_generation_prompt=turns[-1].role != "assistant")
    if not ids:
        raise ValueError("there is nothing to look at: the text is empty")
    if len(ids) > config.context_length:
        raise ValueError(f"that is {len(ids)} tokens, and the model sees {config.context_length} at a time; shorten it")
    if not 0 <= min(ids) <= max(ids) < config.vocab_size:
        raise ValueError(f"token ids must be 0 to {config.vocab_size - 1}, not {min(ids)} to {max(ids)}")
    return ids


def _turns_or_ids(text: Sequence[Any] | Tensor) -> tuple[list[Message], list[int]]:
    try:
        if len(text) and isinstance(text[0], Message | Mapping):
            return [turn if isinstance(turn, Message) else Message(turn["role"], turn["content"]) for turn in text], []
        return [], [operator.index(token) for token in text]
    except (TypeError, KeyError):
        told = reprlib.repr(text)
        raise ValueError(f"what is read is a text, turns with role and content, or token ids, not {told}") from None


def token_id(tokenizer: Tokenizer, token: str | SupportsIndex) -> int:
    """The id of one token, given as its text (" fish", "<|im_end|>") or as its id.

    Raises ValueError for a text that is not exactly one token, and an id that is none.
    """
    if not isinstance(token, str):
        _, (chosen,) = _turns_or_ids([token])
        tokenizer.token_bytes(chosen)  # raises where there is none
        return chosen
    if token in (special := {tokenizer.decode([i]): i for i in tokenizer.special_ids}):
        return special[token]
    ids = tokenizer.encode(token)
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.decode([i])) for i in ids) or "none"
        raise ValueError(f"{token!r} is {len(ids)} tokens ({pieces}), not one; choose a single one")
    return ids[0]


def likeliest(tokenizer: Tokenizer, values_V: Tensor, k: int, largest: bool = True) -> list[tuple[str, float]]:
    """The k tokens of the largest values, or of the smallest, for the eye; all there are where k is more."""
    check_positive("k", k)
    top = values_V.topk(min(k, len(values_V)), largest=largest)
    return [(tokenizer.token_text(i), x) for i, x in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


def block_of(model: Transformer, layer: int) -> Block:
    """Raises ValueError for a layer that is not there."""
    check_index("layer", layer, model.config.n_layers)
    block = model.blocks[layer]
    assert isinstance(block, Block)
    return block


def check_index(what: str, index: int, size: int) -> None:
    if not 0 <= index < size:
        raise ValueError(f"there is no {what} {index}; there are 0 to {size - 1}")


def check_positive(what: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"{what} must be at least 1, not {number}")
