"""What a model learns from: a character sheet, plain text or chats -> two sides, split before anything is learned."""

import hashlib
import http.client
import io
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barreleye.config import DataConfig
from barreleye.data.chat_format import ROLES, Conversation, Message, chat_texts
from barreleye.data.dress import normalize
from barreleye.data.persona import grow_conversations, overlap
from barreleye.data.sheet_file import load_persona

MAX_BYTES = 4 * 2**30  # the text and its tokens are held in memory
MAX_LINE_BYTES = 16 * 2**20  # a longer line is not text that anybody wrote
TEXT_HELD_OUT = 0.1
SHORTEST_SIDE = 2  # characters: one to read, one to predict
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@dataclass(frozen=True)
class Corpus:
    """Two sides of chats, or two texts, and the report on how they were split."""

    train: Sequence[Conversation] | str
    held_out: Sequence[Conversation] | str
    report: dict[str, Any]

    def texts(self) -> list[str]:
        """What a tokenizer may learn from: the training side alone."""
        return [self.train] if isinstance(self.train, str) else list(chat_texts(self.train))


def prepare(config: DataConfig, seed: int) -> Corpus:
    """Read or compose what `config` names, and split it. Raises ValueError for a source that cannot be used."""
    if config.kind == "persona":
        train, held_out = grow_conversations(load_persona(config.source), config.conversations, seed, config.held_out)
        if not held_out:
            raise ValueError(f"{config.source}: nothing can be held out; give topics more asks that are like no other")
        return _chat_corpus(train, held_out, "by clean prompt, before casing, typos and slots vary it")
    if config.kind == "chats":
        conversations = read_chats(Path(config.source))
    elif config.source == "shakespeare":
        text = read_shakespeare()
    else:
        text = read_text(Path(config.source))
    try:
        return split_chats(conversations, config.held_out) if config.kind == "chats" else split_text(text)
    except ValueError as error:
        raise ValueError(f"{config.source}: {error}") from None


def split_text(text: str) -> Corpus:
    """The first nine tenths to learn from, the last tenth held out."""
    cut = len(text) - max(SHORTEST_SIDE, int(len(text) * TEXT_HELD_OUT))
    if cut < SHORTEST_SIDE:
        raise ValueError(f"a text of {len(text)} characters is too short to split; give it {2 * SHORTEST_SIDE} or more")
    report = {"split": "by position: the last tenth is held out", "overlap": 0}
    return Corpus(text[:cut], text[cut:], report | {"train_characters": cut, "held_out_characters": len(text) - cut})


def split_chats(conversations: Sequence[Conversation], held_out: float) -> Corpus:
    """By normalized first prompt: chats that begin alike stay on one side. Which side goes by a hash of the
    prompt, so a prompt added later moves at most one other."""
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    prompts = sorted({_first_prompt(conversation) for conversation in conversations}, key=_hash)
    if len(prompts) < 2:
        raise ValueError("the chats have fewer than 2 distinct first prompts; nothing could be held out")
    out = set(prompts[: max(1, round(len(prompts) * held_out))])
    distinct = dict.fromkeys(conversations)
    for conversation in distinct:
        sides[_first_prompt(conversation) in out].append(conversation)
    # A later turn may repeat a prompt of the other side: such a chat is dropped, and counted.
    known = {normalize(m.content) for c in sides[0] for m in c.messages if m.role == "user"}
    clean = [c for c in sides[1] if not any(normalize(m.content) in known for m in c.messages if m.role == "user")]
    if not clean:
        raise ValueError("every chat that could be held out repeats a prompt of the others; add more distinct ones")
    corpus = _chat_corpus(sides[0], clean, "by normalized first prompt")
    corpus.report["held_out_dropped"] = len(sides[1]) - len(clean)
    corpus.report["duplicates_dropped"] = len(conversations) - len(distinct)
    return corpus


def _chat_corpus(train: Sequence[Conversation], held_out: Sequence[Conversation], split: str) -> Corpus:
    shared = overlap(train, held_out)
    assert shared == 0, f"{shared} prompts stand on both sides of the split"
    report = {"split": split, "overlap": shared, "train": len(train), "held_out": len(held_out)}
    return Corpus(train, held_out, report)


