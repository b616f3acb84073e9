"""Put parts of your own into the model, without touching the package, and see whether they help.

An activation goes into the dictionary of activations. Attention is changed through the tap, which every tensor passes.
Three models read nine tenths of the fish's replies, letter by letter, and are scored on the rest.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from barreleye import KVCache, ModelConfig, TextBatches, TrainConfig, Transformer, learn_characters, load_persona, train
from barreleye.model.parts import ACTIVATIONS, Activation, Tap, no_tap

CONTEXT = 96

ACTIVATIONS["snake"] = Activation(lambda x: x + x.sin().square())  # Ziyin et al. 2020


class NearFirst(Transformer):
    """ALiBi (Press et al. 2022): no position is embedded; a key counts for less the farther back it stands."""

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None, tap: Tap = no_tap) -> Tensor:
        def lower_far_scores(name: str, tensor: Tensor) -> Tensor:
            if name.endswith("hook_attn_scores"):
                n_h, n_q, n_k = tensor.shape[1:]
                distance_QK = torch.arange(n_k - n_q, n_k)[:, None] - torch.arange(n_k)
                slope_H11 = 2.0 ** -torch.arange(n_h)[:, None, None]  # 1, 1/2, 1/4 ... by head
                tensor = tensor - slope_H11 * distance_QK
            return tap(name, tensor)

        return super().forward(tokens_BT, cache, lower_far_scores)


def held_out_loss(text: str, kind: type[Transformer], **parts: str) -> float:
    """Train a small model of this kind and parts; its loss on the text held out, in nats per character."""
    tokenizer = learn_characters(text)
    tokens = np.array(tokenizer.encode(text))
    known, unseen = (TextBatches(side, CONTEXT, 16 * CONTEXT) for side in np.split(tokens, [len(tokens) * 9 // 10]))
    shape = {"n_layers": 2, "n_heads": 4, "d_model": 64, "d_ff": 256, "context_length": CONTEXT}
    torch.manual_seed(1)
    model = kind(ModelConfig(**shape, **parts, vocab_size=tokenizer.vocab_size))
    train(model, known, TrainConfig(steps=200, device="cpu", threads=1))
    with torch.inference_mode():
        losses = [F.cross_entropy(model(x).mT, y, reduction="none").flatten() for x, y, _ in unseen.held_out()]
    return torch.cat(losses).mean().item()


def main() -> dict[str, float]:
    """Train all three, and return the loss of each."""
    text = "\n".join(reply for topic in load_persona("fish").topics.values() for reply in topic.reply)
    losses = {"as it comes": held_out_loss(text, Transformer)}
    losses["snake activation"] = held_out_loss(text, Transformer, activation="snake")
    losses["ALiBi"] = held_out_loss(text, NearFirst, positions="none")
    print("\n".join(f"{name:16}  {loss:.3f} nats per character" for name, loss in losses.items()))
    return losses


if __name__ == "__main__":
    main()
