"""Whether replies to unseen prompts are in character and on topic.

The judges are classifiers of text: TF-IDF of words and pairs of words, then logistic regression. They learn from
exchanges composed anew, see none of the prompts that are asked, and are themselves measured: a floor (what a reply gets
that has nothing to do with it) and a ceiling (what the sheet's own reply to the same prompt gets).
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from barreleye.data.chat_format import Conversation, Message
from barreleye.data.dress import normalize, sentence_case
from barreleye.data.sheet import Persona
from barreleye.data.sheet_file import load_persona, persona_names
from barreleye.data.template import Bindings, render
from barreleye.evaluation.figures import Figure, bootstrap

QUESTIONS = 200  # of each character
FRESH = 4_000  # exchanges of each character that the classifiers learn from, as many of each topic
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
    of_ceiling: Figure
    """share / ceiling, over the same prompts."""


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


def exchange(
    persona: Persona, asks: Sequence[str], replies: Sequence[str], bound: Bindings, rng: random.Random
) -> tuple[str, str]:
    """A prompt, not dressed, and a reply, as the sheet writes them; slots in `bound` keep their filler."""
    plurals = frozenset(persona.plurals)
    prompt = render(rng.choice(asks), persona.fillers, bound, rng.choice, plurals)
    reply = render(rng.choice(replies), persona.fillers, bound, rng.choice, plurals)
    if persona.sentence_case:
        reply = sentence_case(reply)
    return prompt, reply


def fresh_replies(persona: Persona, avoid: Collection[str], seed: int, n: int = FRESH) -> list[tuple[str, str]]:
    """About `n` pairs of a topic and a reply to it, composed anew, as many of each topic; none is to a prompt that is,
    normalized, in `avoid`."""
    rng = random.Random(f"fresh {seed}")
    made = []
    for name, topic in persona.all_topics.items():
        for _ in range(n // len(persona.all_topics)):
            prompt, reply = exchange(persona, topic.ask, topic.reply, {}, rng)
            if normalize(prompt) not in avoid:
                made.append((name, reply))
    return made


class Judge:
    """Knows the voices of all built-in characters and of the run's own, and the topics of the run's own.

    It learns from `n` exchanges of each, none of which has a prompt of `questions`. A built-in character whose name the
    run's own has is left out: the run's is an edition of it. Raises ValueError without a sheet, or without
    scikit-learn.
    """

    def __init__(
        self, personas: Mapping[str, Persona], questions: Sequence[Question], seed: int = 0, n: int = FRESH
    ) -> None:
        if not personas:
            raise ValueError(NO_SHEET)
        self.personas = dict(personas)
        own_names = {persona.name for persona in personas.values()}
        built_in = {name: load_persona(name) for name in persona_names()}
        others = {name: persona for name, persona in built_in.items() if persona.name not in own_names}
        asked = {normalize(question.prompt) for question in questions}
        self.fresh = {name: fresh_replies(p, asked, seed, n) for name, p in {**others, **personas}.items()}
        said = [(name, reply) for name, pairs in self.fresh.items() for _, reply in pairs]
        self.voices = Classifier(said)
        self.topics = {name: Classifier(self.fresh[name]) for name in personas}

    def verdicts(self, questions: Sequence[Question], replies: Sequence[str]) -> list[Verdict]:
        """What each reply sounds like, the topic as the character of its question has them."""
        topics = [""] * len(questions)
        for name, classifier in self.topics.items():
            own = [i for i, question in enumerate(questions) if question.character == name]
            for i, topic in zip(own, classifier([replies[i] for i in own]), strict=True):
                topics[i] = topic
        return [Verdict(voice, topic) for voice, topic in zip(self.voices(replies), topics, strict=True)]

    def stray_replies(self, questions: Sequence[Question], seed: int = 0) -> list[str]:
        """For each question, a random reply of another character."""
        rng = random.Random(f"stray {seed}")
        others = {
            name: [pair for other, p in self.fresh.items() if other != name for pair in p] for name in self.topics
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
            manners[name] = Manner(
                rate(*([v[i].voice == name for i in own] for v in (verdicts, strays, truths))),
                rate(
                    [verdicts[i].topic == questions[i].topic for i in own],
                    [verdicts[j].topic == questions[i].topic for i, j in zip(own, shuffled, strict=True)],
                    [truths[i].topic == questions[i].topic for i in own],
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


def rate(right: ArrayLike, by_chance: ArrayLike, of_truth: ArrayLike) -> Rate:
    """From what was right (1) and wrong (0), prompt by prompt."""
    # A prompt whose truth is not recognized still counts, and the bootstrap leaves out items of no size.
    sizes = np.maximum(np.asarray(of_truth, float), 1e-15)
    return Rate(bootstrap(right), bootstrap(by_chance), bootstrap(of_truth), bootstrap(right, sizes))
