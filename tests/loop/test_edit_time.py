from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.loop.edit_time import (
    ENOUGH,
    LONGEST_S,
    seconds_by_annotation,
    upper_limit_s,
    usable_s,
    winsorised,
)
from backend.records import Interaction
from tests.loop.making import interaction


def done(annotation: int, seconds: float | None, annotator: int | None = 1) -> Interaction:
    return interaction(annotation=annotation, edit_seconds=seconds, annotator=annotator)


@pytest.mark.parametrize(
    ("lead_time_s", "seconds"),
    [
        (None, None),
        (0.0, None),
        (-3.0, None),
        (math.nan, None),
        (math.inf, None),
        (0.4, 0.4),
        (19.3, 19.3),
        (86_400, LONGEST_S),
    ],
)
def test_what_is_no_time_is_unknown(lead_time_s: float | None, seconds: float | None) -> None:
    assert usable_s(lead_time_s) == seconds


def test_lunch_is_no_work() -> None:
    usual = [done(n, seconds) for n, seconds in enumerate(np.geomspace(10, 40, 15).tolist())]
    cleaned = seconds_by_annotation(winsorised([*usual, done(99, 850.0)]))
    logs = np.log([*np.geomspace(10, 40, 15), 850.0])
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    expected = np.median([*np.geomspace(10, 40, 15), 850.0]) * math.exp(3 * spread)
    assert cleaned[99] == pytest.approx(expected)
    assert 40 < cleaned[99] < 150
    assert [cleaned[n] for n in range(15)] == [one.edit_seconds for one in usual]


def test_each_annotator_has_a_limit_of_their_own() -> None:
    slow = [done(n, 300.0 + n, annotator=2) for n in range(12)]
    quick = [done(100 + n, 10.0 + n / 10) for n in range(12)]
    cleaned = seconds_by_annotation(winsorised([*slow, *quick, done(200, 320.0)]))
    assert cleaned[3] == 303.0
    assert cleaned[200] < 40


def test_few_annotations_have_no_limit_but_the_longest() -> None:
    few = [done(n, 10.0) for n in range(ENOUGH - 2)]
    assert seconds_by_annotation(winsorised([*few, done(99, 850.0)]))[99] == 850.0
    one_more = [*few, done(98, 10.0), done(99, 850.0)]
    assert seconds_by_annotation(winsorised(one_more))[99] == 30.0


def test_whoever_is_very_regular_may_still_meet_a_hard_image() -> None:
    assert upper_limit_s([10.0] * 20) == 30.0
    assert upper_limit_s([600.0] * 20) == LONGEST_S


def test_the_shares_of_an_annotation_stay_the_same() -> None:
    shared = [
        interaction(annotation=99, class_name="crack", edit_seconds=600.0),
        interaction(annotation=99, class_name="rust", edit_seconds=200.0),
    ]
    crack, rust = winsorised([done(n, 10.0) for n in range(12)] + shared)[-2:]
    assert (crack.edit_seconds, rust.edit_seconds) == (22.5, 7.5)


def test_unknown_seconds_stay_unknown_and_nothing_is_nothing() -> None:
    assert winsorised([]) == []
    assert winsorised([done(1, None)]) == [done(1, None)]


@given(st.lists(st.floats(0.1, LONGEST_S), max_size=30))
@settings(max_examples=60, deadline=None)
def test_seconds_only_shrink_and_the_order_of_arrival_leaves_no_trace(
    seconds: list[float],
) -> None:
    known = [done(n, value) for n, value in enumerate(seconds)]
    before, after = seconds_by_annotation(known), seconds_by_annotation(winsorised(known))
    assert all(0 < after[n] <= before[n] for n in before)
    assert seconds_by_annotation(winsorised(known[::-1])) == pytest.approx(after)
