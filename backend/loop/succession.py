"""Which version a project goes back to."""

from __future__ import annotations

from collections.abc import Sequence

from backend.records import Reign


def former(reigns: Sequence[Reign]) -> int | None:
    """Return the champion before the present one, None without; reigns: oldest first.

    A version that was left by a rollback is not gone back to, unless somebody chose it again.
    """
    if not reigns:
        return None
    left = {reigns[-1].number}
    for reign in reversed(reigns):
        if reign.number not in left:
            return reign.number
        if reign.how == "rolled back" and reign.former is not None:
            left.add(reign.former)
        elif reign.former is not None and reign.former not in left:
            return reign.former
    return None
