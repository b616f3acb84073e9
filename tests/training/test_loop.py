import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from barreleye.config import ModelConfig, TrainConfig
from barreleye.data.batches import IGNORE, ChatBatches, TextBatches
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, Conversation, Message, chat_texts
from barreleye.data.tokenizer import learn_bpe
from barreleye.model.transformer import Transformer
from barreleye.training.loop import Batches, Learner, NonFinite, Step, train
from barreleye.training.optimizer import make_optimizers

CHATS = [
    Conversation((Message("user", f"what is {i}?"), Message("assistant", f"{i} is {i * i} blub " * (i % 4 + 1))))
    for i in range(60)
]
BPE = learn_bpe(chat_texts(CHATS), 290, CHAT_SPECIAL_TOKENS)
CHAT_BATCHES = ChatBatches(CHATS, BPE, 24, 120, seed=1, loss_on="replies")
TEXT_BATCHES = TextBatches(np.arange(3000, dtype=np.int32) * 7 % BPE.vocab_size, 24, 120, seed=1)


def build(seed: int = 0, **knobs: Any) -> Transformer:
    torch.manual_seed(seed)
    shape: dict[str, Any] = dict(n_layers=2, n_heads=2, d_model=32, d_ff=64, context_length=24)
    return Transformer(ModelConfig(**(shape | knobs), vocab_size=BPE.vocab_size))


def configure(**knobs: Any) -> TrainConfig:
    defaults: dict[str, Any] = dict(steps=20, warmup_steps=3, device="cpu", precision="float32", threads=1)
    return TrainConfig(**(defaults | knobs))


def copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# What a step computes ----------------------------------------------------------------------------------------------


def test_a_step_is_the_gradient_of_the_mean_loss_clipped_then_adamw() -> None:
    """Two steps, spelled out with torch alone."""
    config = configure(steps=2, optimizer="adamw", learning_rate=0.01, weight_decay=0.1, clip=0.5, schedule="constant")
    steps: list[Step] = []
    ours, theirs = build(dropout=0.0, init_std=0.02), build(dropout=0.0, init_std=0.02)
    train(ours, TEXT_BATCHES, config, steps.append)  # type: ignore[arg-type]

    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    rest = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    for n, share in enumerate((0.5, 1.0)):
        tokens, targets = TEXT_BATCHES(n)
        loss = F.cross_entropy(theirs(tokens).flatten(0, 1), targets.flatten())
        adamw.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in theirs.parameters() if p.grad is not None))
        for p in theirs.parameters():
            assert p.grad is not None
            p.grad *= min(1.0, 0.5 / norm)
        for group in adamw.param_groups:
            group["lr"] = 0.01 * share
        adamw.step()
        report = steps[n + 1]
        assert (report.step, report.rate) == (n + 1, share)
        assert report.loss == pytest.approx(float(loss.detach()), rel=1e-5)
        assert report.grad_norm == pytest.approx(norm, rel=1e-4)
    for name, parameter in ours.named_parameters():
        # AdamW divides by the gradient's own size: rounding moves the few whose gradient is nearly zero.
        apart = (parameter - theirs.get_parameter(name)).abs()
        assert apart.quantile(0.99) < 1e-5 and apart.max() < 2e-3, name


