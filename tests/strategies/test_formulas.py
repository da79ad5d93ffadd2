"""Each strategy against an independent calculation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import bernoulli

from strategies import (
    bald,
    base,
    committee,
    edit_time,
    entropy,
    least_confidence,
    margin,
    power_bald,
    random_order,
    sequential,
)
from strategies.base import Pool
from strategies.reading.windows import mean_of_top

RNG = np.random.default_rng


def pool_of(*tasks: list[list[float]]) -> Pool:
    return Pool(
        np.arange(len(tasks)),
        tile_probs=np.concatenate([np.array(task, dtype=float) for task in tasks]),
        tile_offsets=np.cumsum([0, *map(len, tasks)]),
    )


def by_loop(pool: Pool, window: Callable[[Any], float], whole_row: bool = False) -> list[float]:
    assert pool.tile_probs is not None and pool.tile_offsets is not None
    found = []
    for n in range(len(pool)):
        rows = pool.tile_probs[pool.tile_offsets[n] : pool.tile_offsets[n + 1]]
        of_row = [window(row) if whole_row else max(window(p) for p in row) for row in rows]
        values = sorted(of_row, reverse=True)
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


def test_least_confidence_is_the_chance_that_the_likeliest_joint_answer_is_wrong() -> None:
    def wrong(row: list[float]) -> float:
        answers = itertools.product((0, 1), repeat=len(row))
        likely = (
            math.prod(p if a else 1 - p for a, p in zip(one, row, strict=True)) for one in answers
        )
        return 1 - max(likely)

    pool = random_pool()
    expected = by_loop(pool, wrong, whole_row=True)
    np.testing.assert_allclose(least_confidence.utilities(pool, RNG(0)), expected, rtol=1e-12)


def test_least_confidence_adds_up_doubts_that_margin_takes_one_by_one() -> None:
    pool = pool_of([[0.6, 0.99]], [[0.65, 0.65]])
    assert np.diff(least_confidence.utilities(pool, RNG(0))) > 0
    assert np.diff(margin.utilities(pool, RNG(0))) < 0


def test_pixels_and_both_levels_of_entropy() -> None:
    pool = replace(pool_of([[0.5]], [[0.0]]), pixel_doubt=np.array([0.2, 1.0]))
    assert entropy.utilities(pool, RNG(0), level="pixels") == pytest.approx(
        np.log(2) * pool.pixel_doubt
    )
    expected = np.log(2) * np.array([1.2, 1.0]) / 2
    assert entropy.utilities(pool, RNG(0), level="both") == pytest.approx(expected)


def passes(seed: int = 3) -> Pool:
    pool = random_pool()
    assert pool.tile_probs is not None
    probs = RNG(seed).random((7, *pool.tile_probs.shape))
    return replace(pool, samples=probs, committee_probs=probs, committee_offsets=pool.tile_offsets)


def information(p: list[float]) -> float:
    """The mutual information of answer and pass, from their joint table."""
    joint = np.array([[value / len(p), (1 - value) / len(p)] for value in p])
    alone = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    return float((joint * np.log(joint / alone)).sum())


def test_bald_is_the_mutual_information_of_answer_and_pass() -> None:
    pool = passes()
    assert pool.samples is not None
    by_window = np.apply_along_axis(lambda p: information(p.tolist()), 0, pool.samples)
    expected = by_loop(replace(pool, tile_probs=by_window), lambda value: value)
    np.testing.assert_allclose(bald.utilities(pool, RNG(0)), expected, rtol=1e-9)
    np.testing.assert_allclose(committee.utilities(pool, RNG(0)), expected, rtol=1e-9)


def test_bald_ignores_what_every_pass_doubts() -> None:
    pool = pool_of([[0.5]], [[0.5]])
    pool = replace(pool, samples=np.array([[[0.5], [0.0]], [[0.5], [1.0]]]))
    assert bald.utilities(pool, RNG(0)) == pytest.approx([0.0, np.log(2)], abs=1e-15)


def test_the_committee_votes() -> None:
    probs = np.array([[[0.9], [0.51]], [[0.8], [0.49]], [[0.7], [0.49]], [[0.6], [0.51]]])
    pool = replace(pool_of([[0.5]], [[0.5]]), committee_probs=probs, committee_offsets=np.arange(3))
    found = committee.utilities(pool, RNG(0), measure="votes")
    assert found == pytest.approx([0.0, np.log(2)])
    assert committee.utilities(pool, RNG(0))[0] > committee.utilities(pool, RNG(0))[1]


def test_power_bald_draws_with_probabilities_proportional_to_bald() -> None:
    """The first of a Gumbel order is i with probability s_i / sum s (Kirsch et al., eq. 4)."""
    pool = pool_of([[0.5]], [[0.5]], [[0.5]])
    pool = replace(pool, samples=np.array([[[0.45], [0.3], [0.1]], [[0.55], [0.7], [0.9]]]))
    scores = bald.utilities(pool, RNG(0))
    firsts = [int(power_bald.utilities(pool, RNG(seed)).argmax()) for seed in range(1000)]
    found = np.bincount(firsts, minlength=3) / len(firsts)
    np.testing.assert_allclose(found, scores / scores.sum(), atol=0.05)
    many = Pool(np.arange(5000), tile_offsets=np.arange(5001), samples=np.full((2, 5000, 1), 0.5))
    noise = power_bald.utilities(many, RNG(1)) - np.log(power_bald.LEAST)
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.06), "as a Gumbel number has"
    assert noise.std() == pytest.approx(np.pi / 6**0.5, abs=0.06)
    sure = [int(power_bald.utilities(pool, RNG(s), beta=100.0).argmax()) for s in range(50)]
    assert set(sure) == {2}


def test_sequential_is_the_order_of_arrival() -> None:
    pool = Pool(np.array([31, 7, 12]))
    assert base.rank(base.get("sequential"), pool, seed=0).tolist() == [7, 12, 31]
    assert sequential.utilities(pool, RNG(0)).tolist() == [-31, -7, -12]


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
    easy = base.rank(base.get("edit_time"), pool, 0, {"order": "easy_first"})
    assert easy.tolist() == [1, 3, 2]


@pytest.mark.parametrize(
    ("progress", "order"), [(0.0, [1, 3, 2, 4]), (1.0, [4, 2, 3, 1]), (0.6, [2, 3, 4, 1])]
)
def test_the_curriculum_goes_from_easy_to_hard(progress: float, order: list[int]) -> None:
    seconds = np.array([4.0, 60.0, 9.0, 200.0])
    pool = Pool(np.array([1, 2, 3, 4]), edit_seconds=seconds, progress=progress)
    found = base.rank(base.get("edit_time"), pool, 0, {"order": "curriculum"})
    assert found.tolist() == order


def test_edit_seconds_are_above_zero() -> None:
    pool = Pool(np.array([1, 2]), edit_seconds=np.array([0.0, 2.0]))
    with pytest.raises(ValueError, match="1 of 2 edit seconds are not above 0"):
        base.rank(base.get("edit_time"), pool, seed=0)


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
