"""The recipe that Barreleye descends from: six layers of 384, padded rows, AdamW. Its loss curve is the yardstick.

    python benchmarks/plain.py [--single] [--threads N]      # records curves/plain-*.json; hours, and it can be resumed

Same conversations, split, tokenizer and number of parameters as the default fish. --single keeps the conversations of
one exchange, where padding costs little. The recipe computes in float32 on rows padded to the longest of their batch.
The recording takes each batch in four pieces, rows of equal length together, each on a core of its own, and bfloat16
where the CPU has it: the same sums over the same tokens, rounded otherwise, in a fraction of the time.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from barreleye import PRESETS, Conversation, ModelConfig, TrainConfig, Transformer, train
from barreleye.config import DataConfig
from barreleye.data.batches import IGNORE, ChatBatches, HeldOutBatch
from barreleye.data.corpus import Corpus, prepare
from barreleye.data.tokenizer import Tokenizer
from barreleye.training import loop
from barreleye.training.device import autocast, resolve
from barreleye.training.held_out import byte_lengths, held_out_loss
from barreleye.training.loop import Batches, Learner, Step
from barreleye.training.loss import summed_cross_entropy
from barreleye.training.material import HELD_OUT_BATCH_TOKENS, learn_tokenizer

SHAPE = ModelConfig(n_layers=6, n_heads=6, d_model=384, d_ff=768, activation="relu", dropout=0.1)
RECIPE = TrainConfig(
    steps=10_000,
    optimizer="adamw",
    learning_rate=3e-4,
    schedule="cosine",
    final_rate=0.1,
    warmup_steps=200,
    weight_decay=0.1,
    clip=1.0,
    precision="float32",
)
ROWS = 32
PIECES = 4  # of a batch, in the recording
LOOK_EVERY, SAVE_EVERY = 250, 500
CURVES = Path(__file__).parent / "curves"

Look = dict[str, float]  # the step, and the held-out loss of each part


@dataclasses.dataclass(frozen=True)
class Material:
    """What both recipes learn from, and are judged by."""

    name: str
    train: list[Conversation]
    held_out: list[Conversation]
    tokenizer: Tokenizer

    @staticmethod
    def of_fish(single: bool) -> "Material":
        """The default fish's conversations; those of one exchange alone, if `single`."""
        whole = prepare(DataConfig(), seed=1)
        sides = [[c for c in side if not single or exchanges(c) == 1] for side in (whole.train, whole.held_out)]
        tokenizer = learn_tokenizer(DataConfig(), Corpus(sides[0], sides[1], {}))
        return Material("fish-single" if single else "fish", *sides, tokenizer)

    @property
    def fingerprint(self) -> list[object]:
        """What changes when the data does."""
        texts = "\0".join(m.content for side in (self.train, self.held_out) for c in side for m in c.messages)
        whole = hashlib.sha256((texts + self.tokenizer.to_json()).encode()).hexdigest()
        return [len(self.train), len(self.held_out), whole]

    def batches(self, batch_tokens: int, seed: int) -> ChatBatches:
        return ChatBatches(self.train, self.tokenizer, PRESETS["fish"].model.context_length, batch_tokens, seed)

    @cached_property
    def held_out_rows(self) -> list[HeldOutBatch]:
        batches = ChatBatches(self.held_out, self.tokenizer, SHAPE.context_length, HELD_OUT_BATCH_TOKENS)
        return list(batches.held_out())

    def look(self, model: Transformer, config: TrainConfig) -> Look:
        """Held-out loss, nats per token: of all tokens, and of the replies to prompts that training never saw."""
        score = held_out_loss(model, self.held_out_rows, byte_lengths(self.tokenizer), config)
        assert score.replies
        return {"all": score.all.loss, "replies": score.replies.loss}

    @property
    def curve_file(self) -> Path:
        return CURVES / f"plain-{self.name}.json"

    def curve(self, looks: list[Look]) -> str:
        """A recording, as it is kept: the looks, and what they are of."""
        return json.dumps({"fingerprint": self.fingerprint, "recipe": recipe(), "looks": looks}, indent=1) + "\n"

    def looks_of(self, curve: str) -> list[Look]:
        """Raises ValueError for a recording of other data or of another recipe; a knob that came later is no other."""
        recorded = json.loads(curve)
        if recorded["fingerprint"] != self.fingerprint or not recorded["recipe"].items() <= recipe().items():
            raise ValueError("is of other data, or of another recipe")
        looks: list[Look] = recorded["looks"]
        return looks


def recipe() -> dict[str, object]:
    return vars(SHAPE) | vars(RECIPE)


def exchanges(conversation: Conversation) -> int:
    return sum(message.role == "assistant" for message in conversation.messages)


