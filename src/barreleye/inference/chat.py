"""A conversation with a model, trimmed at whole turns so that it always fits the context."""

from collections.abc import Iterator

from barreleye.config import Sampling
from barreleye.data.chat_format import IM_END, IM_START, Message, encode_chat
from barreleye.data.tokenizer import Tokenizer
from barreleye.inference.generate import Decoder, generate_tokens, stream_text
from barreleye.model.transformer import Transformer

LONGEST_REPLY = 128


class Chat:
    """Remembers what was said. `system` is a turn of its own that is never trimmed."""

    def __init__(
        self, model: Transformer | Decoder, tokenizer: Tokenizer, sampling: Sampling | None = None, system: str = ""
    ) -> None:
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling or Sampling()
        self.stop_ids = frozenset({tokenizer.id_of(IM_END), tokenizer.id_of(IM_START)})
        self.system = [Message("system", system)] if system else []
        self.messages: list[Message] = []

    def ask(self, text: str) -> str:
        """The reply to `text`, whole."""
        return "".join(self.stream(text))

    def stream(self, text: str) -> Iterator[str]:
        """The reply to `text`, piece by piece. Raises ValueError when the text alone does not fit the context."""
        turns, ids, most = self.fit(text)
        tokens = generate_tokens(self.model, ids, most, self.sampling, self.stop_ids)
        pieces = []
        for piece in stream_text(self.tokenizer, tokens):
            pieces.append(piece)
            yield piece
        self.messages = [*turns, Message("assistant", "".join(pieces))]

    def fit(self, text: str) -> tuple[list[Message], list[int], int]:
        """What is read to answer `text`: the latest turns that leave room for a reply, their ids, and how many tokens
        the reply may have. Raises ValueError when the text alone does not fit the context."""
        room = self.model.config.context_length
        longest = min(LONGEST_REPLY, max(1, room // 2))
        turns = [*self.messages, Message("user", text)]
        while len(ids := self._encode(turns)) > room - longest and len(turns) > 1:
            turns = turns[2:]  # the oldest exchange: what was asked and what was answered go together
        if len(ids) >= room:
            raise ValueError(f"that is {len(ids)} tokens, and the model sees {room} at a time; say it shorter")
        return turns, ids, min(longest, room - len(ids))

    def _encode(self, turns: list[Message]) -> list[int]:
        return encode_chat([*self.system, *turns], self.tokenizer, add_generation_prompt=True)[0]
