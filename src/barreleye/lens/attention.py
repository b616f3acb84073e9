"""Where heads look: rollout, and what kind of head each one is.

B batch, T time (position), L layers, H heads, D channels per head, Q and K positions of queries and of keys.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from barreleye.lens.address import head_address
from barreleye.lens.edits import Edits, EditTap
from barreleye.lens.subject import Who, block_of, check_index, subject_of
from barreleye.lens.view import View, evaluating
from barreleye.model.parts import Tap, no_tap
from barreleye.model.transformer import Transformer

MEANINGS = {
    "previous token": "looks at the token before",
    "induction": "looks at what followed this token the last time, and so continues what was said before",
    "duplicate token": "looks at earlier places of the same token",
    "first token": "rests on the first token, which is doing nothing: a sink",
    "positional": "looks by distance or place alone, or everywhere alike, whatever the tokens are",
    "mixed": "none of these; see its pattern",
}
"""Kind of head -> what it does (Elhage et al. 2021; Olsson et al. 2022; sinks: Xiao et al. 2023)."""

MOST = 0.4  # of a head's attention names its kind: several times what chance gives in rows of these lengths
POSITIONAL = 0.8  # of the attention is in the same places whatever the tokens are
ROWS, LENGTH = 8, 64  # of random tokens that heads are classified on


@dataclass(frozen=True)
class HeadScores:
    """For each kind, the share of a head's attention that it explains, from 0 to 1, shape (L, H)."""

    scores: dict[str, Tensor]

    @property
    def kinds(self) -> list[list[str]]:
        """The kind of each head of each layer: the largest score if it is large, else whether position explains it."""
        named = [kind for kind in self.scores if kind != "positional"]
        best_LH = torch.stack([self.scores[kind] for kind in named]).max(0)
        fixed_LH = self.scores.get("positional", torch.zeros_like(best_LH.values)) >= POSITIONAL
        return [
            [
                named[kind] if score >= MOST else "positional" if fixed else "mixed"
                for score, kind, fixed in zip(*(x.tolist() for x in row), strict=True)
            ]
            for row in zip(best_LH.values, best_LH.indices, fixed_LH, strict=True)
        ]

    def __repr__(self) -> str:
        lines = []
        for layer, row in enumerate(self.kinds):
            for head, kind in enumerate(row):
                figures = ", ".join(f"{name} {score_LH[layer, head]:.2f}" for name, score_LH in self.scores.items())
                lines.append(f"{head_address(layer, head)} {kind:15} {figures}")
        return "\n".join(lines)


def head_scores(view: View) -> HeadScores:
    """What each head does on this very text. Raises ValueError for a text of one token."""
    if len(view.ids) < 2:
        raise ValueError("heads cannot be told apart on a text of one token; give a longer one")
    pattern_LHQK = view["blocks.*.attn.hook_pattern"]
    ids_BT = torch.tensor([view.ids], device=pattern_LHQK.device)
    return HeadScores(_scores(pattern_LHQK[:, None], ids_BT))


def classify_heads(who: Who, step: int | None = None, seed: int = 0, edits: Edits | None = None) -> HeadScores:
    """What each head does, on rows of random tokens that repeat with a period of their own: there nothing but the
    repetition can be known (Olsson et al. 2022), and what looks alike in all rows is a matter of position.

    edits: under which the rows are read; positions are those of the rows.
    """
    subject = subject_of(who, step)
    ids_BT = repeated_tokens(subject.model, ROWS, LENGTH, seed, without=subject.tokenizer.special_ids)
    pattern_LBHQK = attention_patterns(subject.model, ids_BT, EditTap(subject.model, edits or {}))
    # 1 - the total variation distance between what two rows attend to.
    same_LH = torch.minimum(pattern_LBHQK[:, 1:], pattern_LBHQK[:, :-1])[..., 1:, :].sum(-1).mean((1, 3))
    return HeadScores(_scores(pattern_LBHQK, ids_BT) | {"positional": same_LH})


