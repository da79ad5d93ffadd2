"""Strategies made of others, of people's answers and of what earlier orders were worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata

from strategies import base, class_balance, edit_time, entropy, hybrid, review, value_per_second
from strategies.autopilot import ARMS, choose
from strategies.base import Pool, Trial
from strategies.reading.ranks import mean_ranks
from tests.strategies.test_contract import IDS, make_pool

RNG = np.random.default_rng


def test_mean_ranks_are_those_of_scipy() -> None:
    values = np.array([3.0, 1.0, 3.0, 2.0, 9.0])
    np.testing.assert_allclose(mean_ranks(values), (rankdata(values) - 1) / 4)
    assert mean_ranks(np.array([5.0])).tolist() == [0.0]


def test_hybrid_is_the_weighted_mean_of_ranks() -> None:
    pool = make_pool(IDS)
    found = hybrid.utilities(pool, RNG(0), entropy=1.0, edit_time=0.5, margin=0.0)
    by_doubt = rankdata(entropy.utilities(pool, RNG(0))) - 1
    by_time = rankdata(edit_time.utilities(pool, RNG(0))) - 1
    np.testing.assert_allclose(found, (by_doubt + 0.5 * by_time) / 1.5 / (len(IDS) - 1))


def test_hybrid_of_one_is_that_one_and_its_reads_are_its_parts() -> None:
    pool = make_pool(IDS)
    alone = base.rank(base.get("hybrid"), pool, 3, {"edit_time": 2}).tolist()
    assert alone == base.rank(base.get("edit_time"), pool, 3).tolist()
    assert base.needs(base.get("hybrid"), {"edit_time": 2}) == ("edit_seconds",)
    bare = Pool(pool.ids, edit_seconds=pool.edit_seconds)
    assert base.rank(base.get("hybrid"), bare, 3, {"edit_time": 2}).tolist() == alone


def test_hybrid_has_no_mixture_as_a_part() -> None:
    with pytest.raises(ValueError, match="unknown option 'hybrid'"):
        base.complete(base.get("hybrid"), {"hybrid": 1})


def test_value_per_second_is_gain_divided_by_seconds() -> None:
    pool = make_pool(IDS)
    assert pool.edit_seconds is not None
    expected = entropy.utilities(pool, RNG(0)) / pool.edit_seconds
    np.testing.assert_allclose(value_per_second.utilities(pool, RNG(0)), expected)
    with pytest.raises(ValueError, match="option gain is 'random_order'; give entropy, margin"):
        base.complete(value_per_second, {"gain": "random_order"})


@pytest.mark.parametrize("name", value_per_second.GAINS)
def test_what_serves_as_gain_is_never_negative(name: str) -> None:
    assert base.utilities(base.get(name), make_pool(IDS), RNG(0)).min() >= 0


def rare(share: list[float], probs: list[list[float]]) -> Pool:
    n = len(probs)
    return Pool(
        np.arange(n),
        tile_probs=np.array(probs),
        tile_offsets=np.arange(n + 1),
        class_share=np.array(share),
    )


def test_class_balance_weighs_probability_by_what_is_lacking() -> None:
    pool = rare([0.45, 0.05], [[0.9, 0.1], [0.2, 0.8]])
    expected = [0.9 * 0.1 + 0.1 * 0.9, 0.2 * 0.1 + 0.8 * 0.9]
    np.testing.assert_allclose(class_balance.utilities(pool, RNG(0)), expected)
    assert class_balance.utilities(pool, RNG(0), quota=0.05).tolist() == [0.0, 0.0]


def test_class_balance_looks_at_the_surest_window() -> None:
    pool = replace(
        rare([0.0], [[0.1], [0.7], [0.6]]), ids=np.arange(2), tile_offsets=np.array([0, 2, 3])
    )
    assert class_balance.utilities(pool, RNG(0)).tolist() == [0.7, 0.6]


def finished(found: list[int], probs: list[float], overlap: list[float]) -> Pool:
    n = len(found)
    return Pool(
        np.arange(n),
        tile_probs=np.array(probs)[:, None],
        tile_offsets=np.arange(n + 1),
        annotated=np.array(found, dtype=float)[:, None],
        overlap=np.array(overlap)[:, None],
    )


def test_review_finds_the_missed_the_invented_and_the_misplaced() -> None:
    pool = finished(
        [1, 1, 1, 1, 0, 0, 0, 1], [0.9, 0.8, 0.9, 0.05, 0.1, 0.95, 0.2, 0.9],
        [0.9, 0.9, 0.8, 0.0, 1.0, 0.0, 1.0, 0.02],
    )  # fmt: skip
    order = base.rank(base.get("review"), pool, seed=0).tolist()
    assert set(order[:3]) == {3, 5, 7}
    present = [0.9, 0.8, 0.9, 0.05, 0.9]
    away = [0.09, 0.08, 0.18, 0.05, 0.882]
    found = review.utilities(pool, RNG(0))
    assert found[5] == pytest.approx(0.95 - np.mean(present))
    assert found[3] == pytest.approx(np.mean(present) - 0.05)
    assert found[7] == pytest.approx(0.882 - np.mean(away))


def test_the_autopilot_tries_all_then_stays_with_the_best() -> None:
    trials: list[Trial] = []
    worth = {"entropy": 0.02, "hybrid": 0.05, "edit_time": 0.01}
    for _ in range(20):
        chosen = choose(trials, tuple(worth), explore=0.2)
        trials.append(Trial(chosen.strategy, 60 * worth[chosen.strategy], 60.0))
    assert [one.strategy for one in trials[:3]] == list(worth)
    assert [one.strategy for one in trials].count("hybrid") > 12
    final = choose(trials, tuple(worth), explore=0.0)
    assert final.strategy == "hybrid"
    assert "the best so far" in final.reason and "hybrid 0.05" in final.reason


def test_the_autopilot_forgets_what_was_long_ago() -> None:
    old = [Trial("entropy", 5.0, 1.0)] * 3 + [Trial("hybrid", 2.0, 1.0)] * 3
    arms = ("entropy", "hybrid")
    assert choose(old, arms, explore=0.0).strategy == "entropy"
    since = [Trial("entropy", 0.1, 1.0)] * 4  # their plain mean would still be above hybrid's
    found = choose([*old, *since], arms, explore=0.0)
    assert found.strategy == "hybrid"
    assert found.reason.startswith("goes from entropy to hybrid, the best so far")


def test_the_autopilot_returns_to_what_was_tried_rarely() -> None:
    trials = [Trial("hybrid", 0.9, 1.0), *[Trial("entropy", 1.0, 1.0)] * 20]
    arms = ("entropy", "hybrid")
    assert choose(trials, arms, explore=0.0).strategy == "entropy"
    assert choose(trials, arms, explore=1.0).strategy == "hybrid"
    assert "tried again" in choose(trials, arms, explore=1.0).reason


def test_the_autopilot_ranks_as_the_strategy_that_it_chose() -> None:
    tried = [Trial(name, 1.0 if name == "edit_time" else 0.1, 1.0) for name in ARMS]
    pool = replace(make_pool(IDS), trials=tuple(tried))
    found = base.rank(base.get("autopilot"), pool, 2, {"explore": 0})
    assert found.tolist() == base.rank(base.get("edit_time"), pool, 2).tolist()
    bare = Pool(pool.ids, trials=tuple(tried))
    found = base.rank(base.get("autopilot"), bare, 2, {"explore": 0})
    assert found.tolist() == base.rank(base.get("random_order"), bare, 2).tolist()


def test_trials_without_work_say_nothing() -> None:
    assert choose([Trial("entropy", 9.0, 0.0)], ("entropy", "hybrid")).strategy == "entropy"
    assert "not been tried" in choose([], ("entropy",)).reason
