"""A look at one text: every activation by its TransformerLens name, what the model expected, what surprised it.

B batch, T time (position), C channels (`d_model`), H heads, D channels per head, V vocabulary, K the likeliest few.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from barreleye.lens.address import GRADIENT, Address, expand, parse
from barreleye.lens.subject import Subject, Text, Who, encode, subject_of, token_id
from barreleye.model.parts import Tap, no_tap
from barreleye.model.transformer import Transformer

KEPT_BYTES = 256 * 2**20  # of activations held after the first pass; others are computed again when asked for
RESULT, Z = "attn.hook_result", "attn.hook_z"


def look(
    who: Who,
    text: Text,
    step: int | None = None,
    names: str | Sequence[str] | None = None,
    chat: bool | None = None,
) -> "View":
    """Read `text` once and hold what happened.

    who: a run, its path or its name; or a model and its tokenizer.
    text: for a model that learned chats, what a person says to it, and it answers next; else a text to go on with.
        `chat=False` reads the text as it is. Turns of a chat (`Message`) and token ids are taken too.
    step: of a run, one of `run.snapshots()`: the model as it was then.
    names: which activations to hold, as `blocks.*.attn.hook_pattern` or several such; all that fit into 256 MiB unless
        told. Any other is computed by another pass when it is asked for.
    Raises ValueError for a text that is empty, too long, or cannot be encoded.
    """
    subject = subject_of(who, step)
    return View(subject, encode(subject, text, chat), names)


class View:
    """One text as one model read it; `print(view)` lists the names, `view[name]` gives the tensor, without a batch.

    ids, tokens: what was read, as numbers and for the eye. logits_TV: of the token after each position.
    shapes: name -> shape of every activation. is_edited: whether the pass was interfered with.
    """

    def __init__(
        self,
        subject: Subject,
        ids: Sequence[int],
        names: str | Sequence[str] | None = None,
        tap: Tap = no_tap,
    ) -> None:
        self.subject, self.model, self.tokenizer = subject, subject.model, subject.tokenizer
        self.ids = list(ids)
        self.tokens = [self.tokenizer.token_text(token) for token in self.ids]
        self.tap, self.is_edited = tap, tap is not no_tap
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._kept: dict[str, Tensor] = {}
        patterns = ["*"] if names is None else [names] if isinstance(names, str) else list(names)
        self.logits_TV = self._record(patterns)

    # What happened --------------------------------------------------------------------------------------------------

    def __getitem__(self, address: str) -> Tensor:
        """The activation at an address (lens/address.py), as the model went on with it.

        `..._grad` is the gradient of the mean loss with respect to it; `attn.hook_result` what each head adds to the
        stream, (T, H, C). A pattern with `*` stacks what it matches, layer by layer. Raises ValueError for an unknown
        name or index.
        """
        at = parse(address)
        if at.name.endswith(GRADIENT):
            plain = expand(Address(at.name.removesuffix(GRADIENT), at.where), self.names)
            found = self._gradients([each.name for each in plain], self._mean_loss)
        else:
            plain = expand(at, self.names)
            found = self._activations([each.name for each in plain])
        parts = [found[each.name][each.index(found[each.name].shape)] for each in plain]
        if "*" not in at.name and "?" not in at.name:
            return parts[0]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"{address!r} matches activations of different shapes; narrow it")
        return torch.stack(parts)

    @property
    def names(self) -> list[str]:
        """Every name there is, in the order of the pass."""
        return [
            name
            for tapped in self.shapes
            for name in ([tapped, tapped.replace(Z, RESULT)] if tapped.endswith(Z) else [tapped])
        ]

    def gradient(self, name: str, token: str | int, position: int = -1) -> Tensor:
        """Gradient of the logit of `token` at `position` with respect to an activation, of that activation's shape."""
        chosen = token_id(self.tokenizer, token)
        (at,) = expand(Address(name), self.names)
        return self._gradients([at.name], lambda logits_TV: logits_TV[position, chosen])[at.name]

    # What it expected -----------------------------------------------------------------------------------------------

    @cached_property
    def probs_TV(self) -> Tensor:
        """Probabilities of the token after each position."""
        return self.logits_TV.softmax(-1)

    @cached_property
    def loss_T(self) -> Tensor:
        """Cross-entropy of each token given those before it, in nats; nan for the first, which nothing predicts."""
        losses = F.cross_entropy(self.logits_TV[:-1], self._ids_T[1:], reduction="none")
        return torch.cat([losses.new_full((1,), math.nan), losses])

    @property
    def loss(self) -> float:
        """Mean of the losses, in nats per token; nan for a text of one token."""
        return float(self.loss_T[1:].mean())

    @property
    def surprise_T(self) -> Tensor:
        """The loss of each token in bits: -log2 of the probability that it had."""
        return self.loss_T / math.log(2)

    @property
    def entropy_T(self) -> Tensor:
        """How undecided the model was about the token after each position, in bits."""
        log_probs_TV = self.logits_TV.log_softmax(-1)
        return -(log_probs_TV.exp() * log_probs_TV).sum(-1) / math.log(2)

    def top(self, position: int = -1, k: int = 5) -> list[tuple[str, float]]:
        """The k likeliest tokens after a position, for the eye, with their probabilities."""
        probs_K, ids_K = self.probs_TV[position].topk(min(k, self.probs_TV.shape[-1]))
        return [(self.tokenizer.token_text(i), p) for i, p in zip(ids_K.tolist(), probs_K.tolist(), strict=True)]

    # For the eye ----------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        grouped = groupby(self.shapes.items(), lambda item: item[0].startswith("blocks."))
        lines = [f"View of {len(self.ids)} tokens{', edited' * self.is_edited}: {' '.join(self.tokens)}"]
        lines += [f"loss {self.loss:.3f} nats per token; then {self.top(k=3)}"]
        for in_blocks, group in grouped:
            for name, shape in group:
                if not in_blocks or name.startswith("blocks.0."):
                    shown = name.replace("blocks.0.", "blocks.{i}.") if in_blocks else name
                    lines.append(f"  {shown:34} {tuple(shape)}")
        layers = self.model.config.n_layers
        return "\n".join([*lines, f"  (i: 0 to {layers - 1}; also blocks.{{i}}.{RESULT}, and {GRADIENT} of any name)"])

    def _repr_html_(self) -> str:
        from barreleye.lens.figures import tokens_html

        return tokens_html(self)

    # The passes -----------------------------------------------------------------------------------------------------

    @cached_property
    def _ids_T(self) -> Tensor:
        return torch.tensor(self.ids, device=self.model.embed.weight.device)

    def _mean_loss(self, logits_TV: Tensor) -> Tensor:
        return F.cross_entropy(logits_TV[:-1], self._ids_T[1:])

    def _record(self, patterns: Sequence[str]) -> Tensor:
        room = KEPT_BYTES

        def tap(name: str, tensor: Tensor) -> Tensor:
            nonlocal room
            tensor = self.tap(name, tensor)
            self.shapes[name] = tuple(tensor.shape[1:])
            size = tensor.numel() * tensor.element_size()
            if size <= room and any(fnmatchcase(name, pattern) for pattern in patterns):
                room -= size
                self._kept[name] = tensor[0]
            return tensor

        with torch.no_grad():
            return self._run(tap)

    def _activations(self, names: Sequence[str]) -> dict[str, Tensor]:
        """By another pass where one was not held; a head's result is made of its z."""
        results = {name: name.replace(RESULT, Z) for name in names if name.endswith(RESULT)}
        needed = {results.get(name, name) for name in names}
        found = {name: self._kept[name] for name in needed & self._kept.keys()}
        if missing := needed - found.keys():
            with torch.no_grad():
                self._run(self._into(found, missing))
        weights = dict(self.model.named_modules())
        for name, z in results.items():
            out = weights[name.removesuffix("hook_result") + "out"].weight
            found[name] = head_results(found[z], out)
        return found

    def _gradients(self, names: Sequence[str], target: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        # All that a head adds passes through hook_attn_out unchanged, so its gradient is that of the sum.
        sums = {name: name.replace(RESULT, "hook_attn_out") for name in names if name.endswith(RESULT)}
        seen: dict[str, Tensor] = {}
        record = self._into(seen, {sums.get(name, name) for name in names}, leaves=True)
        with torch.enable_grad():
            scalar = target(self._run(record))
            found = torch.autograd.grad(scalar, list(seen.values()), allow_unused=True, materialize_grads=True)
        gradients = {name: gradient[0] for name, gradient in zip(seen, found, strict=True)}
        heads = self.model.config.n_heads
        return {
            name: gradients[sums[name]][:, None].expand(-1, heads, -1) if name in sums else gradients[name]
            for name in names
        }

    def _into(self, found: dict[str, Tensor], names: set[str], leaves: bool = False) -> Tap:
        """A tap that puts these activations into `found`, as leaves of a graph with their batch if asked."""

        def tap(name: str, tensor: Tensor) -> Tensor:
            tensor = self.tap(name, tensor)
            if name not in names:
                return tensor
            if leaves and not tensor.requires_grad:  # fixed positions have no gradient of their own
                tensor = tensor.detach().requires_grad_()
            found[name] = tensor if leaves else tensor[0]
            return tensor

        return tap

    def _run(self, tap: Tap) -> Tensor:
        with evaluating(self.model):
            return self.model(self._ids_T[None], tap=tap)[0]


def head_results(z_THD: Tensor, out_CC: Tensor) -> Tensor:
    """What each head adds to the stream before the bias, shape (T, H, C): z times its columns of W_O."""
    heads, width = z_THD.shape[-2:]
    out_CHD = out_CC.detach().unflatten(1, (heads, width))
    return torch.einsum("thd,chd->thc", z_THD, out_CHD)


def shapes_of(model: Transformer) -> dict[str, tuple[int, ...]]:
    """Every name that the model taps, with its shape for one token: what there is to look at and to edit."""
    shapes: dict[str, tuple[int, ...]] = {}

    def tap(name: str, tensor: Tensor) -> Tensor:
        shapes[name] = tuple(tensor.shape[1:])
        return tensor

    with torch.no_grad(), evaluating(model):
        model(torch.zeros(1, 1, dtype=torch.long, device=model.embed.weight.device), tap=tap)
    return shapes


@contextlib.contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """Without dropout, and then as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
