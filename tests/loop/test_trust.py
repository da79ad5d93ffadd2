from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.loop.trust import FULL, NONE, TRUTH, Rule, judge, reviewed
from backend.records import Work
from tests.loop.making import work

RULE = Rule()


def low(works: list[Work], rule: Rule = RULE) -> dict[int, float]:
    """Judge, and leave out those in full trust."""
    return {id: trust for id, trust in judge(works, rule).items() if trust < FULL}


def test_an_unhurried_acceptance_is_trusted_in_full() -> None:
    assert judge([work(1, 2.0), work(2, 20.0)], RULE) == {1: 1.0, 2: 1.0}


def test_below_the_floor_is_fast_whoever_did_it() -> None:
    assert low([work(1, 1.99), work(2, 1.99, annotator=None)]) == {1: 0.5, 2: 0.5}
    assert low([work(1, 1.99)], replace(RULE, floor_s=1.9, fast=0.1)) == {}


def test_whoever_changed_something_has_looked() -> None:
    assert low([work(n, 0.5, is_unchanged=False) for n in range(20)]) == {}


def test_far_below_the_annotators_median_is_fast() -> None:
    slow = [work(n, 60.0) for n in range(10)]
    assert low([*slow, work(20, 11.9), work(21, 12.0)]) == {20: 0.5}
    assert low([*slow, work(20, 11.9, annotator=2)]) == {}
    assert low([*slow[:8], work(20, 11.9)]) == {}
    assert low([*slow, work(20, 11.9)], replace(RULE, share=0.1)) == {}


def test_edits_do_not_raise_the_median_of_acceptances() -> None:
    edits = [work(n, 300.0, is_unchanged=False) for n in range(30)]
    accepts = [work(100 + n, 10.0) for n in range(10)]
    assert low([*edits, *accepts]) == {}


def test_a_long_row_of_quick_ones_is_fast() -> None:
    row = [work(n, 3.9) for n in range(10)]
    assert low(row) == dict.fromkeys(range(10), 0.5)
    assert low(row[:9]) == {}
    assert low([*row[:5], work(99, 30.0, begun_at=row[4].begun_at), *row[5:]]) == {}
    assert low([*row[:5], *(replace(one, annotator=2) for one in row[5:])]) == {}
    assert low([work(n, 4.0) for n in range(10)]) == {}
    assert low(row, replace(RULE, run=0)) == {}
    assert low(row[:3], replace(RULE, run=3)) == dict.fromkeys(range(3), 0.5)


def test_an_unknown_annotator_has_neither_median_nor_row() -> None:
    assert low([work(n, 3.0, annotator=None) for n in range(12)]) == {}


@pytest.mark.parametrize("seconds", [None, 0.0, -1.0, math.nan])
def test_unchanged_in_an_unknown_time_is_as_good_as_in_bulk(seconds: float | None) -> None:
    """The API says nothing of bulk: `bulk_created` is false there, and no time was taken."""
    assert low([work(1, seconds)]) == {1: 0.25}
    assert low([work(1, seconds, is_unchanged=False)]) == {}


def test_in_bulk_is_in_bulk() -> None:
    assert low([work(1, 30.0, bulk=True)]) == {1: 0.25}
    assert low([work(1, bulk=True, is_unchanged=False)], replace(RULE, bulk=0.0)) == {1: 0.0}
    quick = [work(n, 3.0) for n in range(9)]
    assert low([*quick, work(9, 3.0, bulk=True)]) == {9: 0.25}


def test_a_review_has_the_last_word() -> None:
    assert judge([work(1, None, bulk=True, review="accepted")], RULE) == {1: FULL}
    assert judge([work(1, 0.5, review="accepted")], RULE) == {1: FULL}
    assert judge([work(1, 30.0, is_unchanged=False, review="rejected")], RULE) == {1: NONE}
    assert reviewed(0.5, None) == 0.5


def test_low_trust_is_no_truth() -> None:
    assert max(RULE.bulk, RULE.fast) < TRUTH <= FULL


works = st.lists(
    st.builds(
        work,
        st.integers(1, 10_000),
        st.none() | st.floats(0.1, 100),
        annotator=st.sampled_from([None, 1, 2]),
        bulk=st.booleans(),
        is_unchanged=st.booleans(),
    ),
    unique_by=lambda one: one.annotation,
    max_size=40,
)


@given(works)
@settings(max_examples=80, deadline=None)
def test_the_order_of_arrival_leaves_no_trace(found: list[Work]) -> None:
    trust = judge(found, RULE)
    assert trust == judge(found[::-1], RULE)
    assert trust.keys() == {one.annotation for one in found}
    assert set(trust.values()) <= {RULE.bulk, RULE.fast, FULL}
    assert all(trust[one.annotation] == FULL for one in found if not (one.bulk or one.is_unchanged))
