"""Numbers with their 95% intervals, by the bootstrap: the measurement, repeated on samples of what was measured."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

DRAWS = 1_000
BLOCK = 1 << 22  # draws x items held at once


@dataclass(frozen=True)
class Figure:
    """One number, its bootstrap 95% interval, and how many independent items (conversations, replies) it rests on."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(
    amounts: ArrayLike, sizes: ArrayLike | None = None, clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> Figure:
    """sum(amounts) / sum(sizes), with the percentile interval of Efron (1979): the mean where no sizes are given.

    Items of one cluster (the replies on one topic) are drawn together, for they are not independent; without clusters
    each item stands for itself. Clusters of no size and no amount say nothing and are left out, and so is a sample of
    no size. Raises ValueError where all sizes are 0.
    """
    amounts_N = np.asarray(amounts, float)
    sizes_N = np.ones_like(amounts_N) if sizes is None else np.asarray(sizes, float)
    if clusters is not None:
        number = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
        which_N = [number[cluster] for cluster in clusters]
        amounts_N, sizes_N = np.bincount(which_N, amounts_N), np.bincount(which_N, sizes_N)
    says_N = (sizes_N > 0) | (amounts_N != 0)
    amounts_N, sizes_N = amounts_N[says_N], sizes_N[says_N]
    n = len(sizes_N)
    if not sizes_N.any():
        raise ValueError("there is nothing to measure: no item is larger than nothing")
    rng = np.random.default_rng(seed)
    block, ratios = max(1, BLOCK // n), []
    for left in range(DRAWS, 0, -block):
        drawn = rng.integers(n, size=(min(block, left), n))
        amounts_D, sizes_D = amounts_N[drawn].sum(1), sizes_N[drawn].sum(1)
        ratios.append(amounts_D[sizes_D > 0] / sizes_D[sizes_D > 0])
    low, high = np.percentile(np.concatenate(ratios), (2.5, 97.5))
    return Figure(float(amounts_N.sum() / sizes_N.sum()), float(low), float(high), n)


def paired(
    a: ArrayLike,
    b: ArrayLike,
    sizes: ArrayLike | None = None,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Figure:
    """How much larger a is than b over the same items, both per size: what they share drops out of the interval."""
    return bootstrap(np.subtract(a, b), sizes, clusters, seed)