class PaddedBatches(ChatBatches):
    """32 rows as they come, padded to the longest; or the same batch in pieces of about equal length."""

    def __init__(self, material: Material, pieces: int = 1) -> None:
        super().__init__(material.train, material.tokenizer, SHAPE.context_length, batch_tokens=1)
        self.pieces = pieces

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        step, piece = divmod(n, self.pieces)
        epoch, i = divmod(step, len(self.lengths) // ROWS)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.lengths))
        rows = self._rows[i * ROWS : (i + 1) * ROWS]
        rows = np.array_split(rows[np.argsort(self.lengths[rows], kind="stable")], self.pieces)[piece]
        tokens_BT, targets_BT, _ = self._cut(rows)
        if self.pieces > 1:  # few lengths, as a kernel is compiled for each new shape
            extra = -tokens_BT.shape[1] % 8
            tokens_BT, targets_BT = F.pad(tokens_BT, (0, extra)), F.pad(targets_BT, (0, extra), value=IGNORE)
        return tokens_BT, targets_BT


def plain_model(vocab_size: int, shape: ModelConfig = SHAPE) -> Transformer:
    """Every matrix normal with a standard deviation of 0.02, as GPT-2's."""
    model = Transformer(dataclasses.replace(shape, vocab_size=vocab_size))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def quick_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout with four 16-bit random numbers from each draw of 64: torch draws one by one, a fifth of a step."""
    if not training or p == 0:
        return x
    drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
    noise = drawn.random_(-(2**63), None, generator=worker.random).view(torch.int16)
    kept = noise[: x.numel()].view(x.shape) >= round(p * 2**16) - 2**15
    return x * kept.to(x.dtype).mul_(1 / (1 - p))


worker = threading.local()  # its random numbers, for dropout


def accumulate_on_cores(learner: Learner, batches: Batches, config: TrainConfig) -> tuple[float, int, int]:
    """The loop's sum over the pieces of a step, each piece on one core, where no operation waits for another core."""
    parameters = list(learner.model.parameters())

    def one(n: int, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        torch.set_num_threads(1)
        worker.random = torch.Generator().manual_seed(n)
        with autocast(config):
            loss = summed_cross_entropy(learner.model(tokens_BT), targets_BT)
        return loss.item(), torch.autograd.grad(loss, parameters)

    numbers = range(learner.step * config.accumulate, (learner.step + 1) * config.accumulate)
    tokens, targets = zip(*map(batches, numbers), strict=True)
    with ThreadPoolExecutor(config.threads) as cores:
        losses, gradients = zip(*cores.map(one, numbers, tokens, targets), strict=True)
    for parameter, *pieces in zip(parameters, *gradients, strict=True):
        parameter.grad = torch.stack(pieces).sum(0)
    learned = sum(int((targets_BT != IGNORE).sum()) for targets_BT in targets)
    return sum(losses), learned, sum(tokens_BT.numel() for tokens_BT in tokens)


def record(material: Material, threads: int) -> None:
    """Train it once, for the curve. A stopped recording goes on from its last save, if data and recipe are the same."""
    saved = Path("runs") / f"plain-{material.name}.safetensors"
    config = resolve(dataclasses.replace(RECIPE, accumulate=PIECES, precision="auto", threads=threads, device="cpu"))
    kept, looks = None, list[Look]()
    if saved.exists():
        with safe_open(saved, "pt") as tensors, contextlib.suppress(ValueError):
            looks = material.looks_of(tensors.metadata()["curve"])
            kept = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  # no mapping
    torch.manual_seed(config.seed)
    torch.nn.functional.dropout = quick_dropout
    loop.accumulate_gradients = accumulate_on_cores

    def on_step(step: Step) -> None:
        if step.step % LOOK_EVERY == 0 and step.step:
            score = material.look(step.learner.model, config)
            looks.append({"step": step.step, **{name: round(loss, 4) for name, loss in score.items()}})
            print(looks[-1], f"{step.seconds:,.0f} s", flush=True)
        if step.step % SAVE_EVERY == 0 and step.step:
            saved.parent.mkdir(exist_ok=True)
            partial = saved.with_suffix(".partial")
            tensors = {name: tensor.contiguous().clone() for name, tensor in step.learner.tensors().items()}
            save_file(tensors, partial, {"curve": material.curve(looks)})
            partial.replace(saved)

    train(plain_model(material.tokenizer.vocab_size), PaddedBatches(material, PIECES), config, on_step, kept)
    material.curve_file.parent.mkdir(exist_ok=True)
    material.curve_file.write_text(material.curve(looks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--single", action="store_true", help="conversations of one exchange alone")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: as torch chooses)")
    arguments = parser.parse_args()
    record(Material.of_fish(arguments.single), arguments.threads)


if __name__ == "__main__":
    main()
