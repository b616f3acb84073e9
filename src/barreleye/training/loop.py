"""The training loop. It knows a model, a function from a number to a batch, and a configuration; no files."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from barreleye.config import TrainConfig
from barreleye.data.batches import IGNORE
from barreleye.training.device import autocast, kind_of, random_states, resolve, set_random_states
from barreleye.training.loss import summed_cross_entropy
from barreleye.training.optimizer import (
    make_optimizers,
    optimizer_tensors,
    rate_at,
    restore_optimizers,
    set_rate,
)

SMALLEST_LOSS_SCALE = 1e-3

Batches = Callable[[int], tuple[Tensor, Tensor]]
"""Batch number n -> (tokens_BT, targets_BT), int64; equal n must give equal batches, or a resumed run is another."""


class NonFinite(ArithmeticError):
    """A loss or gradient stopped being a number; the weights are still those of the last good step."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"step {step}: {what}; the weights of step {step - 1} are kept")
        self.step = step


@dataclass
class Learner:
    """All that changes while a model learns: what must be kept to go on exactly where one stopped."""

    model: nn.Module
    optimizers: list[Optimizer]
    scaler: torch.amp.GradScaler
    step: int = 0
    tokens: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimizer memory, random state and counters, by flat names."""
        kept = {f"model.{name}": t for name, t in self.model.state_dict().items() if name not in self.tied}
        kept |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self.optimizers).items()}
        kept |= {f"scaler.{name}": torch.tensor(value) for name, value in self.scaler.state_dict().items()}
        kept |= {f"random.{name}": state for name, state in random_states(self.device).items()}
        kept["counters"] = torch.tensor([self.step, self.tokens])
        return kept

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def tied(self) -> set[str]:
        """Second names of weights that have two, such as an output head that is the embedding."""
        once = {name for name, _ in self.model.named_parameters()}
        return {name for name, _ in self.model.named_parameters(remove_duplicate=False)} - once

    def restore(self, kept: dict[str, Tensor]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in kept.items() if name.startswith(prefix)}

        missing, unexpected = self.model.load_state_dict(under("model."), strict=False)
        assert set(missing) == self.tied and not unexpected
        restore_optimizers(self.optimizers, under("optimizer."))
        if self.scaler.is_enabled() and (scale := under("scaler.")):
            self.scaler.load_state_dict({name: value.item() for name, value in scale.items()})
        set_random_states(under("random."), self.device)
        self.step, self.tokens = (int(n) for n in kept["counters"])


@dataclass(frozen=True)
class Step:
    """What `on_step` is told: once before the first step (with `loss` nan), then after each."""

    step: int  # steps done so far
    loss: float  # mean over the step's learned tokens, nats
    rate: float  # learning rate, as a share of the peak: 0..1
    grad_norm: float  # before clipping
    tokens: int  # read so far, padding included
    seconds: float  # since this call of train began
    learner: Learner


OnStep = Callable[[Step], bool | None]


def train(
    model: nn.Module,
    batches: Batches,
    config: TrainConfig,
    on_step: OnStep | None = None,
    kept: dict[str, Tensor] | None = None,
) -> Learner:
    """Teach `model` (tokens_BT -> logits_BTV) for `config.steps` optimizer steps, in place.

    `on_step` sees every step and stops the training by returning True. `kept` is `Learner.tensors()` of an earlier
    call: the training goes on from there as if it had never stopped, bit for bit on the same machine, threads and
    torch. Raises NonFinite, before any weight is touched, when a loss or gradient is not a number.
    """
    config = resolve(config)
    torch.set_num_threads(config.threads)
    model = model.to(config.device).train()
    scaler = torch.amp.GradScaler(kind_of(config.device), enabled=config.precision == "float16")
    learner = Learner(model, make_optimizers(model, config), scaler)
    if kept is not None:
        learner.restore(kept)
    began = time.perf_counter()
    if on_step and learner.step == 0 and on_step(Step(0, math.nan, 0.0, math.nan, 0, 0.0, learner)):
        return learner
    while learner.step < config.steps:
        model.train()  # on_step may have looked at the model in evaluation mode
        share = rate_at(learner.step, config)
        set_rate(learner.optimizers, share)
        loss_sum, learned, read = accumulate_gradients(learner, batches, config)
        for optimizer in learner.optimizers:
            scaler.unscale_(optimizer)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        for gradient in gradients:
            gradient /= learned
        norm = nn.utils.get_total_norm(gradients)
        grad_norm = float(norm)
        if math.isfinite(loss_sum) and math.isfinite(grad_norm):
            nn.utils.clip_grads_with_norm_(model.parameters(), config.clip or math.inf, norm)
            for optimizer in learner.optimizers:
                scaler.step(optimizer)
        elif not math.isfinite(loss_sum) or not scale_may_be_at_fault(scaler):
            raise NonFinite(learner.step + 1, what_is_not_finite(learner, loss_sum))
        for optimizer in learner.optimizers:
            optimizer.zero_grad()
        scaler.update()  # lowers the scale where gradients overflowed: the step was skipped
        learner.step += 1
        learner.tokens += read
        seconds = time.perf_counter() - began
        report = Step(learner.step, loss_sum / learned, share, grad_norm, learner.tokens, seconds, learner)
        if on_step and on_step(report):
            break
    return learner


def accumulate_gradients(learner: Learner, batches: Batches, config: TrainConfig) -> tuple[float, int, int]:
    """Sum the gradients of the step's batches. Returns the summed loss, tokens learned and tokens read.

    Sums, not means of means: a batch with few learned tokens then weighs what its tokens weigh.
    """
    loss_sum, learned, read = 0.0, 0, 0
    for n in range(learner.step * config.accumulate, (learner.step + 1) * config.accumulate):
        tokens_BT, targets_BT = batches(n)
        learned += int((targets_BT != IGNORE).sum())
        read += tokens_BT.numel()
        tokens_BT, targets_BT = tokens_BT.to(config.device), targets_BT.to(config.device)
        with autocast(config):
            logits_BTV = learner.model(tokens_BT)
        loss = summed_cross_entropy(logits_BTV, targets_BT)
        learner.scaler.scale(loss).backward()
        loss_sum += loss.item()
    return loss_sum, max(1, learned), read


def scale_may_be_at_fault(scaler: torch.amp.GradScaler) -> bool:
    """float16 gradients overflow until the loss scale is found; where they still do at a small one, it is not that."""
    return scaler.is_enabled() and scaler.get_scale() > SMALLEST_LOSS_SCALE


def what_is_not_finite(learner: Learner, loss_sum: float) -> str:
    """The first tensor, from input to output, whose gradient holds an infinity or a nan; and the loss."""
    evidence = [
        f"the gradient of {name} has {int((~parameter.grad.isfinite()).sum())} of {parameter.numel()} values not finite"
        for name, parameter in learner.model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ][:1]
    if not math.isfinite(loss_sum):
        evidence.append(f"the loss is {loss_sum}")
    return ", ".join(evidence) or "the gradients are finite but their norm overflows"
