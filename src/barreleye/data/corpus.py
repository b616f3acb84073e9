"""What a model learns from: a character sheet, plain text or chats -> two sides, split before anything is learned."""

import contextlib
import dataclasses
import gc
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from barreleye.config import DataConfig
from barreleye.data.chat_format import Conversation, chat_texts
from barreleye.data.chats import read_chats
from barreleye.data.dress import normalize
from barreleye.data.persona import compose
from barreleye.data.sheet import Persona
from barreleye.data.sheet_file import read_sheet, sheet_path
from barreleye.data.split import check_split, scored_prompts, user_prompts
from barreleye.data.text import read_shakespeare, read_text

TEXT_HELD_OUT = 0.1
SHORTEST_SIDE = 2  # characters: one to read, one to predict
SHARE = re.compile(r"[0-9]{1,6}|[0-9]{0,6}\.[0-9]{1,6}")


@dataclass(frozen=True)
class Corpus:
    """Two sides of chats, or two texts, and the report on how they were split.

    Of characters also their sheets, and two more sets that training never sees: whole topics, and conversations of
    known prompts.
    """

    train: Sequence[Conversation] | str
    held_out: Sequence[Conversation] | str
    report: dict[str, Any]
    unseen_topics: Sequence[Conversation] = ()
    unseen_rows: Sequence[Conversation] = ()
    sheets: dict[str, str] = field(default_factory=dict)
    """Character -> its sheet, as written."""

    def check(self) -> None:
        """Raises ValueError where training has a prompt that counts as unseen."""
        if not isinstance(self.train, str) and not isinstance(self.held_out, str):
            check_split(self.train, (*self.held_out, *self.unseen_topics))

    def texts(self) -> list[str]:
        """What a tokenizer may learn from: the training side alone."""
        return [self.train] if isinstance(self.train, str) else list(chat_texts(self.train))


def prepare(config: DataConfig, seed: int) -> Corpus:
    """Read or compose what `config` names, and split it. Raises ValueError for a source that cannot be used."""
    if config.kind in ("persona", "mix"):
        with collecting_no_garbage():
            return _characters(parse_mix(config.source) if config.kind == "mix" else {config.source: 1.0}, config, seed)
    if config.kind == "chats":
        chats = read_chats(config.sources, config.chat_format)
        corpus = _named(config.sources, split_chats, chats.conversations, config.held_out)
        corpus.report.update(chats.report())
        return corpus
    text = read_shakespeare() if config.source == "shakespeare" else read_text(Path(config.source))
    return _named([config.source], split_text, text)


