"""Pruning keeps whatever anybody may need: checked on every mixture of states and references."""

from __future__ import annotations

from datetime import datetime, timezone
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.loop.pruning import decide
from backend.records import Version, VersionState

NOW = datetime(2026, 11, 21, tzinfo=timezone.utc)
PRUNABLE: list[VersionState] = ["rejected", "retired", "damaged"]
STATES: list[VersionState] = ["challenger", "champion", "pruned", *PRUNABLE]


def version(number: int, state: VersionState) -> Version:
    return Version(1, number, state, "auto", f"s{number}", NOW)


def test_old_versions_go_unless_somebody_refers_to_them() -> None:
    known = [
        version(6, "rejected"),
        version(5, "champion"),
        version(4, "retired"),
        version(3, "retired"),
        version(2, "rejected"),
        version(1, "retired"),
    ]
    found = decide(known, referred={3, 5}, keep=2)
    assert (found.remove, found.slim) == ((1, 2, 4), (3,))


@given(
    states=st.lists(st.sampled_from(STATES), max_size=12),
    referred=st.sets(st.integers(1, 12)),
    keep=st.integers(1, 13),
    seed=st.randoms(),
)
def test_champion_challengers_newest_and_referred_keep_what_serves(
    states: list[VersionState], referred: set[int], keep: int, seed: Random
) -> None:
    known = [version(number, state) for number, state in enumerate(states, start=1)]
    by_number = {v.number: v for v in known}
    newest = {number for number in by_number if number > len(known) - keep}
    seed.shuffle(known)
    found = decide(known, referred=referred, keep=keep)
    touched = {*found.remove, *found.slim}
    assert not touched & newest
    assert {by_number[n].state for n in touched} <= set(PRUNABLE)
    assert not set(found.remove) & referred
    assert set(found.slim) <= referred
    left = {n for n, v in by_number.items() if v.state in PRUNABLE} - newest
    damaged = {n for n in left & referred if by_number[n].state == "damaged"}
    assert touched == left - damaged, "nothing else stays"


def test_keeping_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="keep=0"):
        decide([], referred=(), keep=0)
