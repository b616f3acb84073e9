"""Turns -> token ids: one format (ChatML) for training, chat, server and export alike.

    <|im_start|>user
    hello<|im_end|>
    <|im_start|>assistant
    blub<|im_end|>

Four choices; the template that is exported makes the same ones, token for token (a model that was imported may come
with plain ChatML, which neither trims nor lowers: chat_template.py):

- Every message ends in <|im_end|> and a newline, the last one too. So a conversation's ids begin with its
  own ids of some turns ago. Generation stops at <|im_end|>, and the newline opens what comes next.
- Content loses the whitespace around it (the template says `trim`). What follows "user\\n" thus never begins
  with whitespace, no word of the pre-tokenizer spans the two, and header and content may be encoded apart.
- What the user says is read in lowercase (the template says `lower`): "HELLO", "Hello" and "hello" are the same tokens,
  and a small model need not learn each word three times.
- Special tokens are put in by id. What a person types is only ever encoded as ordinary text.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from barreleye.data.chat_template import HOUSE, IM_END, IM_START, ChatFormat
from barreleye.data.tokenizer import Tokenizer

CHAT_SPECIAL_TOKENS = (IM_START, IM_END)
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `shared`: belongs to a follow-up that the sheet declares ("why?"), never scored as unseen."""

    role: str
    content: str
    shared: bool = False

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"a message cannot have the role {self.role!r}; roles are {', '.join(ROLES)}")


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of one chat, in order, and what it is about."""

    messages: tuple[Message, ...]
    topic: str = ""


class Part(IntEnum):
    """What a token belongs to. A reply is the content of an assistant's message and its closing <|im_end|>.

    Non-zero: a loss on replies counts the token. REPLY alone: in held-out chats, a reply to an unseen prompt.
    """

    OTHER = 0
    SHARED_REPLY = 1
    REPLY = 2


def encode_chat(
    messages: Sequence[Message], tokenizer: Tokenizer, add_generation_prompt: bool = False
) -> tuple[list[int], list[Part]]:
    """The ids of a conversation and, for each, its part; with a generation prompt, the assistant speaks next.

    Raises ValueError where the tokenizer has no chat tokens or cannot encode the text.
    """
    return _encode(messages, tokenizer, tokenizer.encode, add_generation_prompt)


def encode_chats(conversations: Sequence[Conversation], tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[Part]]]:
    """`encode_chat` of each conversation, in order; fast: each distinct text is encoded once, in a batch."""
    texts = list(dict.fromkeys(chat_texts(conversations, tokenizer.chat or HOUSE)))
    ids_of = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))
    for conversation in conversations:
        yield _encode(conversation.messages, tokenizer, ids_of.__getitem__)


def chat_texts(conversations: Iterable[Conversation], chat: ChatFormat = HOUSE) -> Iterator[str]:
    """All that is encoded as ordinary text, headers and newlines included: what a tokenizer learns from."""
    for conversation in conversations:
        for message in _turns(conversation.messages, chat):
            yield from (_header(message.role), _content(message, chat), "\n")


def _turns(messages: Sequence[Message], chat: ChatFormat) -> Sequence[Message]:
    begins = not messages or messages[0].role == "system"
    return messages if begins or not chat.system else [Message("system", chat.system), *messages]


def _header(role: str) -> str:
    return role + "\n"


def _content(message: Message, chat: ChatFormat) -> str:
    """Its words; where whitespace stays, with the header, as a word may then span the two."""
    if not chat.tidy:
        return _header(message.role) + message.content
    return (message.content.lower() if message.role == "user" else message.content).strip()


def _encode(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    ids_of: Callable[[str], list[int]],
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[Part]]:
    im_start, im_end = tokenizer.id_of(IM_START), tokenizer.id_of(IM_END)
    chat = tokenizer.chat or HOUSE
    ids: list[int] = []
    parts: list[Part] = []
    for message in _turns(messages, chat):
        header, content, newline = ids_of(_header(message.role)), ids_of(_content(message, chat)), ids_of("\n")
        if not chat.tidy:
            header, content = content[: len(header)], content[len(header) :]
        ids += [im_start, *header, *content, im_end, *newline]
        parts += [Part.OTHER] * (1 + len(header))
        parts += [_part_of(message)] * (len(content) + 1)
        parts += [Part.OTHER] * len(newline)
    if add_generation_prompt:
        ids += [im_start, *ids_of(_header("assistant"))]
        parts += [Part.OTHER] * (len(ids) - len(parts))
    return ids, parts


def _part_of(message: Message) -> Part:
    if message.role != "assistant":
        return Part.OTHER
    return Part.SHARED_REPLY if message.shared else Part.REPLY