def test_the_loss_is_the_mean_over_learned_tokens_alone() -> None:
    model, steps = build(), list[Step]()
    train(model, CHAT_BATCHES, configure(steps=1), steps.append)  # type: ignore[arg-type]
    tokens, targets = CHAT_BATCHES(0)
    assert (targets == IGNORE).any()
    expected = F.cross_entropy(build()(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    assert steps[-1].loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert steps[-1].tokens == tokens.numel()


def halves(batches: Batches) -> Batches:
    """Batch n in two: 2n the longer part of its rows, 2n + 1 the rest."""

    def half(n: int) -> tuple[Tensor, Tensor]:
        tokens, targets = batches(n // 2)
        cut = -(-len(tokens) * 2 // 3)
        rows = slice(cut) if n % 2 == 0 else slice(cut, None)
        return tokens[rows], targets[rows]

    return half


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_accumulated_halves_are_one_batch(optimizer: str) -> None:
    """Of chats learned by their replies: the halves hold unequally many learned tokens."""
    whole: list[float] = []
    half: list[float] = []
    knobs: dict[str, Any] = dict(steps=12, optimizer=optimizer)
    train(build(), CHAT_BATCHES, configure(**knobs), lambda step: whole.append(step.loss))
    train(build(), halves(CHAT_BATCHES), configure(accumulate=2, **knobs), lambda step: half.append(step.loss))
    assert half[1:] == pytest.approx(whole[1:], rel=1e-5)


def test_a_batch_with_nothing_to_learn_changes_nothing_but_the_momentum() -> None:
    model = build()
    before = copy(model.state_dict())
    nothing = torch.full((2, 5), IGNORE)
    train(model, lambda n: (torch.ones(2, 5, dtype=torch.long), nothing), configure(steps=1, weight_decay=0.0))
    assert same(before, model.state_dict())


def test_gradients_are_clipped_to_the_norm_that_is_asked_for() -> None:
    """With one step of plain numbers: Muon and AdamW ignore size, so look at what they are given."""

    def gradients(clip: float) -> tuple[float, float]:
        model, norms = build(), list[float]()

        class Spy(torch.optim.SGD):
            def step(self, closure: Any = None) -> None:
                grads = [p.grad.norm() for group in self.param_groups for p in group["params"]]
                norms.append(float(torch.stack(grads).norm()))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "barreleye.training.loop.make_optimizers", lambda m, config: [peaked(Spy(m.parameters(), lr=1.0))]
            )
            seen: list[float] = []
            train(model, TEXT_BATCHES, configure(steps=1, clip=clip), lambda step: seen.append(step.grad_norm))
        return seen[-1], norms[0]

    reported, given = gradients(0.25)
    assert given == pytest.approx(0.25, rel=1e-4) and reported > 0.5
    assert gradients(0.0) == (pytest.approx(reported), pytest.approx(reported))
    assert gradients(1e6) == (pytest.approx(reported), pytest.approx(reported))


def peaked(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def test_any_module_from_tokens_to_logits_will_do() -> None:
    bigram = nn.Embedding(BPE.vocab_size, BPE.vocab_size)
    losses: list[float] = []
    train(bigram, TEXT_BATCHES, configure(steps=60, learning_rate=0.3), lambda step: losses.append(step.loss))
    assert losses[-1] < 0.5 < losses[1]  # the text counts on by sevens


# Stopping, resuming, recording -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [0, 1, 7])
def test_on_step_stops_by_returning_true(stop_at: int) -> None:
    seen: list[int] = []

    def on_step(step: Step) -> bool:
        seen.append(step.step)
        return step.step == stop_at

    model = build()
    learner = train(model, TEXT_BATCHES, configure(), on_step)
    assert seen == list(range(stop_at + 1)) and learner.step == stop_at
    assert same(learner.model.state_dict(), model.state_dict())


def test_no_steps_are_no_steps() -> None:
    seen: list[Step] = []
    learner = train(build(), TEXT_BATCHES, configure(steps=0), seen.append)  # type: ignore[arg-type]
    assert learner.step == 0 and len(seen) == 1 and math.isnan(seen[0].loss)
    assert same(learner.model.state_dict(), build().state_dict())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("batches", [CHAT_BATCHES, TEXT_BATCHES], ids=["chats", "text"])
@pytest.mark.parametrize("stop_at", [0, 1, 10])
def test_a_resumed_training_ends_where_an_unbroken_one_does(optimizer: str, batches: Batches, stop_at: int) -> None:
    config = configure(optimizer=optimizer)
    unbroken = train(build(dropout=0.2), batches, config).tensors()

    kept: dict[str, Tensor] = {}

    def stop(step: Step) -> bool:
        if step.step == stop_at:
            kept.update(copy(step.learner.tensors()))
        return step.step == stop_at

    train(build(dropout=0.2), batches, config, stop)
    torch.rand(17)  # another process would have another random state
    resumed = train(build(seed=5, dropout=0.2), batches, config, kept=kept).tensors()
    assert same(unbroken, resumed)
    other_dropout = train(build(seed=1, dropout=0.2), batches, config).tensors()
    assert not same(unbroken, other_dropout)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_looking_changes_nothing(precision: str) -> None:
    """A recorder that puts the model into evaluation mode, scores and samples leaves the training as it was, from
    the first step on, dropout included."""

    def look(step: Step) -> None:
        step.learner.model.eval()
        with torch.no_grad():
            step.learner.model(TEXT_BATCHES(5)[0])
        step.learner.tensors()

    config = configure(precision=precision)
    quiet = train(build(dropout=0.3), TEXT_BATCHES, config).tensors()
    watched = train(build(dropout=0.3), TEXT_BATCHES, config, look).tensors()
    assert same(quiet, watched)


@pytest.mark.parametrize("stop_at", [0, 1])
def test_the_look_before_the_first_step_is_only_before_the_first_step(stop_at: int) -> None:
    kept: dict[str, Tensor] = {}
    train(build(), TEXT_BATCHES, configure(steps=stop_at), lambda step: kept.update(copy(step.learner.tensors())))
    seen: list[int] = []
    train(build(), TEXT_BATCHES, configure(steps=2), lambda step: seen.append(step.step), kept)
    assert seen == ([0, 1, 2] if stop_at == 0 else [2])


def test_tied_weights_are_kept_once() -> None:
    tied = train(build(), TEXT_BATCHES, configure(steps=1)).tensors()
    untied = train(build(tie_embeddings=False), TEXT_BATCHES, configure(steps=1)).tensors()
    assert "model.unembed.weight" not in tied and "model.unembed.weight" in untied


def test_the_loss_scale_and_its_growth_are_kept() -> None:
    def learner() -> Learner:
        model = build()
        return Learner(model, make_optimizers(model, configure()), torch.amp.GradScaler("cpu", init_scale=512.0))

    before, after = learner(), learner()
    for _ in range(3):  # three good steps on the way to a larger scale
        before.scaler.scale(before.model(TEXT_BATCHES(0)[0]).sum()).backward()
        for optimizer in before.optimizers:
            before.scaler.step(optimizer)
        before.scaler.update()
    before.scaler.update(128.0)
    after.restore(copy(before.tensors()))
    assert after.scaler.state_dict() == before.scaler.state_dict()
    assert after.scaler.state_dict()["scale"] == 128.0 and after.scaler.state_dict()["_growth_tracker"] == 3


# What is not a number ----------------------------------------------------------------------------------------------


@pytest.fixture
def poisoned() -> Iterator[Transformer]:
    """A model of which one gradient, of the middle of the network, is nan from the fourth step on."""
    model, calls = build(), [0]

    def poison(gradient: Tensor) -> Tensor:
        calls[0] += 1
        return gradient.clone().index_fill_(0, torch.tensor([2]), math.nan) if calls[0] > 3 else gradient

    hook = model.blocks[1].attn.out.weight.register_hook(poison)
    yield model
    hook.remove()


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_nan_gradient_is_named_before_any_weight_moves(poisoned: Transformer, clip: float) -> None:
    good: dict[str, Tensor] = {}

    def on_step(step: Step) -> None:
        good.clear()
        good.update(copy(step.learner.model.state_dict()))

    message = (
        r"^step 4: the gradient of blocks\.1\.attn\.out\.weight has 32 of 1024 values not finite; "
        r"the weights of step 3 are kept$"
    )
    with pytest.raises(NonFinite, match=message):
        train(poisoned, TEXT_BATCHES, configure(clip=clip), on_step)
    assert same(good, poisoned.state_dict())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_stops_at_the_first_step(bad: float) -> None:
    model = build()
    with torch.no_grad():
        model.blocks[0].mlp.up.weight[0, 0] = bad
    before = copy(model.state_dict())
    with pytest.raises(NonFinite, match=r"step 1: the gradient of .* not finite, the loss is nan"):
        train(model, TEXT_BATCHES, configure())
    after = model.state_dict()
    assert all(torch.equal(tensor.nan_to_num(), after[name].nan_to_num()) for name, tensor in before.items())


def test_an_infinite_loss_is_refused_even_where_gradients_are_finite() -> None:
    class Sure(nn.Module):
        """Sure that the next token is token 0: the loss of any other is infinite, its gradient is not."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(BPE.vocab_size))

        def forward(self, tokens_BT: Tensor) -> Tensor:
            certain = torch.full_like(self.weight, -math.inf).index_fill(0, torch.tensor([0]), 0.0)
            return (self.weight + certain).expand(*tokens_BT.shape, -1)

    with pytest.raises(NonFinite, match="step 1: the loss is inf; the weights of step 0 are kept"):
        train(Sure(), TEXT_BATCHES, configure())


# float16, which only a GPU may train in; a CPU can compute it, slowly ------------------------------------------------


@pytest.fixture
def float16(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr("barreleye.training.loop.resolve", lambda config: config)
    return configure(precision="float16", steps=30)


def test_overflowing_gradients_skip_every_optimizer_and_lower_the_scale(float16: TrainConfig) -> None:
    """Only a matrix of Muon's overflows: AdamW must not move either."""
    model = build()
    weights: list[dict[str, Tensor]] = []
    scales: list[float] = []
    norms: list[float] = []

    def on_step(step: Step) -> None:
        weights.append(copy(step.learner.model.state_dict()))
        scales.append(step.learner.scaler.get_scale())
        norms.append(step.grad_norm)

    matrix = model.blocks[0].mlp.up.weight
    matrix.register_hook(lambda gradient: torch.full_like(gradient, math.nan) if len(weights) == 6 else gradient)
    train(model, TEXT_BATCHES, float16, on_step)
    assert not math.isfinite(norms[6]) and same(weights[6], weights[5]) and not same(weights[7], weights[6])
    assert scales[6] == scales[5] / 2
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_gradients_that_no_scale_makes_finite_are_named(float16: TrainConfig) -> None:
    model = build()
    before = copy(model.state_dict())
    model.blocks[1].mlp.up.bias.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    with pytest.raises(NonFinite, match=r"the gradient of blocks\.1\.mlp\.up\.bias has 64 of 64 values not finite;"):
        train(model, TEXT_BATCHES, float16)
    assert same(before, model.state_dict())


def test_a_resumed_float16_training_ends_where_an_unbroken_one_does(
    float16: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Eager(torch.amp.GradScaler):
        """Raises its scale after seven good steps, not two thousand."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, init_scale=2.0**6, growth_interval=7, **kwargs)

    monkeypatch.setattr(torch.amp, "GradScaler", Eager)
    unbroken = train(build(dropout=0.2), TEXT_BATCHES, float16).tensors()
    kept: dict[str, Tensor] = {}

    def stop(step: Step) -> bool:
        if step.step == 11:
            kept.update(copy(step.learner.tensors()))
        return step.step == 11

    train(build(dropout=0.2), TEXT_BATCHES, float16, stop)
    resumed = train(build(seed=5, dropout=0.2), TEXT_BATCHES, float16, kept=kept).tensors()
    assert unbroken["scaler.scale"] > 2.0**6
    assert same(unbroken, resumed)


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="precision float16 needs a GPU"):
        train(build(), TEXT_BATCHES, configure(precision="float16"))
