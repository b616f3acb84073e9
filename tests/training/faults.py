"""Trainings that go wrong, each in one known way, and trainings in which nothing is wrong: what the doctor is tried on.

A fault is planted where it would happen: in the options, in the data, in the model or in its batches. The doctor sees
the record alone. Faults whose number leaves 2 when divided by 3 are held back: they were written down before any check
was tried, and no check was tuned on them. Some are extreme; the graded ones (a tenth or ten times what is right) were
taken where the loss of the training showed that they hurt.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from barreleye.data.batches import TextBatches
from barreleye.data.persona import converse
from barreleye.data.sheet_file import load_persona
from barreleye.model import transformer
from barreleye.model.transformer import Block, Transformer
from barreleye.run import Run
from barreleye.training import grow as grow_module
from barreleye.training import material
from barreleye.training.doctor import diagnose
from barreleye.training.grow import grow, resume
from barreleye.training.muon import Muon
from barreleye.training.record import Finding

BASE: dict[str, Any] = dict(
    n_layers=3, n_heads=2, d_model=32, d_ff=96, context_length=32, batch_tokens=512, steps=200, warmup_steps=20,
    eval_every=40, record_every=20, snapshots=0, sample_every=10_000, save_every=10_000, device="cpu", threads=1,
    precision="float32", quiet=True,
)  # fmt: skip
SHAPE = ("n_layers", "n_heads", "d_model", "d_ff", "context_length")
CHATS: dict[str, Any] = dict(persona="fish", conversations=1500, vocab=500)


@functools.cache
def said_by(persona: str, seed: int, n: int = 3000) -> str:
    """What a character was asked and said, as a text."""
    chats = converse(load_persona(persona), n=n, seed=seed)
    return "".join("".join(f"{m.content}\n" for m in chat.messages) + "\n" for chat in chats)


# Models that are wrong ---------------------------------------------------------------------------------------------


def initialized(change: Callable[[Transformer], None]) -> type[Transformer]:
    """A model whose weights begin otherwise."""

    class Changed(Transformer):
        def init_weights(self) -> None:
            super().init_weights()
            with torch.no_grad():
                change(self)

    return Changed


def with_blocks(change: Callable[[Tensor], Tensor]) -> type[Transformer]:
    """A model in which something is done to the residual stream behind each block."""

    class Changed(Transformer):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for block in self.blocks:
                block.register_forward_hook(lambda module, inputs, output: change(output))

    return Changed


def scaled_gradient(factor: float) -> Callable[[Tensor], Tensor]:
    def change(x_BTC: Tensor) -> Tensor:
        if x_BTC.requires_grad:
            x_BTC.register_hook(lambda gradient: gradient * factor)
        return x_BTC

    return change


def large_outputs(model: Transformer) -> None:
    for block in model.blocks:
        block.attn.out.weight.normal_(std=8.0)
        block.mlp.down.weight.normal_(std=8.0)


def dead_from_birth(model: Transformer) -> None:
    for block in model.blocks:
        block.mlp.up.bias.fill_(-6.0)


def dead_layer(model: Transformer) -> None:
    model.blocks[1].mlp.up.bias.fill_(-20.0)


def sharp_attention(model: Transformer) -> None:
    for block in model.blocks:
        block.attn.qkv.weight[: 2 * model.config.d_model] *= 12.0


class NoAttention(Transformer):
    """Its attention is computed, and lost."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attn.register_forward_hook(lambda module, inputs, output: output * 0.0)


class Blind(Transformer):
    """Every token is read as token 0."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embed.register_forward_hook(lambda module, inputs, output: self.embed.weight[0].expand_as(output))


class FrozenBlocks(Transformer):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.blocks.requires_grad_(False)


class FrozenEmbedding(Transformer):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embed.requires_grad_(False)


class PoisonedAtStep30(Transformer):
    """A gradient of the middle is nan from the thirtieth backward pass of the training on."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.passes = 0
        self.blocks[1].mlp.down.weight.register_post_accumulate_grad_hook(self.poison)

    def poison(self, parameter: Tensor) -> None:
        self.passes += 1
        if self.passes > 30 and parameter.grad is not None:
            parameter.grad[0, 0] = math.nan


