"""Each strategy against an independent calculation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bernoulli

from strategies import base, edit_time, entropy, margin, random_order
from strategies.base import Pool, mean_of_top

RNG = np.random.default_rng


def pool_of(*tasks: list[list[float]]) -> Pool:
    return Pool(
        np.arange(len(tasks)),
        tile_probs=np.concatenate([np.array(task, dtype=float) for task in tasks]),
        tile_offsets=np.cumsum([0, *map(len, tasks)]),
    )


def by_loop(pool: Pool, window: object) -> list[float]:
    assert pool.tile_probs is not None and pool.tile_offsets is not None
    found = []
    for n in range(len(pool)):
        rows = pool.tile_probs[pool.tile_offsets[n] : pool.tile_offsets[n + 1]]
        values = sorted((max(window(p) for p in row) for row in rows), reverse=True)  # type: ignore[operator]
        top = values[: math.ceil(len(values) / 4)]
        found.append(sum(top) / len(top))
    return found


def random_pool() -> Pool:
    rng = RNG(1)
    return pool_of(*(rng.random((n, 3)).tolist() for n in (1, 2, 4, 5, 8, 33)))


def test_entropy_is_that_of_scipy() -> None:
    pool = random_pool()
    expected = by_loop(pool, lambda p: float(bernoulli(p).entropy()))
    np.testing.assert_allclose(entropy.utilities(pool, RNG(0)), expected, rtol=1e-12)


def test_margin_is_one_minus_the_gap_between_the_two_outcomes() -> None:
    pool = random_pool()
    expected = by_loop(pool, lambda p: 1 - (max(p, 1 - p) - min(p, 1 - p)))
    np.testing.assert_allclose(margin.utilities(pool, RNG(0)), expected, rtol=1e-12)


@pytest.mark.parametrize(("p", "nats"), [(0.5, math.log(2)), (0.0, 0.0), (1.0, 0.0)])
def test_entropy_at_the_ends_and_in_the_middle(p: float, nats: float) -> None:
    assert entropy.utilities(pool_of([[p]]), RNG(0)) == pytest.approx(nats, abs=1e-15)


def test_one_doubtful_class_is_enough() -> None:
    sure, doubtful = [[0.01, 0.99]], [[0.01, 0.5]]
    for strategy in (entropy, margin):
        low, high = strategy.utilities(pool_of(sure, doubtful), RNG(0))
        assert low < high


@pytest.mark.parametrize("strategy", [entropy, margin])
def test_the_same_surface_on_a_larger_image_is_as_urgent(strategy: base.Strategy) -> None:
    windows = RNG(2).random((16, 2)).tolist()
    small, large = strategy.utilities(pool_of(windows, windows * 25), RNG(0))
    assert small == pytest.approx(large)


@pytest.mark.parametrize("strategy", [entropy, margin])
def test_a_doubtful_quarter_is_not_buried_under_clean_windows(strategy: base.Strategy) -> None:
    mostly_clean = [[0.5]] * 4 + [[0.001]] * 12
    lukewarm = [[0.2]] * 16
    found = strategy.utilities(pool_of(mostly_clean, lukewarm), RNG(0))
    assert found[0] > found[1]


def test_edit_time_is_the_predicted_seconds() -> None:
    pool = Pool(np.array([1, 2, 3]), edit_seconds=np.array([4.0, 60.0, 9.0]))
    assert base.rank(base.get("edit_time"), pool, seed=0).tolist() == [2, 3, 1]
    assert edit_time.utilities(pool, RNG(0)).tolist() == [4.0, 60.0, 9.0]


def test_random_order_is_uniform_over_orders() -> None:
    pool = Pool(np.array([11, 12, 13]))
    firsts = [int(base.rank(base.get("random_order"), pool, seed)[0]) for seed in range(600)]
    counts = [firsts.count(i) for i in (11, 12, 13)]
    assert min(counts) > 160  # 200 expected, standard deviation 11.5
    keys = random_order.utilities(Pool(np.arange(20_000)), RNG(0))
    assert keys.min() >= 0 and keys.max() < 1
    np.testing.assert_allclose(np.histogram(keys, 10, (0, 1))[0], 2000, atol=200)


def test_mean_of_top_takes_at_least_one_window() -> None:
    values, offsets = np.array([1.0, 9.0, 5.0, 7.0, 3.0]), np.array([0, 1, 5])
    assert mean_of_top(values, offsets).tolist() == [1.0, 9.0]
    assert mean_of_top(values, offsets, share=1.0).tolist() == [1.0, 6.0]


@pytest.mark.parametrize(
    ("probs", "offsets", "message"),
    [
        ([[0.5], [1.5]], [0, 1, 2], r"1 of 2 .* outside \[0, 1\]"),
        ([[0.5], [0.5]], [0, 1, 3], "do not cut 2 windows into 2 tasks"),
        ([[0.5], [0.5]], [0, 2], "do not cut"),
        ([[0.5], [0.5]], [0, 0, 2], "1 of 2 tasks have no window"),
        (np.empty((2, 0)), [0, 1, 2], "C >= 1"),
    ],
)
def test_windows_are_checked(probs: list[list[float]], offsets: list[int], message: str) -> None:
    pool = Pool(np.array([1, 2]), tile_probs=np.array(probs), tile_offsets=np.array(offsets))
    with pytest.raises(ValueError, match=message):
        entropy.utilities(pool, RNG(0))