@contextlib.contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """A million objects are made, and all of them stay: Python would look through them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _named(sources: Sequence[str], split: Callable[..., Corpus], *given: Any) -> Corpus:
    """Splits what was read, and says where it is from if it cannot be split."""
    try:
        return split(*given)
    except ValueError as error:
        raise ValueError(f"{', '.join(sources)}: {error}") from None


def parse_mix(mix: str) -> dict[str, float]:
    """`fish:0.5,cat:0.5` -> the characters (names or sheets) and their shares, which sum to one."""
    shares: dict[str, float] = {}
    for entry in mix.split(","):
        source, _, weight = entry.strip().rpartition(":")
        share = float(weight) if SHARE.fullmatch(weight.strip()) else 0.0
        if not source or not share:
            raise ValueError(f"a mix is written fish:0.5,cat:0.5 (a character, a colon, its share), not {mix!r}")
        if source in shares:
            raise ValueError(f"{source!r} is in the mix twice; give it one share")
        shares[source] = share
    if len(shares) < 2:
        raise ValueError(
            f"a mix needs two characters or more, as in fish:0.5,cat:0.5; for one: barreleye train {source}"
        )
    return {source: share / sum(shares.values()) for source, share in shares.items()}


def _characters(sources: dict[str, float], config: DataConfig, seed: int) -> Corpus:
    """Conversations of one character or several, each called by the name of its sheet."""
    sheets: dict[str, str] = {}
    shares: dict[str, tuple[Persona, int]] = {}
    for source, share in sources.items():
        sheet, name = read_sheet(source), sheet_path(source).stem
        if name in shares:
            raise ValueError(f"two characters are called {name!r}; rename one of the sheets")
        n = round(config.conversations * share)
        if not n:
            raise ValueError(f"{name!r} has a share of less than one conversation; give it more, or leave it out")
        sheets[name] = sheet.text
        shares[name] = sheet.persona, n
    sides = compose(shares, seed, config.held_out)
    if not sides.held_out:
        raise ValueError(f"{config.source}: nothing can be held out; give topics more asks that are like no other")
    topics = {name: list(persona.unseen) for name, (persona, _) in shares.items()}
    return _chat_corpus(
        sides.train,
        sides.held_out,
        {"split": "by clean prompt, before marks, typos and slots vary it"}
        | {"unseen_topics": topics, "unseen_fillers": sides.unseen_fillers},
        unseen_topics=sides.unseen_topics,
        unseen_rows=sides.unseen_rows,
        sheets=sheets,
    )


def split_text(text: str) -> Corpus:
    """The first nine tenths to learn from, the last tenth held out."""
    cut = len(text) - max(SHORTEST_SIDE, int(len(text) * TEXT_HELD_OUT))
    if cut < SHORTEST_SIDE:
        raise ValueError(f"a text of {len(text)} characters is too short to split; give it {2 * SHORTEST_SIDE} or more")
    report = {"split": "by position: the last tenth is held out", "overlap": 0}
    return Corpus(text[:cut], text[cut:], report | {"train_characters": cut, "held_out_characters": len(text) - cut})


def split_chats(conversations: Sequence[Conversation], held_out: float) -> Corpus:
    """By normalized first prompt: chats that begin alike stay on one side. Which side goes by a hash of the
    prompt, so a prompt added later moves at most one other."""
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    prompts = sorted({_first_prompt(conversation) for conversation in conversations}, key=_hash)
    if len(prompts) < 2:
        raise ValueError("the chats have fewer than 2 distinct first prompts; nothing could be held out")
    out = set(prompts[: max(1, round(len(prompts) * held_out))])
    distinct = dict.fromkeys(conversations)
    for conversation in distinct:
        sides[_first_prompt(conversation) in out].append(conversation)
    # "why?" comes anywhere: an exchange of the held-out side whose prompt training has is read, and not scored.
    known = user_prompts(sides[0])
    marked = [_share(conversation, known) for conversation in sides[1]]
    clean = [conversation for conversation in marked if scored_prompts(conversation)]
    if not clean:
        raise ValueError("every prompt that could be held out is one of the others, too; add more distinct ones")
    report = {
        "split": "by normalized first prompt",
        "held_out_shared": sum(m.shared and m.role == "user" for c in clean for m in c.messages),
        "held_out_dropped": len(marked) - len(clean),
        "duplicates_dropped": len(conversations) - len(distinct),
    }
    return _chat_corpus(sides[0], clean, report)


def _share(conversation: Conversation, known: Collection[str]) -> Conversation:
    """The same, with each exchange marked as shared whose prompt is known."""
    messages, shared = [], False
    for message in conversation.messages:
        if message.role == "user":
            shared = normalize(message.content) in known
        messages.append(dataclasses.replace(message, shared=shared and message.role != "system"))
    return dataclasses.replace(conversation, messages=tuple(messages))


def _chat_corpus(
    train: Sequence[Conversation], held_out: Sequence[Conversation], report: dict[str, Any], **more: Any
) -> Corpus:
    """Checked, and with what every report says."""
    sizes = {"overlap": 0, "train": len(train), "held_out": len(held_out)}
    corpus = Corpus(train, held_out, report | sizes, **more)
    corpus.check()
    return corpus


def _first_prompt(conversation: Conversation) -> str:
    return normalize(next((m.content for m in conversation.messages if m.role == "user"), ""))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
