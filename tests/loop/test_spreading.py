"""The head of an order, spread over groups of alike tasks."""

from __future__ import annotations

import random

import pytest

from backend.loop.ordering.spreading import APART, FIRST, spread


def test_alike_neighbours_are_parted_and_urgency_counts_otherwise() -> None:
    order = [1, 2, 3, 4, 5, 6, 7, 8]
    groups = {1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 2, 7: 3, 8: 4}
    assert spread(order, groups) == [1, 4, 6, 7, 2, 5, 8, 3]


def test_of_two_groups_each_has_its_turn_and_the_rest_follows() -> None:
    assert spread([1, 2, 3, 4, 5], {1: 0, 2: 0, 3: 0, 4: 0, 5: 1}) == [1, 5, 2, 3, 4]


@pytest.mark.parametrize("groups", [{}, dict.fromkeys(range(9), 3)])
def test_without_groups_or_with_one_the_order_stays(groups: dict[int, int]) -> None:
    assert spread(range(9), groups) == list(range(9))
    assert spread([], groups) == []


@pytest.mark.parametrize("seed", range(20))
def test_every_task_keeps_its_place_in_its_group_and_only_the_head_moves(seed: int) -> None:
    rng = random.Random(seed)
    order = rng.sample(range(1000), 2 * FIRST)
    groups = {task: rng.randrange(8) for task in order}
    found = spread(order, groups)
    assert sorted(found[:FIRST]) == sorted(order[:FIRST]) and found[FIRST:] == order[FIRST:]
    for group in range(8):
        own = [task for task in order[:FIRST] if groups[task] == group]
        assert [task for task in found[:FIRST] if groups[task] == group] == own
    for place in range(FIRST // 2):  # enough groups are left there
        assert len({groups[task] for task in found[place : place + APART]}) == APART
