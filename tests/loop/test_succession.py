"""Which version a rollback goes back to."""

from __future__ import annotations

import pytest

from backend.loop.succession import former, heir
from backend.records import Reign, ReignStart
from tests.loop.making import NOON

UP: ReignStart = "promoted"
BACK: ReignStart = "rolled back"
BY_HAND: ReignStart = "activated"
FELL: ReignStart = "fell back"


def reigns(*moves: tuple[int, ReignStart]) -> list[Reign]:
    found: list[Reign] = []
    for number, how in moves:
        found.append(Reign(1, number, found[-1].number if found else None, NOON, how))
    return found


@pytest.mark.parametrize(
    ("moves", "wanted"),
    [
        ([], None),
        ([(1, UP)], None),
        ([(1, UP), (2, UP), (3, UP)], 2),
        ([(1, UP), (2, UP), (1, BACK)], None),  # not to v2 again
        ([(1, UP), (2, UP), (3, UP), (2, BACK)], 1),
        ([(1, UP), (2, UP), (1, BACK), (3, UP)], 1),
        ([(1, UP), (2, UP), (1, BACK), (2, BY_HAND), (3, UP)], 2),  # somebody chose it again
        ([(1, UP), (2, UP), (3, UP), (1, BY_HAND)], 3),
        ([(1, UP), (2, UP), (1, BACK), (2, BY_HAND)], 1),
        ([(1, UP), (2, UP), (1, FELL)], None),
        ([(1, UP), (2, UP), (1, FELL), (3, UP)], 1),
    ],
)
def test_the_former_champion_is_the_last_that_nobody_left_by_a_rollback(
    moves: list[tuple[int, ReignStart]], wanted: int | None
) -> None:
    assert former(reigns(*moves)) == wanted


def test_a_champion_from_before_the_reigns_were_noted_is_known_by_its_successor() -> None:
    assert former([Reign(1, 5, 4, NOON, UP)]) == 4


@pytest.mark.parametrize(
    ("moves", "unusable", "wanted"),
    [
        ([(1, UP), (2, UP), (3, UP)], {3}, 2),
        ([(1, UP), (2, UP), (3, UP)], {2, 3}, 1),
        ([(1, UP), (2, UP), (3, UP), (1, BACK)], {1}, 2),
        ([(1, UP), (2, UP), (1, BACK)], {1}, 2),  # better than none
        ([(1, UP), (2, UP), (3, UP), (2, BACK)], {2}, 1),  # better than the one that was left
        ([(1, UP), (2, UP), (3, UP), (2, FELL)], {2, 3}, 1),
        ([(1, UP), (2, UP)], {1, 2}, None),
        ([], {1}, None),
    ],
)
def test_the_heir_is_the_former_champion_and_one_that_was_left_before_none(
    moves: list[tuple[int, ReignStart]], unusable: set[int], wanted: int | None
) -> None:
    assert heir(reigns(*moves), unusable) == wanted
