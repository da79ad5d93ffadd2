"""Versions between their files and their record: given up as a whole, or recorded once."""

from __future__ import annotations

import pytest

from backend.errors import JobOver
from backend.store import Store, unrecorded


def test_what_is_given_up_is_never_recorded_and_known_for_ever(store: Store) -> None:
    with store.transaction() as tx:
        for number in (3, 4, 5):
            unrecorded.begin(tx, 7, number)
        assert unrecorded.given_up(tx, 7) == set()
        unrecorded.end(tx, 7, 4)
        unrecorded.give_up(tx, 8)
        assert unrecorded.given_up(tx, 7) == set(), "that was another project"
        unrecorded.give_up(tx, 7)
    with pytest.raises(JobOver, match="v3 of project 7 came too late"), store.transaction() as tx:
        unrecorded.end(tx, 7, 3)
    with store.transaction() as tx:
        unrecorded.begin(tx, 7, 6)
        assert unrecorded.given_up(tx, 7) == {3, 5}
        unrecorded.end(tx, 7, 6)
        unrecorded.give_up(tx, 7)
        assert unrecorded.given_up(tx, 7) == {3, 5}
