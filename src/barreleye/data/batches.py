"""Documents -> (tokens_BT, targets_BT) with almost no padding; batch n is a pure function of (seed, n).

So a resumed training, or another one beside it, reads exactly the same batches, and nothing about them needs saving.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from barreleye.data.chat_format import Conversation, Part, encode_chats
from barreleye.data.tokenizer import Tokenizer

IGNORE = -100  # a target that is not learned: padding, or what the user said when only replies count
MAPPED_FROM_BYTES = 256 * 2**20
CHUNK_CHARACTERS = 1 << 20

HeldOutBatch = tuple[Tensor, Tensor, Tensor]  # tokens_BT, targets_BT, and the Part of each target


class ChatBatches:
    """Conversations, one per row: none ever sees another.

    Rows of about equal length share a batch of about `batch_tokens` tokens. Every epoch visits each row once, in an
    order of its own. A conversation longer than the context is cut, and goes on in a row of its own.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        tokenizer: Tokenizer,
        context: int,
        batch_tokens: int,
        seed: int = 0,
        loss_on: str = "all",
    ) -> None:
        tokens: list[int] = []
        parts: list[int] = []
        starts, lengths = [], []
        for ids, kinds in encode_chats(conversations, tokenizer):
            # A row of n + 1 tokens teaches n: the pieces of a long chat overlap by the one that is only a target.
            for cut in range(0, len(ids) - 1, context):
                starts.append(len(tokens) + cut)
                lengths.append(min(context, len(ids) - 1 - cut))
            tokens += ids
            parts += kinds
        if not starts:
            raise ValueError("there are no conversations to learn from")
        self.tokens = np.array(tokens, np.int32)
        self.parts = np.array(parts, np.int8)
        self.starts, self.lengths = np.array(starts), np.array(lengths)
        self.seed, self.replies_only = seed, loss_on == "replies"
        self.edges = batch_edges(np.sort(self.lengths), batch_tokens)
        self._epoch, self._rows, self._order = -1, np.empty(0, int), np.empty(0, int)

    @property
    def per_epoch(self) -> int:
        return len(self.edges) - 1

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        epoch, i = divmod(n, self.per_epoch)
        if epoch != self._epoch:
            # Sorting by length with ties in random order gives every epoch other batches within the same edges.
            rng = np.random.default_rng((self.seed, epoch))
            self._rows = np.lexsort((rng.random(len(self.lengths)), self.lengths))
            self._order = rng.permutation(self.per_epoch)
            self._epoch = epoch
        batch = self._order[i]
        tokens_BT, targets_BT, parts_BT = self._cut(self._rows[self.edges[batch] : self.edges[batch + 1]])
        if self.replies_only:
            targets_BT = targets_BT.masked_fill(parts_BT == Part.OTHER, IGNORE)
        return tokens_BT, targets_BT

    def held_out(self) -> Iterator[HeldOutBatch]:
        """Every row once, in order of length."""
        rows = np.argsort(self.lengths, kind="stable")
        for left, right in zip(self.edges, self.edges[1:], strict=False):
            yield self._cut(rows[left:right])

    def _cut(self, rows: np.ndarray) -> HeldOutBatch:
        lengths = self.lengths[rows, None]
        columns = np.arange(lengths.max())
        at_BT = np.minimum(self.starts[rows, None] + columns, len(self.tokens) - 2)
        there_BT = columns < lengths
        tokens_BT = np.where(there_BT, self.tokens[at_BT], 0)
        targets_BT = np.where(there_BT, self.tokens[at_BT + 1], IGNORE)
        parts_BT = np.where(there_BT, self.parts[at_BT + 1], Part.OTHER)
        return (
            torch.from_numpy(tokens_BT).long(),
            torch.from_numpy(targets_BT).long(),
            torch.from_numpy(parts_BT),
        )


def batch_edges(sorted_lengths: np.ndarray, batch_tokens: int) -> np.ndarray:
    """Where to cut rows sorted by length so that rows x longest row stays within `batch_tokens` (one row at least)."""
    edges = [0]
    for i, length in enumerate(sorted_lengths.tolist()):
        if i > edges[-1] and (i + 1 - edges[-1]) * length > batch_tokens:
            edges.append(i)
    return np.array([*edges, len(sorted_lengths)])


class TextBatches:
    """Windows of one long text. Every epoch cuts it anew, from a random first position, and visits each window once."""

    def __init__(self, tokens: np.ndarray, context: int, batch_tokens: int, seed: int = 0) -> None:
        if len(tokens) < 2:
            raise ValueError(f"a text of {len(tokens)} tokens is too short to learn from")
        self.tokens, self.seed = tokens, seed
        self.context = min(context, len(tokens) - 1)
        self.rows = max(1, batch_tokens // self.context)
        # One window fewer than fit, so that any first position within a window leaves as many.
        self.windows = max(1, (len(tokens) - 1) // self.context - 1)
        self._epoch, self._order, self._phase = -1, np.empty(0, int), 0

    @property
    def per_epoch(self) -> int:
        return -(-self.windows // self.rows)

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        epoch, i = divmod(n, self.per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, epoch))
            spare = len(self.tokens) - 1 - self.windows * self.context
            self._phase = int(rng.integers(min(spare, self.context) + 1))
            self._order = rng.permutation(self.windows)
            self._epoch = epoch
        chosen = self._order[i * self.rows : (i + 1) * self.rows, None]
        at_BT = self._phase + chosen * self.context + np.arange(self.context)
        return self._at(at_BT)

    def held_out(self) -> Iterator[HeldOutBatch]:
        """The whole text in order, in windows that do not overlap; the last may be shorter."""
        last = len(self.tokens) - 1
        whole = last // self.context * self.context
        starts = np.arange(0, whole, self.context)
        for left in range(0, len(starts), self.rows):
            at_BT = starts[left : left + self.rows, None] + np.arange(self.context)
            yield self._with_parts(at_BT)
        if whole < last:
            yield self._with_parts(np.arange(whole, last)[None])

    def _at(self, at_BT: np.ndarray) -> tuple[Tensor, Tensor]:
        tokens_BT, targets_BT = self.tokens[at_BT], self.tokens[at_BT + 1]
        return torch.from_numpy(tokens_BT).long(), torch.from_numpy(targets_BT).long()

    def _with_parts(self, at_BT: np.ndarray) -> HeldOutBatch:
        tokens_BT, targets_BT = self._at(at_BT)
        return tokens_BT, targets_BT, torch.zeros_like(tokens_BT, dtype=torch.int8)


def encode_text(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """The ids of a long text, encoded in pieces that end at line ends: the tokenizer takes many times the text."""
    pieces, start = [], 0
    while start < len(text):
        end = text.rfind("\n", start, start + CHUNK_CHARACTERS) + 1 if len(text) > start + CHUNK_CHARACTERS else 0
        end = end if end > start else start + CHUNK_CHARACTERS
        pieces.append(np.array(tokenizer.encode(text[start:end]), np.int32))
        start = end
    return np.concatenate(pieces) if pieces else np.empty(0, np.int32)


def map_if_large(tokens: np.ndarray, file: Path) -> np.ndarray:
    """The same tokens, read from `file` as they are needed, where they would fill memory."""
    if tokens.nbytes < MAPPED_FROM_BYTES:
        return tokens
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    with partial.open("wb") as handle:
        np.save(handle, tokens, allow_pickle=False)
    partial.replace(file)  # another process may have the old one mapped
    return np.load(file, mmap_mode="r", allow_pickle=False)
