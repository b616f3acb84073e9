"""A reply, token by token, each with the logits that it was drawn from."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from barreleye.config import Sampling
from barreleye.data.chat_format import Message
from barreleye.inference.chat import LONGEST_REPLY, Chat
from barreleye.inference.generate import TorchStream, generate_tokens
from barreleye.lens.edits import edited, zero
from barreleye.lens.subject import Subject
from barreleye.studio.answers import MOST_SCORES, ranked

TOP = 50  # logits that are sent of each token

Said = dict[str, Any]
"""{id, text, top, position} of each token, the first one with the ids of the `prompt`; at last {done, ids, text}."""


class Overheard:
    """A decoder whose last stream can be looked into."""

    def __init__(self, subject: Subject, off: Iterable[str] = ()) -> None:
        self.config, edits = subject.model.config, dict.fromkeys(off, zero)
        if edits and self.config.n_heads * self.config.context_length**2 > MOST_SCORES:
            raise ValueError(f"with a context of {self.config.context_length}, nothing can be taken out while it talks")
        self.decoder = edited((subject.model, subject.tokenizer), edits) if edits else None
        self.model = subject.model
        self.heard: TorchStream

    def stream(self) -> TorchStream:
        self.heard = self.decoder.stream() if self.decoder else TorchStream(self.model)
        return self.heard


def talk(subject: Subject, turns: Sequence[Message], sampling: Sampling, off: Iterable[str] = ()) -> Iterator[Said]:
    """The reply to the last turn, as `Chat` would give it; a model of plain text goes on from what was said.

    Raises ValueError, before anything is said, for turns that are no chat or do not fit, and for parts to be taken out
    that are not there.
    """
    decoder = Overheard(subject, off)
    if subject.tokenizer.chat is None:
        room = decoder.config.context_length
        most = min(LONGEST_REPLY, max(1, room // 2))
        ids = subject.tokenizer.encode("".join(turn.content for turn in turns))[-max(1, room - most) :]
        if not ids:
            raise ValueError("there is nothing to go on from: the text is empty")
        return _said(subject, decoder, ids, min(most, room - len(ids)), sampling, subject.tokenizer.end_ids)
    system, spoken = split_turns(turns)
    chat = Chat(decoder, subject.tokenizer, sampling, system or subject.system)
    chat.messages = spoken[:-1]
    _, ids, most = chat.fit(spoken[-1].content)
    return _said(subject, decoder, ids, most, sampling, chat.stop_ids)


def split_turns(turns: Sequence[Message]) -> tuple[str, list[Message]]:
    """The system's turn, if it is first, and the others. Raises ValueError where they do not take turns, or the person
    has not had the last word."""
    begins = bool(turns) and turns[0].role == "system"
    spoken = list(turns[begins:])
    expected = ["user", "assistant"] * (len(spoken) // 2 + 1)
    if [turn.role for turn in spoken] != expected[: len(spoken)] or len(spoken) % 2 == 0:
        raise ValueError("the turns of a talk are user, assistant, user, and so on, with the user last")
    if not spoken[-1].content.strip():
        raise ValueError("there is nothing to answer: the last turn is empty")
    return turns[0].content if begins else "", spoken


def _said(
    subject: Subject, decoder: Overheard, ids: list[int], most: int, sampling: Sampling, stop_ids: frozenset[int]
) -> Iterator[Said]:
    ids, text = list(ids), subject.tokenizer.stream()
    first = {"prompt": list(ids)}
    for token in generate_tokens(decoder, tuple(ids), most, sampling, stop_ids):
        # The stream reads the token only when the next is asked for: these are the logits that it was drawn from.
        top = decoder.heard.logits_BV[0].topk(min(TOP, decoder.config.vocab_size))
        (largest,) = ranked(subject.tokenizer, top.indices[None], top.values[None], "logit")
        ids.append(token)
        yield {"id": token, "text": text.feed(token), "top": largest, "position": len(ids) - 1, **first}
        first = {}
    yield {"done": True, "ids": ids, "text": text.finish()}
