"""How well a model predicts what it never saw."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from barreleye.config import TrainConfig
from barreleye.data.batches import IGNORE, HeldOutBatch
from barreleye.data.chat_format import Part
from barreleye.data.tokenizer import Tokenizer
from barreleye.training.device import autocast
from barreleye.training.loss import rows_at_once


@dataclass(frozen=True)
class Score:
    """Mean loss in nats per token over some tokens, and the same in bits per UTF-8 byte of the text they spell."""

    loss: float
    bits_per_byte: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700))


@dataclass(frozen=True)
class HeldOut:
    """Over all held-out tokens, and over the replies to unseen prompts alone (their closing token included)."""

    all: Score
    replies: Score | None


def byte_lengths(tokenizer: Tokenizer) -> Tensor:
    """UTF-8 bytes that each token spells, shape (V,); special tokens spell none."""
    return torch.tensor(
        [0 if i in tokenizer.special_ids else len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    )


@torch.inference_mode()
def held_out_loss(model: nn.Module, batches: Iterable[HeldOutBatch], bytes_V: Tensor, config: TrainConfig) -> HeldOut:
    """Score every target of `batches` once."""
    model.eval()
    losses, targets, parts = [], [], []
    for tokens_BT, targets_BT, parts_BT in batches:
        with autocast(config):
            logits_NV = model(tokens_BT.to(config.device)).flatten(0, 1)
        flat = targets_BT.flatten()
        pieces = zip(*(x.split(rows_at_once(logits_NV)) for x in (logits_NV, flat.to(config.device))), strict=True)
        nats = [F.cross_entropy(x_KV.float(), x_K, ignore_index=IGNORE, reduction="none") for x_KV, x_K in pieces]
        there = flat != IGNORE
        losses.append(torch.cat(nats).cpu()[there])
        targets.append(flat[there])
        parts.append(parts_BT.flatten()[there])
    return _held_out(losses, targets, parts, bytes_V)


def _held_out(losses: Sequence[Tensor], targets: Sequence[Tensor], parts: Sequence[Tensor], bytes_V: Tensor) -> HeldOut:
    loss_N, bytes_N, part_N = (
        torch.cat(list(losses)).double(),
        bytes_V[torch.cat(list(targets))],
        torch.cat(list(parts)),
    )

    def score(chosen_N: Tensor) -> Score:
        total = float(loss_N[chosen_N].sum())
        tokens, spelled = int(chosen_N.sum()), max(1, int(bytes_N[chosen_N].sum()))
        return Score(total / max(1, tokens), total / math.log(2) / spelled, tokens)

    replies_N = part_N == Part.REPLY
    return HeldOut(score(torch.ones_like(replies_N)), score(replies_N) if replies_N.any() else None)
