"""Many replies at once: what the model says at the end of each of some conversations.

B batch, T time (position), V vocabulary; L layers, H heads, D channels per head in the cache.
"""

import dataclasses
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from barreleye.config import Sampling
from barreleye.data.chat_format import IM_END, IM_START, Message, encode_chat
from barreleye.data.spelling import Read, as_typed
from barreleye.data.tokenizer import Tokenizer
from barreleye.inference.generate import decode_one_token, prefill, random_numbers, sample
from barreleye.model.cache import KVCache
from barreleye.model.transformer import Transformer

LARGEST_BATCH = 128  # conversations; beyond it the cache grows and the speed does not


def reply_all(
    model: Transformer,
    tokenizer: Tokenizer,
    chats: Sequence[Sequence[Message]],
    sampling: Sampling,
    max_tokens: int = 80,
    prefixes: Sequence[str] | None = None,
    read: Read = as_typed,
) -> list[str]:
    """The assistant's next reply in each conversation, at most `max_tokens` long, or as long as the context has room.

    prefixes: what each reply begins with; it is part of the reply that is returned. read: what becomes of what a person
    typed before the model sees it. With a seed, each place in `chats` has random numbers of its own, the same ones in
    every call with as many `max_tokens`: what differs between two calls is what was said, not luck. A seed of -1 gives
    others each time. Of a conversation that leaves no room in the context the end is read.
    """
    context = model.config.context_length
    longest = context - min(max_tokens, context // 4)
    beginnings = [tokenizer.encode(prefix) for prefix in prefixes or [""] * len(chats)]
    prompts = [
        (encode_chat(_heard(chat, read), tokenizer, add_generation_prompt=True)[0] + beginning)[-longest:]
        for chat, beginning in zip(chats, beginnings, strict=True)
    ]
    stop_ids = frozenset({tokenizer.id_of(IM_END), tokenizer.id_of(IM_START)})
    device = next(model.parameters()).device
    numbers = random_numbers(sampling)
    uniform_NT = torch.tensor([[next(numbers) for _ in range(max_tokens)] for _ in prompts], device=device)
    model.eval()
    replies = [""] * len(prompts)
    in_order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for length, group in groupby(in_order, key=lambda i: len(prompts[i])):
        alike = list(group)
        for start in range(0, len(alike), LARGEST_BATCH):
            batch = alike[start : start + LARGEST_BATCH]
            prompts_BT = torch.tensor([prompts[i] for i in batch], device=device)
            steps = min(max_tokens, context - length)
            said = _continue(model, prompts_BT, steps, sampling, stop_ids, uniform_NT[batch])
            for i, ids in zip(batch, said, strict=True):
                replies[i] = tokenizer.decode(beginnings[i] + ids)
    return replies


def _heard(chat: Sequence[Message], read: Read) -> list[Message]:
    return [dataclasses.replace(m, content=read(m.content)) if m.role == "user" else m for m in chat]


@torch.inference_mode()
def _continue(
    model: Transformer,
    prompts_BT: Tensor,
    steps: int,
    sampling: Sampling,
    stop_ids: frozenset[int],
    uniform_BT: Tensor,
) -> list[list[int]]:
    """The ids that follow each prompt, up to a stop id."""
    n, length = prompts_BT.shape
    stop_S = torch.tensor(sorted(stop_ids), device=prompts_BT.device)
    tokens_BT = torch.cat((prompts_BT, stop_S[:1].expand(n, steps)), 1)
    row_B = torch.arange(n, device=prompts_BT.device)  # the replies still worked on
    open_B = torch.ones_like(row_B, dtype=torch.bool)  # those of them that have not ended
    cache = KVCache(model.config, n, length + steps, prompts_BT.device)
    logits_BV = prefill(model, prompts_BT, cache)
    for at in range(length, length + steps):
        token_B = sample(logits_BV, sampling, tokens_BT[row_B, :at], uniform_BT[row_B, at - length])
        tokens_BT[row_B, at] = token_B
        open_B &= ~torch.isin(token_B, stop_S)
        if 2 * int(open_B.sum()) <= len(row_B):  # taking rows out copies the cache, so not each as it ends
            row_B, token_B = row_B[open_B], token_B[open_B]
            cache.keys_LBTHD, cache.values_LBTHD = cache.keys_LBTHD[:, open_B], cache.values_LBTHD[:, open_B]
            open_B = open_B[open_B]
        if not len(row_B) or at + 1 == length + steps:
            break
        logits_BV = decode_one_token(model, token_B, cache)
    replies = tokens_BT[:, length:].tolist()
    return [reply[: next((t for t, token in enumerate(reply) if token in stop_ids), steps)] for reply in replies]
