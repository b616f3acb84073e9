"""A corpus -> what a training reads: its tokenizer, batches of the training side, and the held-out side to look at."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from barreleye.config import Config, DataConfig
from barreleye.data.batches import ChatBatches, HeldOutBatch, TextBatches, encode_text, map_if_large
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, Conversation
from barreleye.data.corpus import Corpus
from barreleye.data.tokenizer import Tokenizer, learn_bpe, learn_characters
from barreleye.training.facts import Facts, data_facts
from barreleye.training.recorder import Prompt, sample_prompts

QUICK_LOOK = 400  # held-out chats scored on the way; the end scores them all
QUICK_TOKENS = 20_000  # likewise for text
HELD_OUT_BATCH_TOKENS = 8192  # no gradients to hold, so a larger batch fits


def learn_tokenizer(data: DataConfig, corpus: Corpus) -> Tokenizer:
    """From the training side alone; characters of the held-out side are added where text is learned by characters, as
    a model of characters cannot read one it has no row for."""
    chats = not isinstance(corpus.train, str)
    special = CHAT_SPECIAL_TOKENS if chats else ()
    if data.tokenizer == "bpe" or (data.tokenizer == "auto" and chats):
        return learn_bpe(corpus.texts(), data.vocab, special)
    characters = set().union(*map(set, (*corpus.texts(), *Corpus(corpus.held_out, "", {}).texts())))
    return learn_characters("".join(sorted(characters)), special)


@dataclass(frozen=True)
class Material:
    """Both sides of the split as a training reads them."""

    batches: ChatBatches | TextBatches
    held_out: Callable[[], Iterable[HeldOutBatch]]
    quick: Callable[[], Iterable[HeldOutBatch]]  # the beginning of the held-out side, looked at on the way
    prompts: list[Prompt]
    facts: Callable[[], Facts]


def encode(corpus: Corpus, tokenizer: Tokenizer, config: Config, cache: Path) -> Material:
    """Raises ValueError for what the tokenizer cannot encode, or what is too little to learn from."""
    context, held_out = config.model.context_length, corpus.held_out
    beginning = held_out[: QUICK_TOKENS if isinstance(held_out, str) else QUICK_LOOK]
    batches = make_batches(corpus, tokenizer, config, cache)
    return Material(
        batches,
        held_out_batches(held_out, tokenizer, context),
        held_out_batches(beginning, tokenizer, context),
        sample_prompts(held_out),
        lambda: data_facts(batches, corpus, tokenizer),
    )


def make_batches(corpus: Corpus, tokenizer: Tokenizer, config: Config, cache: Path) -> ChatBatches | TextBatches:
    """The training side, cut into batches."""
    context, tokens, seed = config.model.context_length, config.train.batch_tokens, config.train.seed
    if isinstance(corpus.train, str):
        return TextBatches(
            map_if_large(encode_text(corpus.train, tokenizer), cache / "train.npy"), context, tokens, seed
        )
    return ChatBatches(corpus.train, tokenizer, context, tokens, seed, config.train.loss_on)


def held_out_batches(
    documents: Sequence[Conversation] | str, tokenizer: Tokenizer, context: int
) -> Callable[[], Iterable[HeldOutBatch]]:
    """The held-out side, in batches that can be read again and again."""
    if isinstance(documents, str):
        return TextBatches(encode_text(documents, tokenizer), context, HELD_OUT_BATCH_TOKENS).held_out
    return ChatBatches(documents, tokenizer, context, HELD_OUT_BATCH_TOKENS).held_out


def size_of(corpus: Corpus) -> str:
    """What there is to learn from, in words, and what was left out of it."""
    if isinstance(corpus.train, str):
        return f"{len(corpus.train):,} characters to learn from, {len(corpus.held_out):,} held out"
    shared = corpus.report["overlap"]
    size = f"{len(corpus.train):,} conversations to learn from, {len(corpus.held_out):,} held out"
    dropped = [
        f"{corpus.report[key]:,} {what}"
        for key, what in (
            ("duplicates_dropped", "exact duplicates dropped"),
            ("held_out_shared", "held-out exchanges not scored, as training has their prompts"),
            ("held_out_dropped", "held-out chats dropped, as all their prompts are in training"),
        )
        if corpus.report.get(key)
    ]
    return f"{size} ({'; '.join([f'{shared} prompts on both sides', *dropped])})"
