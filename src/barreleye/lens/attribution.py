"""How a logit comes about: what the stream says after each sublayer, and what each part adds to it.

T time (position), C channels (`d_model`), H heads, V vocabulary, N parts or places in the stream, K the likeliest few.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from barreleye.config import did_you_mean
from barreleye.lens.address import head_address
from barreleye.lens.subject import block_of, check_positive
from barreleye.lens.view import View, entropy
from barreleye.model.parts import LayerNorm, RMSNorm
from barreleye.model.transformer import Transformer


@dataclass(frozen=True)
class LogitLens:
    """What would be said if the model ended at each place in the stream.

    names: the places, N of them. ids_NTK, probs_NTK: the likeliest tokens after each position. loss_NT: of the token
    that did come next, in nats; nan at the last position. entropy_NT: in bits.
    """

    names: list[str]
    ids_NTK: Tensor
    probs_NTK: Tensor
    loss_NT: Tensor
    entropy_NT: Tensor


@torch.no_grad()
def logit_lens(view: View, sublayers: bool = False, k: int = 5) -> LogitLens:
    """The stream before the first block and after each one (between attention and feed-forward too, if `sublayers`),
    read with the final norm, its scale computed anew at each place, and the output head (nostalgebraist 2020)."""
    check_positive("k", k)
    layers = range(view.model.config.n_layers)
    names = ["blocks.0.hook_resid_pre"]
    for layer in layers:
        middle = f"blocks.{layer}.hook_resid_mid"
        names += [middle] if sublayers and middle in view.shapes else []
        names.append(f"blocks.{layer}.hook_resid_post")
    k = min(k, view.model.config.vocab_size)
    next_T1 = torch.tensor([*view.ids[1:], 0], device=view.logits_TV.device)[:, None]
    rows = []
    for name in names:
        log_probs_TV = view.model.unembed(view.model.ln_final(view[name])).log_softmax(-1)
        top = log_probs_TV.topk(k)
        loss_T = -log_probs_TV.gather(1, next_T1)[:, 0]
        loss_T[-1] = math.nan
        rows.append((top.indices, top.values.exp(), loss_T, entropy(log_probs_TV.exp())))
    return LogitLens(names, *(torch.stack(column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True)
class Attribution:
    """What each part adds to a logit, or to a difference of two; they sum to `logit`.

    names: the address at which each part can be edited, as `blocks.0.attn.hook_z[head=1]`; `biases`, where there are
    any; and under edits `edits`: what the parts cannot account for. parts_N: what each adds. of: which logit, in words.
    """

    of: str
    names: list[str]
    parts_N: Tensor
    logit: float

    def __getitem__(self, name: str) -> float:
        if name not in self.names:
            raise ValueError(f"there is no part {name!r}{did_you_mean(name, self.names)}")
        return float(self.parts_N[self.names.index(name)])

    def largest(self, k: int = 10) -> list[tuple[str, float]]:
        """The parts that matter most, either way."""
        order = self.parts_N.abs().argsort(descending=True)[:k].tolist()
        return [(self.names[i], float(self.parts_N[i])) for i in order]

    def __repr__(self) -> str:
        return "\n".join([f"{self.of}: {self.logit:+.3f}", *(f"  {n:30}{x:+.3f}" for n, x in self.largest())])


@torch.no_grad()
def attribute(view: View, token: str | int, minus: str | int | None = None, position: int = -1) -> Attribution:
    """Direct logit attribution (Elhage et al. 2021): the logit of `token` after `position`, or its logit less that of
    `minus`, as a sum over all that was added to the stream.

    The final norm is exactly that of this pass: its scale, one number for this position, is taken as it was, and what
    is left of the norm (taking off the mean, gain) is linear, so that each part goes through it on its own. Its bias,
    and those of the blocks' two output matrices, are `biases`; biases within a block stay with the part that uses them.
    Sums are taken in float64. Under edits a part is what the model went on with; attention whose sum was changed is one
    part, blocks.N.hook_attn_out, as the heads have no share in it. Raises ValueError for a token or a position that is
    not there, or a norm that is not one of the house's.
    """
    model, target = view.model, view.target(token, minus, position)
    chosen_C, *other_C = model.unembed.weight[target.ids].double()
    direction_C = chosen_C - sum(other_C)
    parts = stream_parts(view, target.position)
    read_C = final_norm_frozen(view, target.position, direction_C)
    found = {name: float(part_C.double() @ read_C) for name, part_C in parts.items()}
    if isinstance(norm := final_norm(model), LayerNorm):
        found["biases"] = found.get("biases", 0.0) + float(norm.bias.double() @ direction_C)
    logit = float(target(view.logits_TV.double()))
    if view.edited:
        found["edits"] = logit - sum(found.values())
    return Attribution(target.of, list(found), torch.tensor(list(found.values()), dtype=torch.float64), logit)


def stream_parts(view: View, position: int) -> dict[str, Tensor]:
    """All that was added to the stream at a position, each of shape (C,), with the blocks' output biases in one sum."""
    parts: dict[str, Tensor] = {
        name: view[name][position] for name in ("hook_embed", "hook_pos_embed") if name in view.shapes
    }
    biases = []
    for layer in range(view.model.config.n_layers):
        block, attn, mlp = block_of(view.model, layer), f"blocks.{layer}.hook_attn_out", f"blocks.{layer}.hook_mlp_out"
        if attn in view.edited:
            parts[attn] = view[attn][position]
        else:
            results_HC = view[f"blocks.{layer}.attn.hook_result"][position]
            parts |= {head_address(layer, head): result_C for head, result_C in enumerate(results_HC)}
            biases.append(block.attn.out.bias)
        if block.has_mlp:
            parts[mlp] = view[mlp][position]
            if mlp not in view.edited and block.mlp.down.bias is not None:
                parts[mlp] = parts[mlp] - block.mlp.down.bias
                biases.append(block.mlp.down.bias)
    if there := tuple(bias for bias in biases if bias is not None):
        parts["biases"] = torch.stack(there).sum(0)
    return parts


def final_norm_frozen(view: View, position: int, direction_C: Tensor) -> Tensor:
    """The direction in the stream whose product with it is `direction_C` read behind the final norm, its scale frozen
    as it was in this pass, and its bias left out; float64."""
    norm = final_norm(view.model)
    scaled_C = direction_C.double() * norm.weight / view["ln_final.hook_scale"][position].double()
    # Taking off the mean is a projection: it may as well be done to the reader as to what is read.
    return scaled_C - scaled_C.mean() if isinstance(norm, LayerNorm) else scaled_C


@torch.no_grad()
def output_logits(model: Transformer, direction_NC: Tensor) -> Tensor:
    """What directions in the stream do to each logit, shape (N, V), through the gain of the final norm; how much
    depends on its scale, which is another at each position, so only the ratios say something."""
    norm = final_norm(model)
    if isinstance(norm, LayerNorm):
        direction_NC = direction_NC - direction_NC.mean(-1, keepdim=True)
    logits_NV: Tensor = model.unembed(direction_NC * norm.weight)
    return logits_NV


def final_norm(model: Transformer) -> LayerNorm | RMSNorm:
    """Raises ValueError for one of which it is not known what it does but scale."""
    norm = model.ln_final
    if not isinstance(norm, LayerNorm | RMSNorm):
        raise ValueError(f"{type(norm).__name__} may not be linear once its scale is known; use layernorm or rmsnorm")
    return norm
