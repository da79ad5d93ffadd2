"""Which version a project goes back to."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from backend.records import Reign

WENT_BACK = ("rolled back", "fell back")


def former(reigns: Sequence[Reign], unusable: Collection[int] = ()) -> int | None:
    """Return the champion before the present one, None without; reigns: oldest first.

    A version that was left by a rollback is not gone back to, unless somebody chose it again, nor
    one without usable files.
    """
    if not reigns:
        return None
    left = {reigns[-1].number, *unusable}
    for reign in reversed(reigns):
        if reign.number not in left:
            return reign.number
        if reign.how in WENT_BACK and reign.former is not None:
            left.add(reign.former)
        elif reign.former is not None and reign.former not in left:
            return reign.former
    return None


def heir(reigns: Sequence[Reign], unusable: Collection[int]) -> int | None:
    """Return who serves where the present champion cannot; None when nobody can.

    Better a version that was left by a rollback than none. unusable: the present one as well.
    """
    found = former(reigns, unusable)
    if found is not None:
        return found
    return next((reign.number for reign in reversed(reigns) if reign.number not in unusable), None)
