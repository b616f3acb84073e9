"""Plain statistics that a model has to beat before it may be said to have learned anything: unigram, 5-gram, lookup.

Each gives the negative log-likelihood, in nats, of the same tokens that a model is scored on.
N tokens of several rows end to end, P distinct prompts, Q queries.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from barreleye.data.chat_format import Conversation, Part, encode_chats
from barreleye.data.dress import normalize
from barreleye.data.tokenizer import Tokenizer

ORDER = 5
DISCOUNT = 0.75
NEIGHBOURS = 20
TUNING_ROWS = 500  # conversations of training that the weight of the lookup is chosen on
WEIGHTS = np.linspace(0, 1, 51)
BLOCK = 1 << 24  # similarities held at once
FARTHEST = 2  # more than two prompts can be alike: the cosines of words and of characters, summed


@dataclass(frozen=True, eq=False)
class Reply:
    """One assistant's message: its tokens, closing one included, from where they start in the row, and its prompt."""

    ids: np.ndarray
    start: int
    system: str
    prompt: str
    text: str
    shared: bool
    context: str
    """A hash of all that was said before: equal where two runs are asked the same."""

    @property
    def asked(self) -> tuple[str, str]:
        """Of whom, and what: equal where two prompts are the same."""
        return self.system, normalize(self.prompt)


@dataclass(frozen=True, eq=False)
class Row:
    """A conversation in tokens, its replies, and what it is about."""

    ids: np.ndarray
    replies: tuple[Reply, ...]
    topic: str = ""

    @property
    def scored(self) -> tuple[Reply, ...]:
        """The replies to prompts that are the conversation's own; the follow-ups it shares with training are not."""
        return tuple(reply for reply in self.replies if not reply.shared)


def encode_rows(conversations: Sequence[Conversation], tokenizer: Tokenizer) -> list[Row]:
    """Raises ValueError for what the tokenizer cannot encode."""
    rows = []
    for conversation, (tokens, parts) in zip(conversations, encode_chats(conversations, tokenizer), strict=True):
        ids = np.array(tokens, np.int64)
        inside = np.array([0, *(part != Part.OTHER for part in parts), 0])
        edges = np.flatnonzero(np.diff(inside)).tolist()  # where a reply starts, and where it ends
        spans = iter(zip(edges[::2], edges[1::2], strict=True))
        replies, system, prompt, said = [], "", "", hashlib.sha256()
        for message in conversation.messages:
            if message.role == "system":
                system = message.content
            elif message.role == "user":
                prompt = message.content
            else:
                start, end = next(spans)
                text = message.content.strip()
                context = said.hexdigest()[:16]
                replies.append(Reply(ids[start:end], start, system, prompt, text, message.shared, context))
            said.update(f"{message.role}\n{message.content}\n".encode())
        rows.append(Row(ids, tuple(replies), conversation.topic))
    return rows


def scored_tokens(values: Sequence[np.ndarray], rows: Sequence[Row]) -> np.ndarray:
    """Of values for each token of each row, those of the tokens that are scored, end to end."""
    return np.concatenate(
        [row_T[r.start : r.start + len(r.ids)] for row_T, row in zip(values, rows, strict=True) for r in row.scored]
    )