def _first_prompt(conversation: Conversation) -> str:
    return normalize(next((m.content for m in conversation.messages if m.role == "user"), ""))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


# Files -------------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises ValueError, naming file and line, for anything else."""
    try:
        if path.is_char_device() or path.is_block_device():
            raise ValueError(f"{path}: is a device; name a file")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: is larger than {MAX_BYTES // 2**30} GiB; learn from a part of it")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file; check its name") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder; name a file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); name a file that can") from None
    if not data.strip():
        raise ValueError(f"{path}: is empty; name a file with text in it")
    if b"\0" in data:
        raise ValueError(f"{path}:{_line_at(data, data.index(0))}: has a NUL byte; this is not a text file")
    for number, row in enumerate(io.BytesIO(data), 1):
        if len(row) > MAX_LINE_BYTES:
            raise ValueError(
                f"{path}:{number}: a line of {len(row):,} bytes; text has line ends (at most {MAX_LINE_BYTES:,})"
            )
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = _line_at(data, error.start)
        raise ValueError(f"{path}:{line}: is not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8") from None


def _line_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def read_chats(path: Path) -> list[Conversation]:
    """Chats from JSON lines, each `{"messages": [{"role": ..., "content": ...}, ...]}` or `{"prompt", "response"}`."""
    conversations = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                conversations.append(_conversation(json.loads(line)))
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}:{number}: is not JSON ({error.msg}); chats are one JSON object a line"
                ) from None
            except RecursionError:
                raise ValueError(f"{path}:{number}: is nested too deeply for a chat; see its brackets") from None
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
    return conversations


def _conversation(row: Any) -> Conversation:
    if not isinstance(row, dict):
        raise ValueError(f"a chat is a JSON object, not {type(row).__name__}")
    if "prompt" in row and "response" in row:
        row = {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["response"]},
            ]
        }
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        raise ValueError('has no "messages" (a list of {"role", "content"}) nor "prompt" and "response"')
    messages = []
    for turn in turns:
        role = turn.get("role") if isinstance(turn, dict) else None
        content = turn.get("content") if isinstance(turn, dict) else None
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(f'a message needs a "role" ({", ".join(ROLES)}) and a "content" in quotes')
        if role != "system" and not content.strip():
            raise ValueError(f"an empty message of the {role}; fill it in, or remove the chat")
        if LONE_SURROGATE.search(content):
            raise ValueError(f"half a character (a lone surrogate) in a message of the {role}; remove it")
        messages.append(Message(role, content, bool(turn.get("shared", False))))
    if not {"user", "assistant"} <= {message.role for message in messages}:
        raise ValueError("a chat needs a message of the user and one of the assistant")
    topic = row.get("topic", "")
    return Conversation(tuple(messages), topic if isinstance(topic, str) and not LONE_SURROGATE.search(topic) else "")


def chat_line(conversation: Conversation) -> str:
    """A chat as one JSON line, as `read_chats` reads it."""
    messages = [
        {"role": m.role, "content": m.content} | ({"shared": True} if m.shared else {}) for m in conversation.messages
    ]
    return json.dumps({"messages": messages, "topic": conversation.topic}, ensure_ascii=False)


# Tiny Shakespeare --------------------------------------------------------------------------------------------------


def read_shakespeare(fetch: Callable[[str], bytes] | None = None) -> str:
    """Tiny Shakespeare (Karpathy 2015; 1,115,394 bytes), fetched once and kept in the user's cache folder."""
    file = cache_folder() / "tinyshakespeare.txt"
    if not (file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == SHAKESPEARE_SHA256):
        try:
            data = (fetch or _fetch)(SHAKESPEARE_URL)
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)).strip()
            raise ValueError(
                f"tiny Shakespeare could not be fetched ({reason}); name a file of your own: --text FILE"
            ) from None
        if hashlib.sha256(data).hexdigest() != SHAKESPEARE_SHA256:
            raise ValueError("what was fetched is not tiny Shakespeare (its SHA-256 differs); name a file: --text FILE")
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_bytes(data)
        partial.replace(file)
    return read_text(file)


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.read(4 * 2**20)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise


def cache_folder() -> Path:
    """Where this user's programs keep what they can fetch again."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "barreleye"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "barreleye"
    return Path.home() / ".cache" / "barreleye"
