"""Whether replies to unseen prompts are in character and on topic.

The judges are classifiers of text: TF-IDF of words and pairs of words, then logistic regression. They learn from
replies composed anew, and are themselves measured on others: a floor (what a reply gets that has nothing to do with it)
and a ceiling (what the sheet's own reply to the same prompt gets).
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Any

from numpy.typing import ArrayLike

from barreleye.data.chat_format import Conversation, Message
from barreleye.data.dress import normalize
from barreleye.data.persona import exchange
from barreleye.data.sheet import Persona
from barreleye.data.sheet_file import load_persona, persona_names
from barreleye.evaluation.figures import Figure, bootstrap

QUESTIONS = 200  # of each character
FRESH = 4_000  # exchanges of each character that the classifiers learn from, as many of each topic
EDITION = 0.2  # of its reply lines in common: two sheets are then one character
NO_SHEET = "these chats came without a character sheet, and it says what is in character and on topic"


@dataclass(frozen=True)
class Question:
    """An unseen prompt that opens a conversation, and what the sheet answered.

    chat: what the model is given, a system turn first where there are several characters.
    """

    character: str
    topic: str
    chat: tuple[Message, ...]
    truth: str

    @property
    def prompt(self) -> str:
        return self.chat[-1].content


@dataclass(frozen=True)
class Verdict:
    """Whose voice the classifiers hear in a reply, and what it is about; "" where they know no word of it."""

    voice: str
    topic: str


@dataclass(frozen=True)
class Rate:
    """A share of replies, beside what chance gets (floor) and what the sheet's own replies get (ceiling)."""

    share: Figure
    floor: Figure
    ceiling: Figure
    of_ceiling: Figure | None
    """share / ceiling, over the same prompts; None where the ceiling is 0."""


@dataclass(frozen=True)
class Manner:
    """How one character does: shares of its replies that have its voice, and that are on the topic asked."""

    in_character: Rate
    relevance: Rate


def unseen_questions(
    held_out: Sequence[Conversation], characters: Collection[str] = (), n: int = QUESTIONS, seed: int = 0
) -> list[Question]:
    """The opening exchanges of held-out conversations: `n` distinct prompts of each character, or all there are, spread
    evenly over its topics.

    characters: their names, as `run.personas()` has them; without any, all questions are put to a character "".
    """
    only = next(iter(characters), "")
    columns: dict[str, dict[str, dict[str, Question]]] = {}  # character -> topic -> normalized prompt -> question
    for conversation in random.Random(f"questions {seed}").sample(held_out, len(held_out)):
        messages = conversation.messages
        begin = next(i for i, message in enumerate(messages) if message.role == "user")
        name = messages[0].content if begin and messages[0].content in characters else only
        question = Question(name, conversation.topic, messages[: begin + 1], messages[begin + 1].content)
        topic = columns.setdefault(name, {}).setdefault(conversation.topic, {})
        topic.setdefault(normalize(question.prompt), question)
    questions: list[Question] = []
    for name in characters or [only]:
        rounds = zip_longest(*(topic.values() for topic in columns.get(name, {}).values()))
        questions += islice((question for question in chain.from_iterable(rounds) if question), n)
    return questions


