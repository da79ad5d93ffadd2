"""What every strategy promises, whatever it computes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from strategies import base
from strategies.base import Pool


def make_pool(ids: list[int] | base.IntArray, seed: int = 0) -> Pool:
    """Give each id evidence that depends on the id alone."""
    ids = np.asarray(ids, dtype=np.int64)
    rngs = [np.random.default_rng((seed, int(i))) for i in ids]
    windows = [rng.random((int(rng.integers(1, 9)), 2)) for rng in rngs]
    return Pool(
        ids,
        tile_probs=np.concatenate(windows) if windows else np.empty((0, 2)),
        tile_offsets=np.cumsum([0, *map(len, windows)]),
        edit_seconds=np.array([rng.uniform(1, 60) for rng in rngs]),
        embeddings=np.array([rng.normal(size=3) for rng in rngs]).reshape(-1, 3),
    )


def identical(ids: list[int]) -> Pool:
    n = len(ids)
    return Pool(
        np.array(ids, dtype=np.int64),
        tile_probs=np.full((2 * n, 1), 0.3),
        tile_offsets=2 * np.arange(n + 1),
        edit_seconds=np.full(n, 9.0),
        embeddings=np.zeros((n, 2)),
    )


every = pytest.mark.parametrize("strategy", [base.get(n) for n in base.names()], ids=base.names())
IDS = list(range(100, 140))


def test_the_files_are_the_names() -> None:
    assert {"random_order", "entropy", "margin", "edit_time"} <= set(base.names())
    assert "base" not in base.names()


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'entropie'; known: .*entropy.*random_order"):
        base.get("entropie")


@every
def test_says_what_it_reads_and_is_for(strategy: base.Strategy) -> None:
    fields = {field.name for field in dataclasses.fields(Pool)}
    assert set(strategy.reads) <= fields
    assert strategy.summary.endswith(".")
    assert strategy.utilities.__doc__


@every
def test_picks_are_distinct_members(strategy: base.Strategy) -> None:
    picked = base.pick(strategy, make_pool(IDS), 15, seed=3)
    assert len(picked) == len(set(picked.tolist())) == 15
    assert set(picked.tolist()) <= set(IDS)


@every
def test_larger_utility_comes_first(strategy: base.Strategy) -> None:
    pool = make_pool(IDS)
    utilities = strategy.utilities(pool, np.random.default_rng(5))
    value = dict(zip(pool.ids.tolist(), utilities.tolist(), strict=True))
    ranked = [value[i] for i in base.rank(strategy, pool, seed=5).tolist()]
    assert ranked == sorted(ranked, reverse=True)
    assert len(set(ranked)) > 1


@every
def test_empty_pool(strategy: base.Strategy) -> None:
    assert base.rank(strategy, make_pool([]), seed=1).tolist() == []
    assert base.pick(strategy, Pool(np.empty(0, dtype=np.int64)), 4, seed=1).tolist() == []


@every
def test_more_wanted_than_there_are(strategy: base.Strategy) -> None:
    assert sorted(base.pick(strategy, make_pool([7, 8]), 99, seed=1).tolist()) == [7, 8]
    with pytest.raises(ValueError, match="-1"):
        base.pick(strategy, make_pool([7, 8]), -1, seed=1)


@every
def test_ties_follow_the_seed_and_nothing_else(strategy: base.Strategy) -> None:
    one = base.rank(strategy, identical(IDS), seed=1).tolist()
    assert one == base.rank(strategy, identical(IDS[::-1]), seed=1).tolist()
    assert one != base.rank(strategy, identical(IDS), seed=2).tolist()
    assert one != IDS and sorted(one) == IDS


@every
def test_same_seed_same_order_from_any_pool_order(strategy: base.Strategy) -> None:
    shuffled = np.random.default_rng(0).permutation(IDS)
    straight = base.rank(strategy, make_pool(IDS), seed=4).tolist()
    assert straight == base.rank(strategy, make_pool(shuffled), seed=4).tolist()


@every
def test_the_order_of_two_does_not_depend_on_the_others(strategy: base.Strategy) -> None:
    whole = base.rank(strategy, make_pool(IDS), seed=4).tolist()
    for part in (IDS[:13], IDS[13:]):
        alone = base.rank(strategy, make_pool(part), seed=4).tolist()
        assert alone == [i for i in whole if i in part]


@every
def test_does_not_change_its_input(strategy: base.Strategy) -> None:
    pool, copy = make_pool(IDS), make_pool(IDS)
    base.rank(strategy, pool, seed=4)
    for field in dataclasses.fields(Pool):
        np.testing.assert_array_equal(getattr(pool, field.name), getattr(copy, field.name))


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_it_reads_must_be_finite(strategy: base.Strategy, bad: float) -> None:
    for name in set(strategy.reads) - {"tile_offsets"}:
        values = getattr(make_pool(IDS), name).copy()
        values.reshape(-1)[[0, 2]] = bad
        broken = dataclasses.replace(make_pool(IDS), **{name: values})
        with pytest.raises(ValueError, match=r"2 of \d+ .* not finite; .+"):
            base.rank(strategy, broken, seed=0)


@every
def test_what_it_reads_must_be_there(strategy: base.Strategy) -> None:
    bare = Pool(np.array([1, 2]))
    assert base.missing(strategy, bare) == strategy.reads
    if strategy.reads:
        with pytest.raises(ValueError, match=strategy.reads[0]):
            base.rank(strategy, bare, seed=0)


@every
def test_repeated_ids_are_refused(strategy: base.Strategy) -> None:
    with pytest.raises(ValueError, match="1 task ids are repeated"):
        base.rank(strategy, make_pool([4, 5, 4]), seed=0)


class Diverged:
    reads: tuple[str, ...] = ()
    summary = "Broken."

    def __init__(self, values: list[float]) -> None:
        self.values = np.array(values)

    def utilities(self, pool: Pool, rng: np.random.Generator) -> base.FloatArray:
        return self.values


def test_utilities_are_checked() -> None:
    with pytest.raises(ValueError, match="1 of 2 utilities are not finite"):
        base.rank(Diverged([1.0, np.nan]), make_pool([1, 2]), seed=0)
    with pytest.raises(ValueError, match="one per task"):
        base.rank(Diverged([1.0]), make_pool([1, 2]), seed=0)


def test_priorities_fall_in_even_steps_from_one_to_zero() -> None:
    assert base.priorities([9, 3, 5]) == {9: 1.0, 3: 0.5, 5: 0.0}
    assert base.priorities([9]) == {9: 1.0}
    assert base.priorities([]) == {}
    many = list(base.priorities(range(10_001)).values())
    assert min(many) == 0.0 and max(many) == 1.0 and len(set(many)) == 10_001
