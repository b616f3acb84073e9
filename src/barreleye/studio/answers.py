"""What the page shows of a text: selected from what the lens computes, nothing computed anew.

T time (position), L layers, H heads, C channels (`d_model`), D channels per head, F neurons, K the top few, V
vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from barreleye.config import ModelConfig
from barreleye.data.tokenizer import Tokenizer
from barreleye.lens.attention import unmasked_scores
from barreleye.lens.attribution import attribute, logit_lens, output_logits
from barreleye.lens.edits import edit, zero
from barreleye.lens.subject import Subject, Text, block_of, check_index, encode
from barreleye.lens.view import View
from barreleye.studio.frames import Frame, finite

WRITES = 5  # tokens shown of what a neuron says
MOST_FLOATS = 2**24  # of one picture: 64 MiB
MOST_SCORES = 2**26  # of one layer while it reads: 256 MiB


@dataclass(frozen=True)
class Question:
    """want: some of WANTS. layer, head: for "stages". position: for "neurons", "attribution" and "logits".
    token: whose logit is attributed; the likeliest unless told. k: how many of the likeliest, and of the neurons."""

    want: Sequence[str] = ()
    layer: int = 0
    head: int = 0
    position: int = -1
    token: int | None = None
    k: int = 10


def look(
    subject: Subject,
    text: Text,
    off: Iterable[str] = (),
    question: Question | None = None,
    chat: bool | None = None,
) -> Frame:
    """Read a text (`chat` as in `lens.look`) with the parts at some addresses taken out, and answer. Raises ValueError
    as the lens does, and for more than a page can be sent."""
    question, config = question or Question(), subject.model.config
    ids = encode(subject, text, chat)
    check_size(config, len(ids), question)
    view = edit(subject, ids, dict.fromkeys(off, zero), names=held(config, question))
    return glance(view, question)


def check_size(config: ModelConfig, length: int, question: Question) -> None:
    """Raises ValueError for a text whose attention would fill the memory, or the page."""
    if config.n_heads * length**2 > MOST_SCORES:
        raise ValueError(f"attention over {length} tokens is too large to be looked at here; shorten the text")
    if "pattern" in question.want and config.n_layers * config.n_heads * length**2 > MOST_FLOATS:
        heads = f"{config.n_layers} layers of {config.n_heads} heads"
        raise ValueError(f"the attention of {heads} over {length} tokens is too large a picture; shorten the text")
    if "stages" in question.want:
        check_index("layer", question.layer, config.n_layers)
        check_index("head", question.head, config.n_heads)


def held(config: ModelConfig, question: Question) -> list[str]:
    """The activations that an answer is made of, so that one pass is enough."""
    stream = ["blocks.0.hook_resid_pre", "blocks.*.hook_resid_post"]
    names = {
        "pattern": ["blocks.*.attn.hook_pattern"],
        "lens": stream,
        "stages": [f"blocks.{question.layer}.attn.hook_*"],
        "residual": [*stream, "blocks.*.hook_*_out"],
        "neurons": ["blocks.*.mlp.hook_post"] if config.d_ff else [],
        "attribution": ["hook_*embed", "blocks.*.attn.hook_z", "blocks.*.hook_*_out", "ln_final.hook_scale"],
    }
    return [name for wanted in question.want for name in names.get(wanted, [])]


@torch.no_grad()
def glance(view: View, question: Question) -> Frame:
    """What every answer has, the tokens with their losses and the likeliest next ones; and what is wanted besides."""
    k = min(question.k, view.model.config.vocab_size)
    top = view.probs_TV.topk(k)
    header: dict[str, Any] = {
        "tokens": [{"id": i, "text": text} for i, text in zip(view.ids, view.tokens, strict=True)],
        "loss": [finite(loss) for loss in view.loss_T.tolist()],
        "top": ranked(view.tokenizer, top.indices, top.values, "probability"),
    }
    arrays: dict[str, Tensor] = {}
    for wanted in dict.fromkeys(question.want):
        more, pictures = WANTS[wanted](view, question)
        header |= more
        arrays |= pictures
    return Frame(header, arrays)


def ranked(tokenizer: Tokenizer, ids_TK: Tensor, values_TK: Tensor, what: str) -> list[list[dict[str, Any]]]:
    """Tokens with a figure each, row by row."""
    rows = ids_TK.tolist()
    text_of = {i: tokenizer.token_text(i) for i in {i for row in rows for i in row}}
    return [
        [{"id": i, "text": text_of[i], what: finite(x)} for i, x in zip(row, values, strict=True)]
        for row, values in zip(rows, values_TK.tolist(), strict=True)
    ]


# What may be wanted -------------------------------------------------------------------------------------------------

Part = tuple[dict[str, Any], dict[str, Tensor]]
"""More of the header, more arrays."""


def pattern(view: View, question: Question) -> Part:
    return {}, {"pattern": view["blocks.*.attn.hook_pattern"]}


def lens(view: View, question: Question) -> Part:
    """The likeliest token after each layer, and what the one that did come next was given there (nan for the last)."""
    found = logit_lens(view, k=1)
    best = zip(found.ids_NTK, found.probs_NTK, strict=True)
    rows = [[each for (each,) in ranked(view.tokenizer, ids_TK, probs_TK, "probability")] for ids_TK, probs_TK in best]
    return {"lens": rows}, {"lens_probability": (-found.loss_NT).exp()}


def stages(view: View, question: Question) -> Part:
    """One head: what it compares, where it looks, what it takes from there, and how much it adds to the stream."""
    # The picture of all heads has this one's pattern, and goes by the same name.
    at, where = f"blocks.{question.layer}.attn.hook_", f"[head={question.head}]"
    pattern_QK = view[f"{at}pattern{where}"]
    return {}, ({} if "pattern" in question.want else {"pattern": pattern_QK}) | {
        "scores": unmasked_scores(view, question.layer, question.head),
        "z": view[f"{at}z{where}"],
        "result": view[f"{at}result{where}"].norm(dim=-1),
    }


def residual(view: View, question: Question) -> Part:
    """How long the stream is, and what is added to it. Without feed-forward layers they add nothing."""
    stream_NTC = torch.cat([view["blocks.0.hook_resid_pre"][None], view["blocks.*.hook_resid_post"]])
    attn_LTC = view["blocks.*.hook_attn_out"]
    mlp_LTC = view["blocks.*.hook_mlp_out"] if view.model.config.d_ff else torch.zeros_like(attn_LTC)
    names = "resid_norm", "attn_norm", "mlp_norm"
    return {}, {n: x.norm(dim=-1) for n, x in zip(names, (stream_NTC, attn_LTC, mlp_LTC), strict=True)}


def neurons(view: View, question: Question) -> Part:
    """Those of each layer that are farthest from 0 at a position, and what each makes likelier by that: a neuron below
    0 takes away what it says."""
    model, position = view.model, view.position(question.position)
    layers = []
    for layer in range(model.config.n_layers) if model.config.d_ff else ():
        post_F = view[f"blocks.{layer}.mlp.hook_post[position={position}]"]
        chosen_K = post_F.abs().topk(min(question.k, len(post_F))).indices
        direction_KC = block_of(model, layer).mlp.down.weight.T[chosen_K] * post_F[chosen_K, None].sign()
        writes = output_logits(model, direction_KC).topk(min(WRITES, model.config.vocab_size)).indices.tolist()
        layers.append(
            [
                {"neuron": n, "activation": finite(x), "writes": [view.tokenizer.token_text(i) for i in ids]}
                for n, x, ids in zip(chosen_K.tolist(), post_F[chosen_K].tolist(), writes, strict=True)
            ]
        )
    return {"neurons": layers}, {}


def attribution(view: View, question: Question) -> Part:
    """What each part adds to the logit of one token, the most first, either way."""
    position = view.position(question.position)
    token = int(view.logits_TV[position].argmax()) if question.token is None else question.token
    found = attribute(view, token, position=position)
    parts = [{"part": name, "value": finite(value)} for name, value in found.largest(len(found.names))]
    chosen = {"id": token, "text": view.tokenizer.token_text(token), "logit": finite(found.logit)}
    return {"attribution": parts, "attribution_of": chosen | {"position": position}}, {}


def logits(view: View, question: Question) -> Part:
    return {}, {"logits": view.logits_TV[view.position(question.position)]}


WANTS: dict[str, Callable[[View, Question], Part]] = {
    "pattern": pattern,
    "lens": lens,
    "stages": stages,
    "residual": residual,
    "neurons": neurons,
    "attribution": attribution,
    "logits": logits,
}
