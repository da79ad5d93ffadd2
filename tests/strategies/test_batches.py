"""The strategies that look at the whole pool, against literal loops over all pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from strategies import badge, base, coreset, density_weighted, entropy, typiclust
from strategies.base import FloatArray, Pool
from strategies.geometry import centres, seeding
from strategies.geometry.centres import farthest_first
from strategies.geometry.groups import k_means, typicality
from strategies.geometry.points import Points
from strategies.geometry.seeding import spread

RNG = np.random.default_rng


def pool_of(vectors: FloatArray, probs: FloatArray | None = None) -> Pool:
    n = len(vectors)
    windows = np.full((n, 1), 0.3) if probs is None else probs
    cuts = np.arange(n + 1)
    return Pool(np.arange(n) + 10, embeddings=vectors, tile_probs=windows, tile_offsets=cuts)


def farthest_by_loop(vectors: FloatArray, start: FloatArray, k: int) -> list[int]:
    """Gonzalez, 1985, as the paper prints it."""
    chosen = [int(np.linalg.norm(vectors - vectors.mean(0), axis=1).argmin())][: not len(start)]
    while len(chosen) < k:
        known = np.concatenate([start, vectors[chosen]])
        nearest = np.linalg.norm(vectors[:, None] - known, axis=2).min(axis=1)
        chosen.append(int(nearest.argmax()))
    return chosen


@pytest.mark.parametrize("labelled", [0, 6])
@pytest.mark.parametrize("active", [5, 40, 4096])
def test_k_center_greedy_is_the_literal_loop(
    monkeypatch: pytest.MonkeyPatch, labelled: int, active: int
) -> None:
    monkeypatch.setattr(centres, "ACTIVE", active)
    vectors, start = RNG(1).normal(size=(300, 5)), RNG(2).normal(size=(labelled, 5))
    chosen, squared = farthest_first(vectors, start, 60, RNG(3).random(300))
    assert chosen.tolist() == farthest_by_loop(vectors, start, 60)
    known = np.concatenate([start, vectors[chosen]])
    nearest = np.linalg.norm(vectors[:, None] - known, axis=2).min(axis=1)
    np.testing.assert_allclose(np.sqrt(squared), nearest, atol=1e-6)


def test_k_center_greedy_brings_few_distances_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []
    refresh = centres._Search.refresh
    monkeypatch.setattr(
        centres._Search, "refresh", lambda self: (updates.append(1), refresh(self))[1]
    )
    farthest_first(RNG(0).normal(size=(20_000, 16)), np.empty((0, 16)), 200, RNG(1).random(20_000))
    assert len(updates) <= 10


def test_core_set_covers_three_clusters_with_three_picks() -> None:
    middles = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    vectors = np.repeat(middles, 20, axis=0) + RNG(0).normal(size=(60, 2))
    first = base.pick(base.get("coreset"), pool_of(vectors), 3, seed=1) - 10
    assert {int(i) // 20 for i in first} == {0, 1, 2}
    finished = replace(pool_of(vectors), labelled_embeddings=vectors[:20])
    first = base.pick(base.get("coreset"), finished, 2, seed=1) - 10
    assert {int(i) // 20 for i in first} == {1, 2}


def test_core_set_ranks_the_rest_by_their_distance_and_ends_at_copies() -> None:
    vectors = np.array([[0.0], [0.0], [10.0], [9.0], [4.0]])
    assert coreset.utilities(pool_of(vectors), RNG(0), batch=1).argsort().tolist()[2:] == [3, 2, 4]
    copies = coreset.utilities(pool_of(np.repeat(vectors, 3, axis=0)), RNG(0))
    assert np.count_nonzero(copies > 1) == 4, "one of each distinct place"
    assert np.count_nonzero(copies == 0) == 11


def test_embeddings_of_two_versions_are_refused() -> None:
    pool = replace(pool_of(np.ones((3, 4))), labelled_embeddings=np.ones((2, 7)))
    with pytest.raises(ValueError, match="take both from the same version"):
        base.rank(base.get("coreset"), pool, seed=0)


def test_badge_doubts_times_embedding_is_the_gradient_of_the_last_layer() -> None:
    """d BCE(sigmoid(w h), answer) / d w = (p - answer) h, by central differences."""
    h, w, step = RNG(0).normal(size=4), RNG(1).normal(size=4), 1e-6
    p = 1 / (1 + np.exp(-w @ h))
    answer = float(p >= 0.5)

    def loss(weights: FloatArray) -> float:
        q = 1 / (1 + np.exp(-weights @ h))
        return float(-(answer * np.log(q) + (1 - answer) * np.log(1 - q)))

    slopes = [(loss(w + e) - loss(w - e)) / (2 * step) for e in step * np.eye(4)]
    doubt = badge.doubts(pool_of(h[None], np.array([[p]])))[0, 0]
    np.testing.assert_allclose(np.abs(slopes), np.abs(doubt * h), rtol=1e-4)


def test_points_of_two_factors_are_their_outer_products() -> None:
    a, b = RNG(0).normal(size=(9, 2)), RNG(1).normal(size=(9, 3))
    formed = np.einsum("nc,nd->ncd", a, b).reshape(9, 6)
    expected = ((formed[:, None] - formed) ** 2).sum(axis=2)
    np.testing.assert_allclose(Points(a, b).squared_distances(Points(a, b)), expected, atol=1e-12)


@pytest.mark.parametrize("patience", [1, 64])
def test_seeding_draws_by_squared_distance(monkeypatch: pytest.MonkeyPatch, patience: int) -> None:
    monkeypatch.setattr(seeding, "PATIENCE", patience)
    vectors = np.array([[0.0], [1.0], [3.0], [7.0]])
    thirds = [spread(Points(vectors), 0, 3, RNG(seed))[0].tolist() for seed in range(1000)]
    squares = {1: 1.0, 2: 9.0, 3: 49.0}
    after = {1: {2: 4.0, 3: 36.0}, 2: {1: 1.0, 3: 16.0}, 3: {1: 1.0, 2: 9.0}}
    for second, rest in after.items():
        for third, square in rest.items():
            expected = squares[second] / 59 * square / sum(rest.values())
            found = np.mean([one == [0, second, third] for one in thirds])
            assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / 1000) + 1e-3)


def test_seeding_never_draws_a_place_twice() -> None:
    vectors = np.repeat(RNG(0).normal(size=(6, 3)), 5, axis=0)
    chosen, squared = spread(Points(vectors), 4, 30, RNG(1))
    assert len({tuple(vectors[i]) for i in chosen}) == len(chosen) == 6
    assert not squared.any()


def test_badge_prefers_doubt_and_variety() -> None:
    vectors = np.repeat(np.eye(3) * 4, 10, axis=0)
    doubt = np.tile(np.r_[0.5, np.full(9, 0.02)], 3)[:, None]
    pool = pool_of(vectors, doubt)
    firsts = [base.pick(base.get("badge"), pool, 4, seed) - 10 for seed in range(40)]
    doubtful = [np.count_nonzero(one % 10 == 0) for one in firsts]
    assert all(one[0] % 10 == 0 for one in firsts)
    assert np.mean(doubtful) > 2, "0.4 by chance: sure tasks all look alike"


def test_k_means_finds_what_was_put_in_and_lloyd_has_come_to_rest() -> None:
    middles = RNG(0).normal(size=(4, 6)) * 30
    truth = np.repeat(np.arange(4), 25)
    vectors = middles[truth] + RNG(1).normal(size=(100, 6))
    group, means = k_means(vectors, 4, RNG(2))
    assert len({(t, g) for t, g in zip(truth.tolist(), group.tolist(), strict=True)}) == 4
    for g in range(4):
        np.testing.assert_allclose(means[g], vectors[group == g].mean(axis=0))


def test_k_means_of_copies_and_of_nothing() -> None:
    group, means = k_means(np.ones((5, 2)), 3, RNG(0))
    assert group.tolist() == [0] * 5 and means.tolist() == [[1.0, 1.0]]
    assert k_means(np.empty((0, 2)), 3, RNG(0))[1].shape == (0, 2)


def test_typicality_is_that_of_the_twenty_nearest() -> None:
    vectors = RNG(0).normal(size=(60, 3))
    distances = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    expected = 1 / (1 + np.sort(distances, axis=1)[:, 1:21].mean(axis=1))
    np.testing.assert_allclose(typicality(vectors, RNG(1)), expected, rtol=1e-9)
    assert typicality(vectors[:1], RNG(1)).tolist() == [1.0]


def test_typiclust_takes_typical_tasks_of_large_groups_without_finished_ones() -> None:
    sizes, middles = (30, 20, 10), ([0.0, 0.0], [60.0, 0.0], [0.0, 60.0])
    vectors = np.concatenate(
        [
            m + RNG(n).normal(size=(s, 2))
            for n, (s, m) in enumerate(zip(sizes, middles, strict=True))
        ]
    )
    of = np.repeat([0, 1, 2], sizes)
    ranked = base.rank(base.get("typiclust"), pool_of(vectors), 1, {"groups": 3}) - 10
    assert of[ranked[:6]].tolist() == [0, 1, 2, 0, 1, 2], "each group in turn, the largest first"
    inner = [np.linalg.norm(vectors[i] - middles[of[i]]) for i in ranked]
    assert np.mean(inner[:6]) < np.mean(inner[-6:])
    finished = replace(pool_of(vectors), labelled_embeddings=vectors[[0, 1, 30]])
    ranked = base.rank(base.get("typiclust"), finished, 1, {"groups": 3}) - 10
    assert of[ranked[:3]].tolist() == [2, 1, 0], "the fewest finished first"


def test_density_is_the_mean_cosine_over_all_pairs() -> None:
    vectors = RNG(0).normal(size=(40, 5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = (1 + (unit @ unit.T).mean(axis=1)) / 2
    np.testing.assert_allclose(density_weighted.density(vectors), expected, rtol=1e-12)
    pool = pool_of(vectors, RNG(1).random((40, 1)))
    weighted = density_weighted.utilities(pool, RNG(0), beta=2.0)
    np.testing.assert_allclose(weighted, entropy.utilities(pool, RNG(0)) * expected**2)
    assert density_weighted.density(np.zeros((2, 3))).tolist() == [0.5, 0.5]


def test_typiclust_has_more_groups_in_large_pools() -> None:
    vectors = RNG(0).normal(size=(3 * typiclust.PER_GROUP, 2))
    found = typiclust.utilities(pool_of(vectors), RNG(0), groups=1)
    assert np.count_nonzero(found > 0.5) == 3, "one most typical task of each group"