def fresh_replies(persona: Persona, avoid: Collection[str], seed: int | str, n: int = FRESH) -> list[tuple[str, str]]:
    """About `n` pairs of a topic and a reply to it, composed anew, as many of each topic; none of them in `avoid`."""
    rng = random.Random(f"fresh {seed}")
    made = []
    for name, topic in persona.all_topics.items():
        for _ in range(n // len(persona.all_topics)):
            _, reply = exchange(persona, topic.ask, topic.reply, {}, rng)
            if reply not in avoid:
                made.append((name, reply))
    return made


def is_edition(persona: Persona, other: Persona) -> bool:
    """Whether one sheet was made from the other, whatever its name: both then have one voice."""
    ours, theirs = ({line for topic in p.all_topics.values() for line in topic.reply} for p in (persona, other))
    return len(ours & theirs) >= EDITION * min(len(ours), len(theirs))


class Judge:
    """Knows the voices of all built-in characters and of the run's own, and the topics of the run's own.

    It learns from `n` replies of each, none of which is the true reply to one of the questions. A built-in character
    of which the run's own is an edition is left out. Raises ValueError without a sheet, or without scikit-learn.
    """

    def __init__(
        self, personas: Mapping[str, Persona], questions: Sequence[Question], seed: int = 0, n: int = FRESH
    ) -> None:
        if not personas:
            raise ValueError(NO_SHEET)
        self.personas = dict(personas)
        built_in = {name: load_persona(name) for name in persona_names()}
        own = personas.values()
        others = {name: sheet for name, sheet in built_in.items() if not any(is_edition(sheet, mine) for mine in own)}
        sheets = {**others, **personas}
        truths = {question.truth for question in questions}
        fresh = {name: fresh_replies(sheet, truths, seed, n) for name, sheet in sheets.items()}
        said = [(name, reply) for name, pairs in fresh.items() for _, reply in pairs]
        self.voices = Classifier(said)
        self.topics = {name: Classifier(fresh[name]) for name in personas}
        learned = {reply for _, reply in said}
        self.strays = {name: fresh_replies(sheet, learned, f"{seed} again", n) for name, sheet in sheets.items()}

    def verdicts(self, questions: Sequence[Question], replies: Sequence[str]) -> list[Verdict]:
        """What each reply sounds like, the topic as the character of its question has them."""
        topics = [""] * len(questions)
        for name, classifier in self.topics.items():
            own = [i for i, question in enumerate(questions) if question.character == name]
            for i, topic in zip(own, classifier([replies[i] for i in own]), strict=True):
                topics[i] = topic
        return [Verdict(voice, topic) for voice, topic in zip(self.voices(replies), topics, strict=True)]

    def stray_replies(self, questions: Sequence[Question], seed: int = 0) -> list[str]:
        """For each question, a random reply of another character that no classifier learned from."""
        rng = random.Random(f"stray {seed}")
        others = {
            name: [pair for other, p in self.strays.items() if other != name for pair in p] for name in self.topics
        }
        return [rng.choice(others[question.character])[1] for question in questions]


class Classifier:
    """Learned from pairs of a label and a text; called with texts, gives the likeliest label of each."""

    def __init__(self, labelled: Sequence[tuple[str, str]]) -> None:
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
        except ModuleNotFoundError:
            raise ValueError("judging replies needs scikit-learn: pip install 'barreleye[report]'") from None
        labels, texts = zip(*labelled, strict=True)
        self.vectorizer = TfidfVectorizer(token_pattern=r"\w+", ngram_range=(1, 2), sublinear_tf=True)
        features: Any = self.vectorizer.fit_transform(texts)
        self.regression = LogisticRegression(C=10, tol=1e-3, max_iter=1_000).fit(features, labels)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        if not texts:
            return []
        features = self.vectorizer.transform(texts)
        known = features.getnnz(axis=1) > 0
        return [
            str(label) if knows else "" for label, knows in zip(self.regression.predict(features), known, strict=True)
        ]


def judge_manners(
    judge: Judge, questions: Sequence[Question], replies: Sequence[str], seed: int = 0
) -> tuple[dict[str, Manner], list[dict[str, Any]]]:
    """The figures of each character, and every reply with what was made of it.

    The floor of the voice are replies of other characters; that of the topic the replies themselves, shuffled among the
    prompts.
    """
    verdicts = judge.verdicts(questions, replies)
    truths = judge.verdicts(questions, [question.truth for question in questions])
    strays = judge.verdicts(questions, judge.stray_replies(questions, seed))
    manners = {}
    for name in judge.personas:
        own = [i for i, question in enumerate(questions) if question.character == name]
        if own:
            shuffled = random.Random(f"shuffle {seed}").sample(own, len(own))
            topics = [questions[i].topic for i in own]
            manners[name] = Manner(
                rate(*([v[i].voice == name for i in own] for v in (verdicts, strays, truths)), topics=topics),
                rate(
                    *(
                        [v[i].topic == topic for i, topic in zip(at, topics, strict=True)]
                        for v, at in ((verdicts, own), (verdicts, shuffled), (truths, own))
                    ),
                    topics=topics,
                ),
            )
    rows = [
        {
            "character": question.character,
            "topic": question.topic,
            "prompt": question.prompt,
            "reply": reply,
            "truth": question.truth,
            "voice_heard": verdict.voice,
            "topic_heard": verdict.topic,
            "in_character": verdict.voice == question.character,
            "relevant": verdict.topic == question.topic,
        }
        for question, reply, verdict in zip(questions, replies, verdicts, strict=True)
    ]
    return manners, rows


def rate(right: ArrayLike, by_chance: ArrayLike, of_truth: ArrayLike, *, topics: Sequence[str] | None = None) -> Rate:
    """From what was right (1) and wrong (0), prompt by prompt; those on one topic are resampled together."""
    share, floor, ceiling = (bootstrap(amounts, clusters=topics) for amounts in (right, by_chance, of_truth))
    return Rate(share, floor, ceiling, bootstrap(right, of_truth, topics) if ceiling.value else None)
