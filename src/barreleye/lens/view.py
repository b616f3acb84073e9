"""A look at one text: every activation by its TransformerLens name, what the model expected, what surprised it.

B batch, T time (position), C channels (`d_model`), H heads, D channels per head, V vocabulary, K the likeliest few.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from barreleye.lens.address import GRADIENT, Address, expand, parse
from barreleye.lens.subject import Subject, Text, Who, encode, likeliest, subject_of, token_id
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
    step: of a run, one of `run.steps()`: the model as it was then.
    names: which activations to hold, as `blocks.*.attn.hook_pattern` or several such; all that fit into 256 MiB unless
        told. Any other is computed by another pass when it is asked for.
    Raises ValueError for a text that is empty, too long, or cannot be encoded, and for names that are not there.
    """
    subject = subject_of(who, step)
    return View(subject, encode(subject, text, chat), names)


@dataclass(frozen=True)
class Target:
    """What is to be explained: the logit of a token after a position, or a logit difference, to which most is common
    that has nothing to do with the choice. of: it, in words. ids: the token, and perhaps the one it is compared with.
    """

    of: str
    ids: list[int]
    position: int

    def __call__(self, logits_BTV: Tensor) -> Tensor:
        """Its value in each row."""
        chosen = logits_BTV[..., self.position, self.ids]
        return chosen[..., 0] - chosen[..., 1:].sum(-1)


