"""What holds of the gate for any figures whatever."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.loop.gate import TaskScore, choose, judge

SEPARABLE = ("crack", "rust")
numbers = st.integers(0, 400)
scores = st.builds(
    TaskScore,
    task=st.integers(0, 11).map("t{:02}".format),
    class_name=st.sampled_from(SEPARABLE),
    cost_s=numbers.map(lambda n: n / 10),
    f=st.integers(0, 85).map(lambda n: n / 100),
    f_strict=st.just(0.5),
    regions=st.lists(
        st.tuples(st.integers(0, 100).map(lambda n: n / 100), st.booleans()), max_size=6
    ).map(tuple),
)
versions = st.lists(scores, min_size=1, max_size=24, unique_by=lambda s: (s.task, s.class_name))


@st.composite
def dominated(draw: st.DrawFn) -> tuple[list[TaskScore], list[TaskScore]]:
    """Give a champion, and a challenger that is better nowhere and worse on every task."""
    champion = draw(versions)
    worse = []
    for one in champion:
        cost_s, f = draw(numbers) / 100, draw(st.integers(0, 20)) / 100
        worse.append(replace(one, cost_s=one.cost_s + cost_s + 0.01, f=max(0.0, one.f - f)))
    return champion, worse


@settings(max_examples=60, deadline=None)
@given(pair=dominated(), seed=st.integers(0, 99))
def test_a_dominated_challenger_never_passes(
    pair: tuple[list[TaskScore], list[TaskScore]], seed: int
) -> None:
    champion, worse = pair
    assert not judge(champion, worse, seed=seed).promote
    choice = choose(champion, worse, separable=SEPARABLE, seed=seed)
    assert (choice.verdict.promote, choice.kept) == (False, ())


@settings(max_examples=60, deadline=None)
@given(version=versions, seed=st.integers(0, 99))
def test_an_identical_challenger_passes_as_it_knows_more(
    version: list[TaskScore], seed: int
) -> None:
    verdict = judge(version, version, seed=seed)
    assert verdict.promote
    few = len({one.task for one in version}) < 5
    assert verdict.figures["rule"] == ("simple" if few else "bootstrap")
    assert choose(version, version, separable=SEPARABLE, seed=seed).kept == ()


@settings(max_examples=60, deadline=None)
@given(before=versions, after=versions, seed=st.integers(0, 99), random=st.randoms())
def test_the_order_of_tasks_is_irrelevant(
    before: list[TaskScore], after: list[TaskScore], seed: int, random: Random
) -> None:
    first = judge(before, after, seed=seed)
    mixed = choose(before, after, separable=SEPARABLE, seed=seed)
    random.shuffle(before)
    random.shuffle(after)
    assert judge(before, after, seed=seed) == first
    assert choose(before, after, separable=SEPARABLE, seed=seed) == mixed


@settings(max_examples=60, deadline=None)
@given(
    before=st.none() | versions,
    after=versions,
    which=st.integers(0, 23),
    field=st.sampled_from(["cost_s", "f", "f_strict"]),
    value=st.sampled_from([math.nan, math.inf, -math.inf]),
)
def test_a_figure_that_is_no_number_never_passes(
    before: list[TaskScore] | None, after: list[TaskScore], which: int, field: str, value: float
) -> None:
    broken = list(after)
    place = which % len(broken)
    broken[place] = replace(broken[place], **{field: value})
    assert not judge(before, broken, seed=0).promote
    assert not choose(before, broken, separable=SEPARABLE, seed=0).verdict.promote