class Unigram:
    """How often each token stands in a training reply, plus one (Laplace)."""

    def __init__(self, rows: Sequence[Row], vocab_size: int) -> None:
        said = np.concatenate([reply.ids for row in rows for reply in row.replies])
        counts_V = np.bincount(said, minlength=vocab_size) + 1
        self._nats_V = -np.log(counts_V / counts_V.sum())

    def nats(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each token of each row."""
        return [self._nats_V[row] for row in rows]


class NGram:
    """Interpolated Kneser-Ney with one discount (Chen and Goodman 1999, section 2.7), over rows of token ids.

    A row begins as if after ORDER - 1 marks that no other token equals: no n-gram crosses from one row to the next.
    A context of n tokens is numbered by its place in a sorted list of (number of its last n - 1 tokens, the token
    before them), so that counts of any order are sorted integers, found by bisection.
    """

    def __init__(self, rows: Sequence[np.ndarray], vocab_size: int) -> None:
        self.vocab_size = vocab_size
        tokens, at_N = self._join(rows)
        target_N = tokens[at_N]
        context_N = np.zeros(len(at_N), np.int64)
        contexts: list[np.ndarray] = [context_N]  # of each token, by how many tokens it has
        self._contexts = [np.zeros(1, np.int64)]
        for n in range(1, ORDER):
            known, context_N = np.unique(self._longer(context_N, tokens[at_N - n]), return_inverse=True)
            self._contexts.append(known)
            contexts.append(context_N)
        # The longest n-grams count how often they occur, shorter ones after how many different tokens they do: once
        # for each distinct n-gram that is one longer. So each order is counted over the distinct n-grams of the last.
        distinct_N = np.arange(len(at_N))
        self._levels = []
        for context_N, known in reversed(list(zip(contexts, self._contexts, strict=True))):
            ngrams_N = context_N[distinct_N] * vocab_size + target_N[distinct_N]
            ngrams, first, counts = np.unique(ngrams_N, return_index=True, return_counts=True)
            distinct_N = distinct_N[first]
            context = context_N[distinct_N]
            totals = np.bincount(context, counts, len(known))
            spared = DISCOUNT * np.bincount(context, minlength=len(known)) / totals
            self._levels.append((ngrams, (counts - DISCOUNT) / totals[context], spared))
        self._levels.reverse()

    def nats(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each token of each row, given those before it."""
        return _split(-np.log(self.probabilities(rows)[0]), rows)

    def probabilities(self, rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """P(token | those before it) of all rows end to end, and whether the whole context was seen: (N,), (N,).

        Over the vocabulary the probabilities of a next token sum to one.
        """
        tokens, at_N = self._join(rows)
        target_N = tokens[at_N]
        context_N, known_N = np.zeros(len(at_N), np.int64), np.ones(len(at_N), bool)
        probability_N = np.full(len(at_N), 1 / self.vocab_size)
        for n, (contexts, (ngrams, discounted, spared)) in enumerate(zip(self._contexts, self._levels, strict=True)):
            if n:
                context_N, found_N = _find(contexts, self._longer(context_N, tokens[at_N - n]))
                known_N &= found_N
            ngram_N, found_N = _find(ngrams, context_N * self.vocab_size + target_N)
            longer_N = np.where(found_N, discounted[ngram_N], 0) + spared[context_N] * probability_N
            probability_N = np.where(known_N, longer_N, probability_N)
        return probability_N, known_N

    def _join(self, rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """All rows in one array, marks before each, and where their tokens stand in it."""
        marks = np.full(ORDER - 1, self.vocab_size)
        tokens = np.concatenate([piece for row in rows for piece in (marks, row)])
        return tokens, np.flatnonzero(tokens != self.vocab_size)

    def _longer(self, context_N: np.ndarray, before_N: np.ndarray) -> np.ndarray:
        return context_N * (self.vocab_size + 1) + before_N


def _find(known: np.ndarray, wanted_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `wanted` is in the sorted `known` (anywhere, if it is not), and whether it is."""
    place_N = np.minimum(np.searchsorted(known, wanted_N), len(known) - 1)
    return place_N, known[place_N] == wanted_N


def _split(values_N: np.ndarray, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(values_N, np.cumsum([len(row) for row in rows])[:-1])


class Neighbours:
    """Training replies by what they answer, found by TF-IDF over words, pairs of words, and character n-grams, which
    see through typos and endings."""

    def __init__(self, rows: Sequence[Row], vocab_size: int) -> None:
        self.vocab_size = vocab_size
        said: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        for row in rows:
            for reply in row.replies:
                said[reply.asked].append(reply.ids)
        self._said = list(said.values())
        # A system turn names the character, so the same words asked of two are two prompts.
        self._of_system: dict[str, list[int]] = defaultdict(list)
        self._of_prompt: dict[str, list[int]] = defaultdict(list)
        for p, (system, prompt) in enumerate(said):
            self._of_system[system].append(p)
            self._of_prompt[prompt].append(p)
        self._tfidf = _vectorizer()
        self._tfidf_PF = self._tfidf.fit_transform([prompt for _, prompt in said])

    def probabilities(self, replies: Sequence[Reply], unseen: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """What a 5-gram of the nearest prompts' replies gives the tokens of `replies`, end to end, and whether it has
        seen the whole context of each: (N,), (N,). `unseen`: as if no prompt of theirs were in training."""
        same: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i, reply in enumerate(replies):
            same[reply.asked].append(i)
        probability = [np.zeros(len(reply.ids)) for reply in replies]
        known = [np.zeros(len(reply.ids), bool) for reply in replies]
        for which, nearest in zip(same.values(), self._nearest(list(same), unseen), strict=True):
            if said := [ids for p in nearest for ids in self._said[p]]:
                ids = [replies[i].ids for i in which]
                probability_N, known_N = NGram(said, self.vocab_size).probabilities(ids)
                for i, probability_T, known_T in zip(
                    which, _split(probability_N, ids), _split(known_N, ids), strict=True
                ):
                    probability[i], known[i] = probability_T, known_T
        return np.concatenate(probability), np.concatenate(known)

    def _nearest(self, asked: Sequence[tuple[str, str]], unseen: bool) -> list[list[int]]:
        """The nearest distinct prompts of each query, those of the same character before all others."""
        found = []
        block = max(1, BLOCK // len(self._said))
        k = min(NEIGHBOURS, len(self._said))
        for start in range(0, len(asked), block):
            queries = asked[start : start + block]
            near_QP = (self._tfidf.transform([prompt for _, prompt in queries]) @ self._tfidf_PF.T).toarray()
            for near_P, (system, prompt) in zip(near_QP, queries, strict=True):
                near_P[self._of_system.get(system, [])] += FARTHEST
                if unseen:
                    near_P[self._of_prompt.get(prompt, [])] = -1
                best_K = np.argpartition(-near_P, k - 1)[:k]
                found.append(best_K[near_P[best_K] >= 0].tolist())
        return found


class Lookup:
    """Says what was said to the most similar prompts: a 5-gram of their replies, interpolated with that of everything.

    The replies' own counts have `weight` where they know how they go on (the four tokens before are among them), and
    none elsewhere. The weight is what predicts some training conversations best, by a lookup among the others that
    sees none of their prompts: what is scored later has unseen prompts too. Raises ValueError where there is too
    little to choose it on.
    """

    def __init__(self, rows: Sequence[Row], everything: NGram, seed: int = 0) -> None:
        if len(rows) < 2:
            raise ValueError("baselines need two training conversations or more; train on more of them")
        order = np.random.default_rng(seed).permutation(len(rows))
        cut = min(TUNING_ROWS, len(rows) // 2)
        tuning, others = [rows[i] for i in order[:cut]], [rows[i] for i in order[cut:]]
        without = NGram([row.ids for row in others], everything.vocab_size)
        global_N = scored_tokens(without.nats([row.ids for row in tuning]), tuning)
        local = Neighbours(others, everything.vocab_size).probabilities(_scored(tuning), unseen=True)
        self.weight = float(min(WEIGHTS, key=lambda weight: _interpolate(global_N, *local, weight).sum()))
        self.everything, self.neighbours = everything, Neighbours(rows, everything.vocab_size)

    def nats(self, rows: Sequence[Row]) -> np.ndarray:
        """Of each scored token of the rows, end to end."""
        global_N = scored_tokens(self.everything.nats([row.ids for row in rows]), rows)
        return _interpolate(global_N, *self.neighbours.probabilities(_scored(rows)), self.weight)


def _scored(rows: Sequence[Row]) -> list[Reply]:
    return [reply for row in rows for reply in row.scored]


def _interpolate(global_N: np.ndarray, local_N: np.ndarray, known_N: np.ndarray, weight: float) -> np.ndarray:
    """Nats, from nats of the 5-gram of everything and probabilities of the local one."""
    p_N = np.exp(-global_N)
    return -np.log(np.where(known_N, weight * local_N + (1 - weight) * p_N, p_N))


def _vectorizer() -> Any:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_union
    except ModuleNotFoundError:
        raise ValueError("the lookup baseline needs scikit-learn: pip install 'barreleye[report]'") from None
    return make_union(
        TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32),
    )