class View:
    """One text as one model read it; `print(view)` lists the names, `view[name]` gives the tensor, without a batch.

    ids, tokens: what was read, as numbers and for the eye. logits_TV: of the token after each position.
    shapes: name -> shape of every activation. edited: the names of those that were interfered with.
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
        self.tap, self.edited = tap, set[str]()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._kept: dict[str, Tensor] = {}
        patterns = ["*"] if names is None else [names] if isinstance(names, str) else list(names)
        self.logits_TV = self._record([pattern.replace("hook_result", "hook_z") for pattern in patterns])
        for pattern in patterns:
            expand(Address(pattern), self.names)

    # What happened --------------------------------------------------------------------------------------------------

    def __getitem__(self, address: str) -> Tensor:
        """The activation at an address (lens/address.py), as the model went on with it.

        `..._grad` is the gradient of the mean loss with respect to it; `attn.hook_result` what each head adds to the
        stream, (T, H, C). A pattern with `*` stacks what it matches, layer by layer. Raises ValueError for an unknown
        name or index.
        """
        at = parse(address)
        if at.name.endswith(GRADIENT):
            plain = Address(at.name.removesuffix(GRADIENT), at.where)
            return self._select(plain, lambda names: self._gradients(names, self._mean_loss))
        return self._select(at, self._activations)

    def _select(self, address: Address, compute: Callable[[Sequence[str]], dict[str, Tensor]]) -> Tensor:
        plain = expand(address, self.names)
        found = compute([each.name for each in plain])
        parts = [found[each.name][each.index(found[each.name].shape)] for each in plain]
        if not {"*", "?"} & set(address.name):
            return parts[0]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"{address} matches activations of different shapes; narrow it")
        return torch.stack(parts)

    @property
    def names(self) -> list[str]:
        """Every name there is, in the order of the pass."""
        return [
            name
            for tapped in self.shapes
            for name in ([tapped, tapped.replace(Z, RESULT)] if tapped.endswith(Z) else [tapped])
        ]

    def gradient(self, address: str, token: str | int, minus: str | int | None = None, position: int = -1) -> Tensor:
        """Gradient of the logit of `token` after `position`, or of that logit less the one of `minus`, with respect to
        an activation, of its shape."""
        target = self.target(token, minus, position)
        return self._select(parse(address), lambda names: self._gradients(names, target))

    def target(self, token: str | int, minus: str | int | None = None, position: int = -1) -> Target:
        """The logit of `token` after `position`, or that logit less the one of `minus`. Raises ValueError for a token
        or a position that is not there."""
        after = self.position(position)
        ids = [token_id(self.tokenizer, each) for each in (token, minus) if each is not None]
        words = " minus ".join(repr(self.tokenizer.token_text(i)) for i in ids)
        return Target(f"logit of {words} after {self.tokens[after]!r} (position {after})", ids, after)

    def position(self, at: int) -> int:
        """Counted from the beginning, where a negative one counts from the end. Raises ValueError beyond either."""
        if not -len(self.ids) <= at < len(self.ids):
            raise ValueError(f"there is no position {at}; there are 0 to {len(self.ids) - 1}")
        return at % len(self.ids)

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
        return entropy(self.probs_TV)

    def top(self, position: int = -1, k: int = 5) -> list[tuple[str, float]]:
        """The k likeliest tokens after a position, for the eye, with their probabilities."""
        return likeliest(self.tokenizer, self.probs_TV[self.position(position)], k)

    # For the eye ----------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        grouped = itertools.groupby(self.shapes.items(), lambda item: item[0].startswith("blocks."))
        lines = [f"View of {len(self.ids)} tokens{', edited' * bool(self.edited)}: {' '.join(self.tokens)}"]
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
            before, tensor = tensor, self.tap(name, tensor)
            if tensor is not before:
                self.edited.add(name)
            self.shapes[name] = tuple(tensor.shape[1:])
            size = tensor.numel() * tensor.element_size()
            if size <= room and any(fnmatchcase(name, pattern) for pattern in patterns):
                room -= size
                self._kept[name] = self._row(tensor)
            return tensor

        with torch.no_grad():
            return self._run(tap)

    def _activations(self, names: Sequence[str]) -> dict[str, Tensor]:
        """By another pass where one was not held; a head's result is made of its z."""
        results = {name: name.replace(RESULT, Z) for name in names if name.endswith(RESULT)}
        needed = {results.get(name, name) for name in names}
        found = {name: self._kept[name] for name in needed & self._kept.keys()}
        missing = needed - found.keys()

        def tap(name: str, tensor: Tensor) -> Tensor:
            tensor = self.tap(name, tensor)
            if name in missing:
                found[name] = self._row(tensor)
            return tensor

        if missing:
            with torch.no_grad():
                self._run(tap)
        weights = dict(self.model.named_modules())
        for name, z in results.items():
            out = weights[name.removesuffix("hook_result") + "out"].weight
            found[name] = head_results(found[z], out)
        return found

    def _gradients(self, names: Sequence[str], target: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        # All that a head adds becomes part of the sum unchanged: its gradient is the sum's, before that may be edited.
        sums = {name.replace(RESULT, "hook_attn_out"): name for name in names if name.endswith(RESULT)}
        seen: dict[str, Tensor] = {}

        def leaf(name: str, tensor: Tensor) -> Tensor:
            # Fixed positions have no gradient of their own.
            seen[name] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
            return seen[name]

        def tap(name: str, tensor: Tensor) -> Tensor:
            if name in sums:
                tensor = leaf(sums[name], tensor)
            tensor = self.tap(name, tensor)
            return leaf(name, tensor) if name in names else tensor

        with torch.enable_grad():
            scalar = target(self._run(tap))
            found = torch.autograd.grad(scalar, list(seen.values()), allow_unused=True, materialize_grads=True)
        gradients = {name: gradient[0] for name, gradient in zip(seen, found, strict=True)}
        heads = self.model.config.n_heads
        return gradients | {name: gradients[name][:, None].expand(-1, heads, -1) for name in sums.values()}

    def _row(self, tensor: Tensor) -> Tensor:
        """Without the batch; a copy of what is a part of the model, through which it could be changed."""
        row = tensor.detach()[0]
        return row.clone() if row.untyped_storage().data_ptr() in self._memory else row

    @cached_property
    def _memory(self) -> set[int]:
        """Where the weights lie."""
        own = itertools.chain(self.model.parameters(), self.model.buffers())
        return {each.untyped_storage().data_ptr() for each in own}

    def _run(self, tap: Tap) -> Tensor:
        with evaluating(self.model):
            return self.model(self._ids_T[None], tap=tap)[0]


def entropy(probs_TV: Tensor) -> Tensor:
    """Of each row, in bits."""
    return torch.special.entr(probs_TV).sum(-1) / math.log(2)


def head_results(z_THD: Tensor, out_CC: Tensor) -> Tensor:
    """What each head adds to the stream before the bias, shape (T, H, C): z times its columns of W_O."""
    heads, width = z_THD.shape[-2:]
    out_CHD = out_CC.detach().unflatten(1, (heads, width))
    return torch.einsum("thd,chd->thc", z_THD, out_CHD)


def shapes_of(model: Transformer) -> dict[str, tuple[int, ...]]:
    """Every name that the model taps, with its shape for one token: what there is to look at and to edit."""
    parts = [id(module) for module in model.modules()]  # those that it has now: a part may be exchanged
    if model in _shapes and _shapes[model][0] == parts:
        return _shapes[model][1]
    shapes: dict[str, tuple[int, ...]] = {}

    def tap(name: str, tensor: Tensor) -> Tensor:
        shapes[name] = tuple(tensor.shape[1:])
        return tensor

    with torch.no_grad(), evaluating(model):
        model(torch.zeros(1, 1, dtype=torch.long, device=model.embed.weight.device), tap=tap)
    _shapes[model] = parts, shapes
    return shapes


_shapes: WeakKeyDictionary[Transformer, tuple[list[int], dict[str, tuple[int, ...]]]] = WeakKeyDictionary()
"""A pass over one token reads all weights, which takes as long as a pass over a short text."""


@contextlib.contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """Without dropout, and then as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