def repeated_tokens(
    model: Transformer, rows: int, length: int, seed: int = 0, without: frozenset[int] = frozenset()
) -> Tensor:
    """Rows of random tokens, shape (B, T), each repeated with a period drawn from a quarter to half the length: with
    one period for all, a head that counts positions would pass for one that finds what was said.

    without: ids that are not drawn. Raises ValueError for a context too short to repeat anything in.
    """
    generator = torch.Generator().manual_seed(seed)
    length = min(length, model.config.context_length)
    if length < 4:
        raise ValueError(f"a context of {length} is too short for anything to be repeated in; at least 4 is needed")
    choice = torch.tensor([i for i in range(model.config.vocab_size) if i not in without])
    device = model.embed.weight.device
    periods = torch.randint(length // 4, length // 2 + 1, (rows,), generator=generator).tolist()
    once_BT = choice[torch.randint(len(choice), (rows, length), generator=generator)]
    return torch.stack([row[torch.arange(length) % p] for row, p in zip(once_BT, periods, strict=True)]).to(device)


def attention_patterns(model: Transformer, ids_BT: Tensor, tap: Tap = no_tap) -> Tensor:
    """Of every layer, shape (L, B, H, Q, K)."""
    patterns = []

    def record(name: str, tensor: Tensor) -> Tensor:
        tensor = tap(name, tensor)
        if name.endswith("hook_pattern"):
            patterns.append(tensor)
        return tensor

    with torch.no_grad(), evaluating(model):
        model(ids_BT, tap=record)
    return torch.stack(patterns)


def in_context_loss(model: Transformer, ids_BT: Tensor) -> tuple[float, float]:
    """Mean loss in nats per token on tokens seen for the first time, and on those that a row repeats."""
    with torch.no_grad(), evaluating(model):
        logits_BTV = model(ids_BT[:, :-1])
    losses_BT = F.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")
    same_BQK = _same_earlier(ids_BT)
    again_BT = (same_BQK[:, :-1, :-1] & same_BQK[:, 1:, 1:]).any(-1)  # this token was followed by the next one before
    return float(losses_BT[~again_BT].mean()), float(losses_BT[again_BT].mean())


def rollout(view: View) -> Tensor:
    """How much of each position's stream after each layer comes from each token, shape (L, Q, K), rows summing to 1:
    heads averaged, the residual stream counted as half, layers multiplied (Abnar and Zuidema 2020)."""
    pattern_LQK = view["blocks.*.attn.hook_pattern"].mean(1)
    own_QK = torch.eye(len(view.ids), device=pattern_LQK.device)
    layers, flow_QK = [], own_QK
    for attended_QK in pattern_LQK:
        flow_QK = (attended_QK + own_QK) / 2 @ flow_QK
        layers.append(flow_QK)
    return torch.stack(layers)


def unmasked_scores(view: View, layer: int, head: int) -> Tensor:
    """A head's scores before the mask, shape (Q, K): those of `hook_attn_scores`, and where it has hidden a later key,
    q k^T / sqrt(D). Raises ValueError for a layer or a head that is not there."""
    attn = block_of(view.model, layer).attn
    check_index("head", head, attn.heads)
    at = f"blocks.{layer}.attn."
    group = head // (attn.heads // attn.kv_heads)  # the key/value head that it shares
    q_TD, k_TD = (_as_scored(view, at, name, mine) for name, mine in (("q", head), ("k", group)))
    raw_QK = q_TD @ k_TD.T / math.sqrt(attn.d_head)
    masked_QK = view[f"{at}hook_attn_scores[head={head}]"]
    return torch.where(masked_QK == -math.inf, raw_QK, masked_QK)


@torch.no_grad()
def _as_scored(view: View, at: str, name: str, head: int) -> Tensor:
    """A head's queries or keys, normalized and rotated where the model does that, shape (T, D)."""
    if (rotated := f"{at}hook_rot_{name}") in view.shapes:
        return view[f"{rotated}[head={head}]"]
    norm: nn.Module = view.model.get_submodule(f"{at}{name}_norm")
    normalized_TD: Tensor = norm(view[f"{at}hook_{name}[head={head}]"])
    return normalized_TD


def _scores(pattern_LBHQK: Tensor, ids_BT: Tensor) -> dict[str, Tensor]:
    """The mean attention to the keys that a kind of head looks at, over the queries that have such keys, (L, H)."""
    length = ids_BT.shape[1]
    same_BQK = _same_earlier(ids_BT)
    after_same_BQK = F.pad(same_BQK[..., :-1], (1, 0)) & ~torch.eye(length, dtype=torch.bool, device=ids_BT.device)
    first_QK = torch.zeros_like(same_BQK[0])
    first_QK[1:, 0] = True
    previous_QK = torch.ones_like(first_QK).tril(-1).triu(-1)
    looked_at = {
        "previous token": previous_QK.expand_as(same_BQK),
        "induction": after_same_BQK,
        "duplicate token": same_BQK,
        "first token": first_QK.expand_as(same_BQK),
    }
    return {kind: _share(pattern_LBHQK, keys_BQK) for kind, keys_BQK in looked_at.items()}


def _share(pattern_LBHQK: Tensor, keys_BQK: Tensor) -> Tensor:
    there_BQ = keys_BQK.any(-1)
    share_LBHQ = (pattern_LBHQK * keys_BQK[:, None]).sum(-1)
    return (share_LBHQ * there_BQ[:, None]).sum((1, 3)) / there_BQ.sum().clamp(min=1)


def _same_earlier(ids_BT: Tensor) -> Tensor:
    """Whether the key is an earlier place of the query's token, shape (B, Q, K)."""
    return (ids_BT[:, :, None] == ids_BT[:, None]).tril(-1)
