"""Neurons of the feed-forward layers: what wakes each of them, and what it then says.

N tokens of a batch, F neurons, L layers, K the top few, W tokens of context, C channels (`d_model`), V vocabulary.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from barreleye.data.batches import IGNORE, ChatBatches, TextBatches
from barreleye.data.tokenizer import Tokenizer
from barreleye.files import read_tensors, write_file
from barreleye.lens.attribution import output_logits
from barreleye.lens.subject import Who, block_of, check_index, likeliest, run_of, saved_ns, subject_of
from barreleye.lens.view import evaluating
from barreleye.model.transformer import Transformer
from barreleye.training.material import make_batches

KEPT = 12  # top activations of each neuron
CONTEXT = 12  # tokens up to and with the one that woke it
TOKENS = 200_000  # read unless told otherwise, which takes about a minute for the default fish
NONE = -1  # fills a context that begins before the row does

Rows = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Example:
    """How strongly a neuron woke, at which token, and what stood before it."""

    value: float
    token: str
    before: str


def top_activations(
    who: Who, layer: int, neuron: int, k: int = KEPT, tokens: int = TOKENS, step: int | None = None
) -> list[Example]:
    """The tokens of a run's training side at which a neuron (`mlp.hook_post`) was most active, with the text before.

    The first question reads as many tokens as told, in batches drawn at random (the first epoch, in its order), and
    keeps the answers for all neurons in the run's cache/; later ones look there. Raises ValueError for a neuron that is
    not there, a run without feed-forward layers, or a k beyond the 12 that are kept.
    """
    run = run_of(who, "text that it learned from")
    config = run.config.model
    if not config.d_ff:
        raise ValueError(f"{run.path} has no feed-forward layers, and so no neurons")
    check_index("layer", layer, config.n_layers)
    check_index("neuron", neuron, config.d_ff)
    if not 1 <= k <= KEPT:
        raise ValueError(f"k must be 1 to {KEPT}, which are kept of each neuron, not {k}")
    at = f"{'last' if step is None else step}-{saved_ns(run, step)}"
    file = run.path / "cache" / f"neurons-{at}-{tokens}.safetensors"
    if not file.exists():
        whole = replace(run.config, train=replace(run.config.train, loss_on="all"))  # prompts wake neurons too
        batches = make_batches(run.corpus(), run.tokenizer, whole, run.path / "cache")
        _save(file, *collect(subject_of(run, step).model, first_tokens(batches, tokens)))
    found = read_tensors(file)
    values_K, contexts_KW = found["values_LFK"][layer, neuron], found["contexts_LFKW"][layer, neuron]
    return list(_shown(values_K[:k], contexts_KW[:k], run.tokenizer))


def first_tokens(batches: ChatBatches | TextBatches, tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the training side, in the order of the first epoch, until that many tokens are read or all are."""
    for n in range(batches.per_epoch):
        if tokens <= 0:
            return
        tokens_BT, targets_BT = batches(n)
        yield tokens_BT, targets_BT
        tokens -= int((targets_BT != IGNORE).sum())


@torch.no_grad()
def collect(model: Transformer, rows: Rows, k: int = KEPT) -> tuple[Tensor, Tensor]:
    """The k largest activations of every neuron over batches of (tokens_BT, targets_BT), as values_LFK in order, and
    the ids of the tokens that led to them, contexts_LFKW. One batch is held at a time."""
    config, device = model.config, model.embed.weight.device
    values_LFK = torch.full((config.n_layers, config.d_ff, k), -torch.inf, device=device)
    contexts_LFKW = torch.full((config.n_layers, config.d_ff, k, CONTEXT), NONE, dtype=torch.int32, device=device)
    for tokens_BT, targets_BT in rows:
        tokens_BT, targets_BT = tokens_BT.to(device), targets_BT.to(device)
        there_N = (targets_BT != IGNORE).flatten()
        windows_NW = F.pad(tokens_BT, (CONTEXT - 1, 0), value=NONE).unfold(1, CONTEXT, 1).flatten(0, 1)[there_N].int()

        def tap(name: str, x: Tensor, there_N: Tensor = there_N, windows_NW: Tensor = windows_NW) -> Tensor:
            if name.endswith("mlp.hook_post"):
                layer = int(name.split(".")[1])
                post_FN = x.flatten(0, 1)[there_N].T
                new = post_FN.topk(min(k, post_FN.shape[1]))
                both_FJ = torch.cat([values_LFK[layer], new.values], 1)
                contexts_FJW = torch.cat([contexts_LFKW[layer], windows_NW[new.indices]], 1)
                best = both_FJ.topk(k)
                values_LFK[layer] = best.values
                contexts_LFKW[layer] = contexts_FJW.gather(1, best.indices[..., None].expand(-1, -1, CONTEXT))
            return x

        with evaluating(model):
            model(tokens_BT, tap=tap)
    return values_LFK, contexts_LFKW


def neuron_output(
    who: Who, layer: int, neuron: int, k: int = 10, step: int | None = None
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """What a neuron says when it is active: the tokens that its output makes most likely, and those it makes least
    likely, with the change of their logits up to the final norm's scale."""
    model, tokenizer, _ = subject_of(who, step)
    if not model.config.d_ff:
        raise ValueError("this model has no feed-forward layers, and so no neurons")
    check_index("neuron", neuron, model.config.d_ff)
    logits_V = output_logits(model, block_of(model, layer).mlp.down.weight[:, neuron])
    return likeliest(tokenizer, logits_V, k), likeliest(tokenizer, logits_V, k, largest=False)


def _save(file: Path, values_LFK: Tensor, contexts_LFKW: Tensor) -> None:
    from safetensors.torch import save

    file.parent.mkdir(exist_ok=True)
    write_file(file, save({"values_LFK": values_LFK, "contexts_LFKW": contexts_LFKW}))


def _shown(values_K: Tensor, contexts_KW: Tensor, tokenizer: Tokenizer) -> Iterator[Example]:
    for value, window in zip(values_K.tolist(), contexts_KW.tolist(), strict=True):
        ids = [i for i in window if i != NONE]
        if ids:
            yield Example(value, tokenizer.token_text(ids[-1]), tokenizer.decode(ids[:-1]))
