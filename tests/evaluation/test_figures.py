import numpy as np
import pytest

from barreleye.evaluation.figures import DRAWS, Figure, bootstrap, paired


def slow(amounts: list[float], sizes: list[float], draws: np.ndarray) -> list[float]:
    return [sum(amounts[i] for i in draw) / sum(sizes[i] for i in draw) for draw in draws]


def test_a_ratio_of_sums_by_an_obvious_bootstrap() -> None:
    amounts, sizes = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0], [2.0, 7.0, 1.0, 8.0, 2.0, 8.0]
    draws = np.random.default_rng(5).integers(6, size=(DRAWS, 6))
    figure = bootstrap(amounts, sizes, seed=5)
    low, high = np.percentile(slow(amounts, sizes, draws), (2.5, 97.5))
    assert figure == Figure(pytest.approx(23 / 28), pytest.approx(low), pytest.approx(high), 6)


def test_a_mean_where_no_sizes_are_given() -> None:
    figure = bootstrap([True, False, True, True])
    assert figure.value == 0.75 and figure.low <= 0.75 <= figure.high and figure.n == 4


def test_blocks_of_draws_are_no_other_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(50.0)
    whole = bootstrap(values)
    monkeypatch.setattr("barreleye.evaluation.figures.BLOCK", 333)
    assert bootstrap(values) == whole


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).normal(size=40)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_19_times_in_20() -> None:
    rng = np.random.default_rng(0)
    figures = [bootstrap(rng.exponential(2, size=80), seed=seed) for seed in range(300)]
    assert 0.9 < np.mean([figure.low <= 2 <= figure.high for figure in figures]) < 0.98


def test_what_is_said_in_one_conversation_counts_as_one_item() -> None:
    """Ten copies of each item are no more evidence than the items."""
    values = np.random.default_rng(0).normal(size=30)
    clusters = [f"chat {i}" for i in range(30)]
    once, copies = bootstrap(values), bootstrap(np.repeat(values, 10), clusters=np.repeat(clusters, 10).tolist())
    assert (copies.low, copies.high, copies.n) == (pytest.approx(once.low), pytest.approx(once.high), 30)
    assert bootstrap(np.repeat(values, 10)).high - once.value < 0.5 * (once.high - once.value)


def test_pairs_leave_out_what_both_share() -> None:
    rng = np.random.default_rng(0)
    hard, sizes = rng.normal(10, 5, size=100), rng.uniform(1, 3, size=100)
    a, b = hard + rng.normal(0.3, 0.1, size=100), hard
    difference = paired(a, b, sizes)
    assert difference.value == pytest.approx(bootstrap(a, sizes).value - bootstrap(b, sizes).value)
    assert 0 < difference.low < difference.high < 0.3
    assert bootstrap(a, sizes).low < bootstrap(b, sizes).high  # apart only as pairs
    mirrored = paired(b, a, sizes)
    assert (mirrored.low, mirrored.high) == (pytest.approx(-difference.high), pytest.approx(-difference.low))


def test_items_of_size_zero_say_nothing() -> None:
    assert bootstrap([1.0, 0.0, 3.0], [2.0, 0.0, 2.0]) == bootstrap([1.0, 3.0], [2.0, 2.0])


@pytest.mark.parametrize(("amounts", "sizes"), [([], []), ([0.0, 0.0], [0.0, 0.0])])
def test_nothing_to_measure(amounts: list[float], sizes: list[float]) -> None:
    with pytest.raises(ValueError, match="there is nothing to measure"):
        bootstrap(amounts, sizes)