def mask(visible: Callable[[int, int], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Scores of attention under another mask: visible(queries, keys) -> (Q, K) of booleans."""

    def scores(q_BTHD: Tensor, k_BTHD: Tensor) -> Tensor:
        scores_BHQK = q_BTHD.transpose(1, 2) @ k_BTHD.permute(0, 2, 3, 1) / math.sqrt(q_BTHD.shape[-1])
        return scores_BHQK.masked_fill(~visible(*scores_BHQK.shape[-2:]), -math.inf)

    return scores


# Batches that are wrong --------------------------------------------------------------------------------------------


class ShuffledTargets(TextBatches):
    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        tokens_BT, targets_BT = super().__call__(n)
        order = torch.randperm(targets_BT.numel(), generator=torch.Generator().manual_seed(n))
        return tokens_BT, targets_BT.flatten()[order].view_as(targets_BT)


class UnshiftedTargets(TextBatches):
    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        tokens_BT, _ = super().__call__(n)
        return tokens_BT, tokens_BT.clone()


class ShiftedByTwo(TextBatches):
    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        tokens_BT, targets_BT = super().__call__(n)
        return tokens_BT[:, :-1], targets_BT[:, 1:]


class HalfRandomTargets(TextBatches):
    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        tokens_BT, targets_BT = super().__call__(n)
        dice = torch.Generator().manual_seed(n)
        order = torch.randperm(targets_BT.numel(), generator=dice)
        is_random_BT = torch.rand(targets_BT.shape, generator=dice) < 0.5
        return tokens_BT, torch.where(is_random_BT, targets_BT.flatten()[order].view_as(targets_BT), targets_BT)


class OneBatch(TextBatches):
    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        return super().__call__(0)


def keep_gradients(optimizer: Optimizer, set_to_none: bool = True) -> None:
    """As sums: the loop has made means of them."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad *= BASE["batch_tokens"]


# The table ---------------------------------------------------------------------------------------------------------

TOO_HIGH, TOO_LOW, WARMUP = "learning rate too high", "learning rate too low", "warm-up is missing"
STILL, DECAY = "weights that do not move", "weight decay too high"
NOT_NEXT = "the targets are not the tokens that come next"
NOTHING = "it learned no more than how often each token comes"
LARGE, SMALL = "initialization too large", "initialization too small"
HIDDEN = "the past is hidden: each position sees its own token alone"
LEAKS = "the mask leaks: the model sees the tokens that it should predict"


@dataclass(frozen=True)
class Fault:
    """Options, or a part of the code that is replaced while it is trained, or the making of its data: of a text, or of
    the whole run. `cause`: the name of the finding that should come first."""

    name: str
    cause: str
    options: dict[str, Any] = field(default_factory=dict)
    model: type[Transformer] | None = None
    batches: type[TextBatches] | None = None
    scores: Callable[[Tensor, Tensor], Tensor] | None = None
    clear: Callable[..., None] | None = None  # of the gradients, instead of the optimizers' own
    text: Callable[[int], str] = lambda seed: said_by("fish", seed)
    grown: Callable[[Path, int, dict[str, Any]], None] | None = None


def copies(seed: int) -> str:
    return said_by("fish", seed, 150) * 20


def leaking(seed: int) -> str:
    learned = said_by("fish", seed)
    return learned + learned[: len(learned) // 8]  # the last tenth of all is held out


def other_tokenizer(folder: Path, seed: int, options: dict[str, Any]) -> None:
    """The tokenizer of a cat, for chats about sums."""
    cat = grow("cat", out=folder / "cat", conversations=400, **(BASE | dict(vocab=700, steps=1, seed=seed)))
    sums = [(a, b) for a in range(30) for b in range(20)]
    rows = [
        {"messages": [{"role": "user", "content": f"{a}+{b}"}, {"role": "assistant", "content": f"{a + b}"}]}
        for a, b in sums
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    kept = {name: value for name, value in options.items() if name not in SHAPE}
    grow(chats=folder / "sums.jsonl", from_run=cat, out=folder / "run", **kept)


def copied_chats(folder: Path, seed: int, options: dict[str, Any]) -> None:
    rows = [
        {"messages": [{"role": m.role, "content": m.content} for m in chat.messages]}
        for chat in converse(load_persona("fish"), n=300, seed=seed)
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 10), encoding="utf-8")
    grow(chats=folder / "chats.jsonl", out=folder / "run", **options)


def fine_tuned(folder: Path, seed: int, options: dict[str, Any]) -> None:
    """From what a fish says to what a cat says, in the fish's letters."""
    kept = {name: value for name, value in options.items() if name not in SHAPE}
    known = set(said_by("fish", seed))
    (folder / "fish.txt").write_text(said_by("fish", seed), encoding="utf-8")
    (folder / "cat.txt").write_text("".join(c for c in said_by("cat", seed) if c in known), encoding="utf-8")
    first = grow(text=folder / "fish.txt", out=folder / "first", **(BASE | dict(seed=seed)))
    grow(text=folder / "cat.txt", from_run=first, out=folder / "run", **kept)


ADAMW = dict(optimizer="adamw")
FAULTS = [
    Fault("AdamW at a rate of 1", TOO_HIGH, ADAMW | dict(learning_rate=1.0)),
    Fault("Muon at a rate of 3", TOO_HIGH, dict(muon_rate=3.0)),
    Fault("AdamW at a constant rate of 0.2", TOO_HIGH, ADAMW | dict(learning_rate=0.2, schedule="constant")),
    Fault("AdamW at a rate of a millionth", TOO_LOW, ADAMW | dict(learning_rate=1e-6)),
    Fault("both rates a thousandth", TOO_LOW, dict(learning_rate=3e-6, muon_rate=1.4e-5)),
    Fault("AdamW at 0.05 from the first step", WARMUP, ADAMW | dict(learning_rate=0.05, warmup_steps=0)),
    Fault("matrices at 2", LARGE, dict(init_std=2.0)),
    Fault("embeddings at 2", LARGE, dict(embed_std=2.0)),
    Fault("matrices at a hundred-thousandth", SMALL, dict(init_std=1e-5)),
    Fault("output projections at 8", LARGE, model=initialized(large_outputs)),
    Fault("units below zero from birth", "dead units", dict(activation="relu"), initialized(dead_from_birth)),
    Fault("one layer far below zero", "dead units", dict(activation="relu2"), initialized(dead_layer)),
    Fault("queries and keys twelve times as large", "attention collapsed: each query looks at one key",
          model=initialized(sharp_attention)),
    Fault("gradients a hundredfold in each block", "gradients explode on their way down",
          model=with_blocks(scaled_gradient(100.0))),
    Fault("gradients a hundredth in each block", "gradients vanish on their way down",
          model=with_blocks(scaled_gradient(0.01))),
    Fault("a gradient that is nan from step 31 on", "values that are not finite", model=PoisonedAtStep30),
    Fault("both rates a millionfold", TOO_HIGH, dict(learning_rate=3e3, muon_rate=1.4e4)),
    Fault("two thousand characters, two hundred times", "overfitting", dict(steps=600, d_model=64, d_ff=256),
          text=lambda seed: said_by("fish", seed, 40)[:2000]),
    Fault("targets shuffled", NOT_NEXT, batches=ShuffledTargets),
    Fault("targets not shifted", "the targets are the inputs", batches=UnshiftedTargets),
    Fault("attention lost", HIDDEN, model=NoAttention),
    Fault("a mask that shows the own token alone", HIDDEN,
          scores=mask(lambda q, k: torch.eye(q, k, dtype=torch.bool))),
    Fault("no mask", LEAKS, scores=mask(lambda q, k: torch.ones(q, k, dtype=torch.bool))),
    Fault("a mask that is off by one", LEAKS, scores=mask(lambda q, k: torch.ones(q, k, dtype=torch.bool).tril(1))),
    Fault("twenty copies of one text", "most of the data is there more than once", text=copies),
    Fault("a held-out part that was learned", "the held-out side is in the training side", text=leaking),
    Fault("a tokenizer of other words", "rows of the embedding that are never read", dict(steps=100),
          grown=other_tokenizer),
    Fault("batches of eight tokens", "batch small for the noise", dict(batch_tokens=8, context_length=8, steps=400)),
    Fault("chats of which nine in ten are copies", "most of the chats were copies", dict(steps=100),
          grown=copied_chats),
    Fault("every token read as one", "the tokens do not reach the logits", model=Blind),
    Fault("AdamW at a tenth of its rate", TOO_LOW, ADAMW | dict(learning_rate=3e-4)),
    Fault("AdamW at ten times its rate", TOO_HIGH, ADAMW | dict(learning_rate=0.03)),
    Fault("both rates a tenth", TOO_LOW, dict(learning_rate=3e-4, muon_rate=1.4e-3)),
    Fault("both rates nought", STILL, dict(learning_rate=0.0, muon_rate=0.0)),
    Fault("blocks that are frozen", STILL, model=FrozenBlocks),
    Fault("an embedding that is frozen", STILL, model=FrozenEmbedding),
    Fault("a weight decay of 100", DECAY, dict(weight_decay=100.0)),
    Fault("targets shifted by two", NOT_NEXT, batches=ShiftedByTwo),
    Fault("AdamW with a weight decay of 30", DECAY, ADAMW | dict(weight_decay=30.0)),
    Fault("dropout of 0.9", NOTHING, dict(dropout=0.9)),
    Fault("gradients that are never cleared", NOTHING, dict(clip=0.0), clear=keep_gradients),
    Fault("half of the targets random", NOT_NEXT, batches=HalfRandomTargets),
    Fault("fine-tuned with AdamW at a hundred times its rate", TOO_HIGH, ADAMW | dict(learning_rate=0.3),
          grown=fine_tuned),
    Fault("one batch for ever", "the same batch is read again and again", batches=OneBatch),
    Fault("a warm-up of 5000 steps, for 60", NOTHING, dict(steps=60, warmup_steps=5000)),
    Fault("Muon at thirty times its rate", TOO_HIGH, dict(muon_rate=0.42)),
    Fault("matrices five times as large", LARGE, dict(init_std=0.9)),
    Fault("both rates a thirtieth", TOO_LOW, dict(learning_rate=1e-4, muon_rate=4.7e-4)),
]  # fmt: skip
HELD_BACK = [fault for n, fault in enumerate(FAULTS) if n % 3 == 2]
TUNED = [fault for n, fault in enumerate(FAULTS) if n % 3 != 2]

MODERN = dict(positions="rope", norm="rmsnorm", activation="swiglu", bias=False, n_kv_heads=1)


def letters(seed: int, n: int = 60_000) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 26, n)


def spelled(ids: np.ndarray) -> str:
    return "".join(chr(ord("a") + i) for i in ids.tolist())


def weakly_dependent(seed: int) -> str:
    """Each letter is one of 26 at random, but one in ten times that which follows the one before it."""
    ids, dice = letters(seed), np.random.default_rng((seed, 1))
    for i in np.flatnonzero(dice.random(len(ids)) < 0.1)[1:]:
        ids[i] = (ids[i - 1] + 1) % 26
    return spelled(ids)


def repeated_sequences(seed: int) -> str:
    """Random letters, each row of them twice: what issue 5 grows induction heads on."""
    return spelled(np.tile(letters(seed).reshape(-1, 12), 2).flatten())


def markov_chain(seed: int) -> str:
    """Each letter is followed by one of three."""
    dice = np.random.default_rng(seed)
    follow, ids = dice.integers(0, 26, (26, 3)), [0]
    for turn in dice.integers(0, 3, 60_000):
        ids.append(int(follow[ids[-1], turn]))
    return spelled(np.array(ids))


def stopped_and_resumed(folder: Path, seed: int, options: dict[str, Any]) -> None:
    """To half its steps, and then on to all of them, with the looks that the first half had not."""
    (folder / "said.txt").write_text(said_by("fish", seed), encoding="utf-8")
    half = options | dict(steps=options["steps"] // 2, record_every=0)
    grow(text=folder / "said.txt", out=folder / "run", **half)
    resume(folder / "run", steps=options["steps"], record_every=options["record_every"], quiet=True)


HEALTHY = [
    Fault("text by characters", ""),
    Fault("chats", "", CHATS),
    Fault("Llama's block on chats", "", MODERN | CHATS),
    Fault("AdamW", "", ADAMW),
    Fault("a tycoon, replies alone", "", CHATS | dict(persona="tycoon", loss_on="replies")),
    Fault("two characters", "", dict(mix="fish:0.5,cat:0.5", conversations=1500, vocab=500)),
    Fault("dropout", "", dict(dropout=0.1)),
    Fault("squared ReLU on chats", "", CHATS | dict(activation="relu2")),
    Fault("attention alone", "", dict(d_ff=0)),
    Fault("eight layers", "", dict(n_layers=8, steps=120)),
    Fault("GPT-2's spread, small batches added up", "",
          dict(init_std=0.02, batch_tokens=128, accumulate=4, schedule="wsd")),
    Fault("fine-tuned, a fish to a cat", "", grown=fine_tuned),
    Fault("resumed for as many steps again", "", dict(steps=240), grown=stopped_and_resumed),
    Fault("the tiny preset's recipe, smaller", "",
          dict(n_layers=4, n_heads=4, d_model=48, d_ff=192, steps=300, warmup_steps=40, record_every=50)),
    Fault("a context of one token", "", dict(context_length=1)),
    Fault("letters drawn at random", "", text=lambda seed: spelled(letters(seed))),
    Fault("letters that hardly depend on another", "", text=weakly_dependent),
    Fault("random sequences, each twice", "", dict(steps=600, record_every=50), text=repeated_sequences),
    Fault("a Markov chain", "", text=markov_chain),
    Fault("byte pairs of 1024, 1200 steps", "",
          dict(tokenizer="bpe", vocab=1024, steps=1200, record_every=50, n_layers=2, schedule="cosine")),
]  # fmt: skip


# Trying it ---------------------------------------------------------------------------------------------------------


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The fault in its place, for as long as a training lasts."""
    places: list[tuple[Any, str, Any]] = [
        (grow_module, "Transformer", fault.model),
        (material, "TextBatches", fault.batches),
        (transformer, "masked_scores", fault.scores),
        (AdamW, "zero_grad", fault.clear),
        (Muon, "zero_grad", fault.clear),
    ]
    before = [(module, name, getattr(module, name)) for module, name, value in places if value]
    try:
        for module, name, value in places:
            if value:
                setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def examined(fault: Fault, folder: Path, seed: int) -> list[Finding]:
    """What the doctor says of a training with this fault, the cause first."""
    options = BASE | dict(seed=seed) | fault.options
    with planted(fault):
        try:
            if fault.grown:
                fault.grown(folder, seed, options)
            else:
                sources = {"persona", "mix"} & options.keys()
                if not sources:
                    (folder / "said.txt").write_text(fault.text(seed), encoding="utf-8")
                    options["text"] = folder / "said.txt"
                grow(out=folder / "run", **options)
        except ValueError as error:
            if "not finite" not in str(error) and "loss is" not in str(error):
                raise
    return diagnose(Run(folder / "run"))


def healthy(training: Fault, folder: Path, seed: int = 1) -> list[Finding]:
    """What the doctor says of a training in which nothing is wrong, and what it said on the way."""
    found = examined(training, folder, seed)
    live = [Finding(**line["finding"]) for line in Run(folder / "run").metrics() if "finding" in line]
    return found + [finding for finding in live if finding.name not in {f.name for f in found}]
