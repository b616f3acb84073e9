"""Text that a model writes itself: what exports are compared on, whatever the run still has of its data.

B batch, T time (position), V vocabulary."""

import torch
from torch import Tensor

from barreleye.inference.generate import decode_one_token, prefill
from barreleye.model.cache import KVCache
from barreleye.model.transformer import Transformer

SEED = 1


@torch.inference_mode()
def own_text(model: Transformer, rows: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """`rows` texts drawn as the model learned (temperature 1), each from a random first token, and the logits after
    each token: tokens_BT, logits_BTV. At most a context long."""
    generator, config = torch.Generator().manual_seed(SEED), model.config
    length = min(length or config.context_length, config.context_length)
    token_B = torch.randint(config.vocab_size, (rows,), generator=generator)
    cache, tokens = KVCache(config, rows, length), [token_B]
    logits_BV = prefill(model.eval(), token_B[:, None], cache)
    while len(tokens) < length:
        tokens.append(torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)[:, 0])
        logits_BV = decode_one_token(model, tokens[-1], cache)
    tokens_BT = torch.stack(tokens, 1)
    return tokens_BT, model(tokens_BT)


def least_likely(model: Transformer, rows: int = 8) -> int:
    """The token that the model would hardly ever write: the end of a text for programs that want one."""
    _, logits_BTV = own_text(model, rows)
    return int(logits_BTV.softmax(-1).mean((0, 1)).argmin())
