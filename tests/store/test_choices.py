from __future__ import annotations

from dataclasses import replace

from backend.records import StrategyChoice
from backend.store import Store, choices, projects
from tests.store.examples import NOON, at

FIRST = StrategyChoice(7, NOON, "autopilot", "entropy", "tries entropy")


def test_only_changes_are_kept_and_come_back_in_order(store: Store) -> None:
    again = replace(FIRST, at=at(5), reason="stays with entropy")
    second = replace(FIRST, at=at(9), acting="hybrid")
    with store.transaction() as tx:
        noted = [choices.note(tx, one) for one in (FIRST, again, second, replace(FIRST, at=at(12)))]
    assert noted == [True, False, True, True]
    with store.reading() as tx:
        assert choices.list(tx, 7) == [FIRST, second, replace(FIRST, at=at(12))]


def test_options_of_a_strategy_come_back_as_they_were_given(store: Store) -> None:
    given = {"entropy": 1.0, "order": "easy_first"}
    with store.transaction() as tx:
        projects.update(tx, 7, strategy="hybrid", strategy_options=given)
    with store.reading() as tx:
        project = projects.get(tx, 7)
    assert project is not None and project.strategy_options == given
