"""A 5-gram model with interpolated Kneser-Ney back-off (Chen and Goodman 1999, section 2.7): the plain statistics
that a transformer has to beat before it may be said to have learned anything."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

DISCOUNT = 0.75
ORDER = 5


class NGram:
    """Counts of the training rows, by order. Rows are lists of token ids; no n-gram crosses from one to the next."""

    def __init__(self, rows: Iterable[Sequence[int]], vocab_size: int, order: int = ORDER) -> None:
        self.order, self.vocab_size = order, vocab_size
        # seen[n][context][token]: how often (highest order), or after how many different tokens (lower orders).
        self.seen: list[dict[tuple[int, ...], Counter[int]]] = [defaultdict(Counter) for _ in range(order)]
        for row in rows:
            for end in range(len(row)):
                context = tuple(row[max(0, end - order + 1) : end])
                # A context cut short by the row's beginning has nothing further left: it counts as the highest order.
                self.seen[len(context)][context][row[end]] += 1
        for n in range(order - 1, 0, -1):
            for context, counts in self.seen[n].items():
                for token in counts:
                    self.seen[n - 1][context[1:]][token] += 1
        self.totals = [{context: counts.total() for context, counts in level.items()} for level in self.seen]

    def probability(self, context: Sequence[int], token: int) -> float:
        """P(token | last tokens of context); sums to one over the vocabulary."""
        probability = 1 / self.vocab_size
        for n in range(self.order):
            if n > len(context):
                break
            history = tuple(context[len(context) - n :])
            total = self.totals[n].get(history)
            if total is None:
                break
            counts = self.seen[n][history]
            probability = max(counts[token] - DISCOUNT, 0) / total + DISCOUNT * len(counts) / total * probability
        return probability

    def loss(self, row: Sequence[int], scored: Sequence[bool]) -> float:
        """Summed negative log-likelihood, in nats, of the tokens of `row` that are scored."""
        return -sum(
            math.log(self.probability(row[max(0, end - self.order + 1) : end], row[end]))
            for end in range(len(row))
            if scored[end]
        )
