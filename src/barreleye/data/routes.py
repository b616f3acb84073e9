"""Whether an ask can be found by its words: what a model cannot learn from the other asks of a topic, nobody can.

Each ask in turn is left out, and a linear classifier over words and pairs of words says from all others which topic it
belongs to. What that classifier cannot do from all asks at once, a small model does not do from a stream of them.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from barreleye.data.dress import normalize
from barreleye.data.persona import CONFUSED_RATE
from barreleye.data.sheet import Persona
from barreleye.data.template import render

FOLDS = 10
TEXTS = 3  # of each ask, with other fillers


@dataclass(frozen=True)
class Stray:
    """An ask that the others of its topic do not lead to, the `number`-th of them from 0, and where they lead to."""

    topic: str
    number: int
    ask: str
    taken_for: str


@dataclass(frozen=True)
class Routes:
    """found: topic -> the share of its asks that are found, the poorest first. strays: the others, as in the sheet."""

    found: dict[str, float]
    strays: tuple[Stray, ...]

    @property
    def share(self) -> float:
        """Of all topics, each counted once."""
        return sum(self.found.values()) / len(self.found)


def routes(persona: Persona, seed: int = 0) -> Routes:
    """Find each ask by the others. Topics that training never sees take no part. Raises ImportError without
    scikit-learn."""
    rng = random.Random(f"routes {seed}")
    topics = {name: topic for name, topic in persona.all_topics.items() if name not in persona.unseen}
    asks = [(name, i, ask) for name, topic in topics.items() for i, ask in enumerate(topic.ask)]
    fillers, plurals = persona.fillers, frozenset(persona.plurals)
    texts = [normalize(render(ask, fillers, {}, rng.choice, plurals)) for *_, ask in asks for _ in range(TEXTS)]
    folds = [rng.randrange(FOLDS) for _ in asks]
    guesses = _guess(texts, [name for name, *_ in asks for _ in range(TEXTS)], [f for f in folds for _ in range(TEXTS)])
    shares: dict[str, list[float]] = {name: [] for name in topics}
    strays = []
    for number, (name, i, ask) in enumerate(asks):
        taken_for = Counter(guesses[number * TEXTS : (number + 1) * TEXTS])
        shares[name].append(taken_for[name] / TEXTS)
        if 2 * taken_for[name] < TEXTS:
            strays.append(Stray(name, i, ask, taken_for.most_common(1)[0][0]))
    found = {name: sum(own) / len(own) for name, own in shares.items()}
    return Routes(dict(sorted(found.items(), key=lambda item: item[1])), tuple(strays))


def _guess(texts: Sequence[str], labels: Sequence[str], folds: Sequence[int]) -> list[str]:
    """The likeliest label of each text, from the texts of the other folds."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    label_N, fold_N = np.array(labels), np.array(folds)
    sizes = Counter(labels)
    often = {"confused": CONFUSED_RATE * len(sizes) / (1 - CONFUSED_RATE)}  # as often as training asks it
    weight_N = np.array([often.get(label, 1) / sizes[label] for label in labels])
    weight_N *= len(labels) / weight_N.sum()
    features: Any = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)
    guess_N = np.empty(len(texts), object)
    for fold in sorted(set(folds)):
        others = fold_N != fold
        if len(set(label_N[others])) < 2:
            guess_N[~others] = ""  # nothing to tell apart
            continue
        regression = LogisticRegression(C=10, tol=1e-3, max_iter=300)
        regression.fit(features[others], label_N[others], weight_N[others])
        guess_N[~others] = regression.predict(features[~others])
    return [str(guess) for guess in guess_N]
