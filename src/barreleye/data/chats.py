"""Chats from elsewhere -> conversations: rows of files and data sets, in the usual shapes.

A row that does not fit is left out, with its place and the reason; nothing is dropped without a word.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from barreleye.data.chat_format import ROLES, Conversation, Message
from barreleye.data.rows import read_rows

LEFT_OUT_KEPT = 100  # rows left out that the report lists; the rest are counted
LEFT_OUT_NAMED = 3  # of them, in one line
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class LeftOut:
    """A row that is no chat. line: of the file, from 1; in Parquet and data sets, the number of the row."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Chats:
    """The conversations that were read, in order, and the rows that were left out."""

    conversations: list[Conversation]
    left_out: list[LeftOut]

    def report(self) -> dict[str, Any]:
        """For `data/report.json`."""
        return {
            "rows": len(self.conversations) + len(self.left_out),
            "rows_left_out_count": len(self.left_out),
            "rows_left_out": [asdict(row) for row in self.left_out[:LEFT_OUT_KEPT]],
        }


def read_chats(sources: Sequence[str | Path], chat_format: str = "auto") -> Chats:
    """Chats from files (.json, .jsonl, .csv, .parquet) and Hugging Face data sets (owner/name, every split of it).

    chat_format: a key of FORMATS; `auto` takes for each row the first one whose keys it has. Raises ValueError for a
    source that cannot be read, or of which no row fits.
    """
    conversations: list[Conversation] = []
    left_out: list[LeftOut] = []
    for source in sources:
        before, failed = len(conversations), len(left_out)
        for file, line, row in read_rows(source):
            try:
                conversations.append(_conversation(row, chat_format))
            except ValueError as error:
                left_out.append(LeftOut(file, line, str(error)))
        if len(conversations) == before:
            raise ValueError(str(left_out[failed]) if len(left_out) > failed else f"{source}: has no rows")
    return Chats(conversations, left_out)


def left_out_line(report: dict[str, Any]) -> str:
    """What a report says of rows left out, in one line; empty where there are none."""
    count = report.get("rows_left_out_count", 0)
    if not count:
        return ""
    named = [f"{row['file']}:{row['line']} ({row['reason']})" for row in report["rows_left_out"][:LEFT_OUT_NAMED]]
    more = f", and {count - len(named):,} more" if count > len(named) else ""
    return f"{count:,} of {report['rows']:,} rows left out: {', '.join(named)}{more}"


# Our own files -----------------------------------------------------------------------------------------------------


def chat_line(conversation: Conversation) -> str:
    """A chat as one JSON line, as `read_chat_lines` reads it."""
    messages = [
        {"role": m.role, "content": m.content} | ({"shared": True} if m.shared else {}) for m in conversation.messages
    ]
    return json.dumps({"messages": messages, "topic": conversation.topic}, ensure_ascii=False)


def read_chat_lines(path: Path) -> list[Conversation]:
    """What `chat_line` wrote. Raises ValueError for any row that does not fit: such a file is damaged."""
    chats = read_chats([path], "messages")
    if chats.left_out:
        raise ValueError(str(chats.left_out[0]))
    return chats.conversations


def parse_chat_line(line: str | bytes) -> Conversation:
    """What `chat_line` made. Raises ValueError for what it did not."""
    try:
        return _conversation(json.loads(line), "messages")
    except RecursionError:
        raise ValueError("is nested too deeply for a chat") from None


# A row -> a conversation ---------------------------------------------------------------------------------------------

Turn = tuple[Any, Any, Any]
"""Role, content, whether it is shared; not checked yet."""


def _messages(row: dict[str, Any]) -> list[Turn]:
    return [(turn.get("role"), turn.get("content"), turn.get("shared")) for turn in _list_of(row, "messages")]


SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def _sharegpt(row: dict[str, Any]) -> list[Turn]:
    turns = _list_of(row, "conversations")
    for turn in turns:
        if not isinstance(role := turn.get("from"), str) or role not in SHAREGPT_ROLES:
            raise ValueError(f'a turn needs a "from" ({", ".join(SHAREGPT_ROLES)}), not {_short(role)}')
    return [(SHAREGPT_ROLES[turn["from"]], turn.get("value"), False) for turn in turns]


def _instruction(row: dict[str, Any]) -> list[Turn]:
    asked, context = row["instruction"], row.get("input") or ""
    if isinstance(asked, str) and isinstance(context, str):
        asked = f"{asked}\n\n{context}".strip()
    return [("user", asked, False), ("assistant", row["output"], False)]


def _pair(prompt: str, reply: str) -> Callable[[dict[str, Any]], list[Turn]]:
    return lambda row: [("user", row[prompt], False), ("assistant", row[reply], False)]


FORMATS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], list[Turn]]]] = {
    "messages": (("messages",), _messages),
    "sharegpt": (("conversations",), _sharegpt),
    "prompt": (("prompt", "response"), _pair("prompt", "response")),
    "instruction": (("instruction", "output"), _instruction),
    "input": (("input", "output"), _pair("input", "output")),
}
"""Format -> the keys by which it is recognized, and how its turns are found. The order matters: an instruction may
have an input too."""


def _conversation(row: Any, chat_format: str) -> Conversation:
    """Raises ValueError where the row does not fit."""
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"a chat is a JSON object, not {type(row).__name__}")
    formats = FORMATS if chat_format == "auto" else {chat_format: FORMATS[chat_format]}
    for keys, turns_of in formats.values():
        if all(row.get(key) is not None for key in keys):
            return Conversation(_checked(turns_of(row)), _topic(row))
    wanted = "; ".join(" and ".join(f'"{key}"' for key in keys) for keys, _ in formats.values())
    has = ", ".join(str(key) for key, value in row.items() if value is not None) or "nothing"
    raise ValueError(f"has no {wanted} (it has {_short(has)})")


def _checked(turns: list[Turn]) -> tuple[Message, ...]:
    for role, content, _ in turns:
        if role not in ROLES:
            raise ValueError(f'a message needs a "role" ({", ".join(ROLES)}), not {_short(role)}')
        if not isinstance(content, str):
            raise ValueError(f"the content of a message is text, not {_short(content)}")
        if role != "system" and not content.strip():
            raise ValueError(f"an empty message of the {role}; fill it in, or remove the chat")
        if LONE_SURROGATE.search(content):
            raise ValueError(f"half a character (a lone surrogate) in a message of the {role}; remove it")
    spoken = [role for role, _, _ in turns]
    if "user" not in spoken or "assistant" not in spoken[spoken.index("user") :]:
        raise ValueError("a chat needs a message of the user and after it one of the assistant")
    return tuple(Message(role, content, shared is True) for role, content, shared in turns)


def _topic(row: dict[str, Any]) -> str:
    topic = row.get("topic")
    return topic if isinstance(topic, str) and not LONE_SURROGATE.search(topic) else ""


def _list_of(row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    turns = row[key]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f'"{key}" must be a list of objects, not {_short(turns)}')
    return turns


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 50 else f"{text[:47]}..."
