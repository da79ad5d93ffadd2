"""What every strategy promises, whatever it computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from strategies import base
from strategies.base import Option, Pool, Trial

RNG = np.random.default_rng


def make_pool(ids: list[int] | base.IntArray, seed: int = 0) -> Pool:
    """Give each id evidence of every kind that depends on the id alone."""
    ids = np.asarray(ids, dtype=np.int64)
    rngs = [np.random.default_rng((seed, int(i))) for i in ids]
    windows = [rng.random((int(rng.integers(1, 9)), 2)) for rng in rngs]
    passes = [
        [RNG((n, int(i))).random(own.shape) for i, own in zip(ids, windows, strict=True)]
        for n in (11, 12, 13)
    ]
    offsets = np.cumsum([0, *map(len, windows)])
    several = np.stack([joined(one) for one in passes])
    return Pool(
        ids,
        tile_probs=joined(windows),
        tile_offsets=offsets,
        pixel_doubt=np.array([rng.random() for rng in rngs]),
        edit_seconds=np.array([rng.uniform(1, 60) for rng in rngs]),
        embeddings=np.array([rng.normal(size=3) for rng in rngs]).reshape(-1, 3),
        samples=several,
        committee_probs=several[:2],
        committee_offsets=offsets,
        labelled_embeddings=RNG(8).normal(size=(5, 3)),
        class_share=np.array([0.1, 0.3]),
        annotated=np.array([rng.integers(0, 2, 2) for rng in rngs], dtype=float).reshape(-1, 2),
        overlap=np.array([rng.random(2) for rng in rngs]).reshape(-1, 2),
        progress=0.25,
        trials=(Trial("entropy", 1.0, 10.0), Trial("random_order", 0.5, 10.0)),
    )


def joined(windows: list[base.FloatArray]) -> base.FloatArray:
    return np.concatenate(windows) if windows else np.empty((0, 2))


def identical(ids: list[int]) -> Pool:
    n = len(ids)
    probs = np.full((2 * n, 1), 0.3)
    return Pool(
        np.array(ids, dtype=np.int64),
        tile_probs=probs,
        tile_offsets=2 * np.arange(n + 1),
        pixel_doubt=np.full(n, 0.5),
        edit_seconds=np.full(n, 9.0),
        embeddings=np.full((n, 2), 0.7),
        samples=np.stack([probs, probs / 2]),
        committee_probs=np.stack([probs, probs / 2]),
        committee_offsets=2 * np.arange(n + 1),
        class_share=np.array([0.1]),
        annotated=np.ones((n, 1)),
        overlap=np.full((n, 1), 0.4),
    )


def of(chosen: Iterable[str]) -> pytest.MarkDecorator:
    names = list(chosen)
    return pytest.mark.parametrize("strategy", [base.get(name) for name in names], ids=names)


every = of(base.names())
IDS = list(range(100, 140))


def test_the_files_are_the_names() -> None:
    assert set(base.names()) == {
        "autopilot", "badge", "bald", "class_balance", "committee", "coreset", "density_weighted",
        "edit_time", "entropy", "hybrid", "least_confidence", "margin", "power_bald",
        "random_order", "review", "sequential", "typiclust", "value_per_second",
    }  # fmt: skip


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
    utilities = base.utilities(strategy, pool, np.random.default_rng(5))
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


@of(name for name in base.names() if name != "sequential")
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


@of(n for n in base.names() if not getattr(base.get(n), "depends_on_pool", False))
def test_the_order_of_two_depends_on_the_others_only_where_declared(
    strategy: base.Strategy,
) -> None:
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
    for name in set(strategy.reads) - {"tile_offsets", "committee_offsets"}:
        values = getattr(make_pool(IDS), name).astype(float)
        if name == "class_share":
            values = np.array([bad, bad])
        values.reshape(-1)[[0, -1 if values.size < 3 else 2]] = bad
        broken = dataclasses.replace(make_pool(IDS), **{name: values})
        with pytest.raises(ValueError, match=r"2 of \d+ .* not finite; .+"):
            base.rank(strategy, broken, seed=0)


@every
def test_what_it_reads_must_be_there(strategy: base.Strategy) -> None:
    bare = Pool(np.array([1, 2]))
    assert base.missing(strategy, bare) == base.needs(strategy)
    if base.needs(strategy):
        with pytest.raises(ValueError, match=base.needs(strategy)[0]):
            base.rank(strategy, bare, seed=0)


@every
def test_by_default_it_reads_what_it_says(strategy: base.Strategy) -> None:
    assert base.needs(strategy) == strategy.reads


def settings() -> list[Any]:
    """Give every strategy with every word and both ends of every number of its options."""
    found = []
    for name in base.names():
        for option in base.options_of(base.get(name)):
            values = option.choices or (option.low, option.high)
            found += [pytest.param(name, option, v, id=f"{name}-{option.name}-{v}") for v in values]
    return found


@pytest.mark.parametrize(("name", "option", "value"), settings())
def test_every_setting_ranks_the_same_from_any_pool_order(
    name: str, option: Option, value: Any
) -> None:
    shuffled = np.random.default_rng(0).permutation(IDS)
    orders = [
        base.rank(base.get(name), make_pool(ids), 4, {option.name: value}).tolist()
        for ids in (IDS, shuffled)
    ]
    assert orders[0] == orders[1] and sorted(orders[0]) == IDS
    read = base.needs(base.get(name), {option.name: value})
    alone = Pool(np.array(IDS), **{field: getattr(make_pool(IDS), field) for field in read})
    assert len(base.rank(base.get(name), alone, 4, {option.name: value})) == len(IDS)


@every
def test_wrong_options_are_refused_with_what_is_wanted(strategy: base.Strategy) -> None:
    with pytest.raises(ValueError, match="unknown option 'colour'"):
        base.rank(strategy, make_pool(IDS), 0, {"colour": 1})
    for option in base.options_of(strategy):
        assert option.help and base.complete(strategy, {})[option.name] == option.default
        assert base.complete(strategy, {option.name: option.default})
        wrong: list[Any] = ["astrology", None, True]
        wrong += [] if option.choices else [option.high + 1, option.low - 1, float("nan")]
        for value in wrong:
            with pytest.raises(ValueError, match=f"option {option.name} is .*; give "):
                base.complete(strategy, {option.name: value})


@every
def test_what_it_declares_exists(strategy: base.Strategy) -> None:
    assert getattr(strategy, "instead", "random_order") in base.names()
    assert "use it" in str(strategy.__doc__).lower().replace("\n", " "), "says when to use it"


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
