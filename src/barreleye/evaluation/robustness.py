"""How much worse a model does when people type otherwise: the same prompts, changed, and what is lost."""

import dataclasses
import random
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from barreleye.config import Sampling
from barreleye.data.chat_format import Message
from barreleye.data.dress import typo
from barreleye.data.spelling import Read, as_typed
from barreleye.data.tokenizer import Tokenizer
from barreleye.evaluation.character import Judge, Question, judge_manners
from barreleye.evaluation.figures import Figure, bootstrap, paired
from barreleye.evaluation.recall import Recall, memories, name_slot, recall_rates, remembers
from barreleye.evaluation.replies import reply_all
from barreleye.model.transformer import Transformer

TYPO, NOTHING, NOT_MENDED = "one typo", "no change", ", not mended"
DISTANCE = 2  # exchanges, from the telling to the question
TRIES = 20  # typos, until one can be seen, or leaves what is told as it is
EMOJI = "😀 😂 🥺 ❤️ 👍 🐟 🎉 🙏".split()
GREETINGS = "привет, γεια σου, こんにちは, 你好, مرحبا, नमस्ते, 안녕, שלום, ｈｅｌｌｏ, 𝓱𝓮𝓵𝓵𝓸".split(", ")


def drop_punctuation(text: str) -> str:
    """Without Unicode punctuation; a text of nothing else stays as it is."""
    return "".join(c for c in text if not unicodedata.category(c).startswith("P")).strip() or text


def mistype(text: str, rng: random.Random) -> str:
    """With one typo that can be seen (two equal letters, swapped, cannot), where the text is long enough for one."""
    return next((tried for _ in range(TRIES) if (tried := typo(text, rng)) != text), text)


Change = Callable[[str, random.Random], str]
CHANGES: dict[str, Change] = {
    "ALL CAPS": lambda text, rng: text.upper(),
    "no punctuation": lambda text, rng: drop_punctuation(text),
    TYPO: mistype,
    "an emoji": lambda text, rng: f"{text} {rng.choice(EMOJI)}",
    "another script": lambda text, rng: f"{text} {rng.choice(GREETINGS)}",
}


@dataclass(frozen=True)
class Drop:
    """A share of replies under a change, and what it lost against the same prompts unchanged, in percentage points."""

    share: Figure
    points: Figure


@dataclass(frozen=True)
class Drops:
    """What a change does to one character. recall: of a name told two turns earlier, where its sheet remembers any."""

    in_character: Drop
    relevance: Drop
    recall: Drop | None


def robustness(
    model: Transformer,
    tokenizer: Tokenizer,
    judge: Judge,
    questions: Sequence[Question],
    replies: Sequence[str],
    recalls: Sequence[Recall],
    sampling: Sampling,
    seed: int = 0,
    read: Read = as_typed,
) -> tuple[dict[str, dict[str, Drops]], list[dict[str, Any]]]:
    """Change -> character -> what it costs, and every reply to a changed prompt.

    replies: to the questions as they were. Of `recalls` those count that want a name which training told, two turns
    earlier. read: what becomes of what is typed before the model sees it; what it does to the prompts as they are, and
    what a typo costs without it, is measured, too. A change is left out that writes what the tokenizer cannot encode:
    one of characters has not seen them all.
    """
    names = {name: name_slot(persona) for name, persona in judge.personas.items() if memories(persona)}
    named = [r for r in recalls if r.known and r.distance == DISTANCE and r.slot == names[r.character]]

    def answer(chats: Sequence[Question] | Sequence[Recall], read: Read) -> list[str]:
        return reply_all(model, tokenizer, [chat.chat for chat in chats], sampling, read=read)

    named_before = answer(named, read)  # by themselves, as each time: luck goes by the place
    drops: dict[str, dict[str, Drops]] = {}
    rows: list[dict[str, Any]] = []
    changes = [(name, change, read) for name, change in CHANGES.items()]
    if read is not as_typed:
        changes += [(NOTHING + NOT_MENDED, lambda text, rng: text, as_typed), (TYPO + NOT_MENDED, mistype, as_typed)]
    for name, change, reading in changes:
        rng = random.Random(f"{name.removesuffix(NOT_MENDED)} {seed}")  # the same typos in both
        asked = [change_question(question, change, rng) for question in questions]
        told = [change_recall(recall, change, rng) for recall in named]
        if can_read(tokenizer, (*asked, *told)):
            after, named_after = answer(asked, reading), answer(told, reading)
            drops[name] = measure_drops(judge, questions, replies, after, named, named_before, named_after)
            for _, lines in (judge_manners(judge, asked, after, seed), recall_rates(told, named_after)):
                rows += [{"change": name, **line} for line in lines]
    return drops, rows


def can_read(tokenizer: Tokenizer, chats: Iterable[Question | Recall]) -> bool:
    try:
        tokenizer.encode_batch([message.content for chat in chats for message in chat.chat])
    except ValueError:
        return False
    return True


def measure_drops(
    judge: Judge,
    questions: Sequence[Question],
    before: Sequence[str],
    after: Sequence[str],
    recalls: Sequence[Recall] = (),
    recalled_before: Sequence[str] = (),
    recalled_after: Sequence[str] = (),
) -> dict[str, Drops]:
    """Of each character, from the replies to prompts as they were and to the same ones changed."""
    heard, heard_after = judge.verdicts(questions, before), judge.verdicts(questions, after)
    drops = {}
    for name in judge.personas:
        topics = {i: question.topic for i, question in enumerate(questions) if question.character == name}
        fillers = {i: recall.filler for i, recall in enumerate(recalls) if recall.character == name}
        if topics:
            drops[name] = Drops(
                drop(
                    [heard[i].voice == name for i in topics],
                    [heard_after[i].voice == name for i in topics],
                    clusters=list(topics.values()),
                ),
                drop(
                    [heard[i].topic == topic for i, topic in topics.items()],
                    [heard_after[i].topic == topic for i, topic in topics.items()],
                    clusters=list(topics.values()),
                ),
                drop(
                    [remembers(recalled_before[i], filler) for i, filler in fillers.items()],
                    [remembers(recalled_after[i], filler) for i, filler in fillers.items()],
                    clusters=list(fillers.values()),
                )
                if fillers
                else None,
            )
    return drops


def drop(before: Sequence[bool], after: Sequence[bool], clusters: Sequence[str] | None = None) -> Drop:
    points = paired(np.multiply(before, 100.0), np.multiply(after, 100.0), clusters=clusters)
    return Drop(bootstrap(after, clusters=clusters), points)


def change_question(question: Question, change: Change, rng: random.Random) -> Question:
    prompt = Message("user", change(question.prompt, rng))
    return dataclasses.replace(question, chat=(*question.chat[:-1], prompt))


def change_recall(recall: Recall, change: Change, rng: random.Random) -> Recall:
    """Every message of the user is changed; what is told stays legible, or there is nothing to ask for."""

    def changed(message: Message) -> Message:
        if message.role != "user":
            return message
        tries = (change(message.content, rng) for _ in range(TRIES))
        told = remembers(message.content, recall.filler)
        legible = (text for text in tries if not told or remembers(text, recall.filler))
        return Message("user", next(legible, message.content))

    return dataclasses.replace(recall, chat=tuple(map(changed, recall.chat)))
