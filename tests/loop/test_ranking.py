from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from backend.loop import difficulty, ranking
from backend.loop.ranking import Ranking, rank
from backend.records import TaskEvidence
from tests.loop.making import evidence, interaction

DOUBT: Mapping[int, float] = MappingProxyType({11: 0.02, 12: 0.45, 13: 0.8, 14: 0.99})


def seen(doubt: Mapping[int, float] = DOUBT) -> dict[int, TaskEvidence]:
    return {task: evidence(task, tile_probs=((p,), (p,))) for task, p in doubt.items()}


def ranked(strategy: str = "entropy", tasks: tuple[int, ...] = tuple(DOUBT)) -> Ranking:
    return rank(tasks, seen(), [], strategy=strategy, seed=1)


@pytest.mark.parametrize("strategy", ["entropy", "margin"])
def test_the_nearest_to_one_half_comes_first(strategy: str) -> None:
    found = ranked(strategy)
    assert found.order == (12, 13, 11, 14)
    assert found.priorities == {12: 1.0, 13: pytest.approx(2 / 3), 11: pytest.approx(1 / 3), 14: 0}
    assert (found.strategy, found.note) == (strategy, "")


def test_edit_time_follows_the_predicted_seconds() -> None:
    found = ranked("edit_time")
    assert list(found.order) == sorted(DOUBT, key=lambda t: -found.edit_seconds[t])
    assert found.edit_seconds[12] == difficulty.heuristic_s(seen()[12])
    assert found.basis == "heuristic: 0 of 20 timed annotations"


def test_tasks_without_evidence_come_last() -> None:
    found = ranked(tasks=(91, 11, 12, 92, 13, 14, 93))
    assert found.order[:4] == (12, 13, 11, 14)
    assert set(found.order[4:]) == {91, 92, 93}
    assert found.priorities[14] > max(found.priorities[task] for task in (91, 92, 93))
    windowless = {**seen(), 12: evidence(12, tile_probs=())}
    assert rank(tuple(DOUBT), windowless, [], strategy="entropy", seed=1).order[-1] == 12


def test_without_any_evidence_the_order_is_random_and_says_so() -> None:
    found = rank([1, 2, 3, 4], {}, [], strategy="entropy", seed=1)
    assert sorted(found.order) == [1, 2, 3, 4]
    assert found.strategy == "random_order"
    assert found.note == "random order: entropy needs tile_probs, tile_offsets, not computed yet"
    assert rank([1, 2, 3, 4], {}, [], strategy="random_order", seed=1).note == ""


def test_nothing_to_rank() -> None:
    found = rank([], {}, [], strategy="entropy", seed=1)
    assert (found.order, found.priorities) == ((), {})


def test_evidence_of_closed_tasks_is_left_out_and_their_order_does_not_matter() -> None:
    assert ranked(tasks=(14, 12)).order == ranked(tasks=(12, 14)).order == (12, 14)


def test_a_single_task_has_priority_one() -> None:
    assert ranked(tasks=(14,)).priorities == {14: 1.0}


def test_unknown_strategy_and_diverged_evidence_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown strategy 'entropi'"):
        ranked("entropi")
    broken = {**seen(), 12: evidence(12, tile_probs=((math.nan,),))}
    with pytest.raises(ValueError, match="not finite"):
        rank(tuple(DOUBT), broken, [], strategy="entropy", seed=1)


def test_classes_that_a_task_was_not_asked_for_count_as_absent() -> None:
    both = evidence(1, classes=("rust", "crack"), tile_probs=((0.5, 0.9),))
    pool = ranking.pool_of([both, evidence(2, tile_probs=((0.7,),))], {1: 1.0, 2: 2.0})
    assert pool.tile_probs is not None and pool.tile_offsets is not None
    assert pool.tile_probs.tolist() == [[0.9, 0.5], [0.7, 0.0]]
    assert pool.tile_offsets.tolist() == [0, 1, 2]


def test_past_seconds_change_the_order_by_edit_time() -> None:
    shown = [evidence(task) for task in range(30)]
    past = [
        interaction(task=one.task, annotation=one.task, edit_seconds=900 / (1 + one.task))
        for one in shown
    ]
    found = rank(tuple(DOUBT), seen(), past, strategy="edit_time", seed=1, past_evidence=shown)
    assert "learned from 30" in found.basis
