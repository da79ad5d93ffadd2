"""How versions are named in paths, and what is said of names that are taken or unknown."""

from __future__ import annotations

from collections.abc import Sequence

from backend.errors import StorageError, UnknownThing, VersionExists


def part(number: int) -> str:
    """Return a project's or version's part of a path: digits only, so that none leaves the root."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"{number!r} is not the number of a project or version")
    return str(number)


def taken(project: int, number: int) -> VersionExists:
    """Return the error for a number that is written already."""
    return VersionExists(
        f"version v{number} of project {project} exists and is never changed; take the next number"
    )


def unknown(project: int, number: int, known: Sequence[int]) -> UnknownThing:
    """Return the error for a version that is not there."""
    return UnknownThing(
        f"no files of version v{number} of project {project}; "
        f"there are {list(known) or 'none'}, pruned ones are gone"
    )


def no_place(place: object) -> StorageError:
    """Return the error for a project without any place of versions: that says nothing of one."""
    return StorageError(
        f"{place} is not there: is MODEL_DIR right, and its disk mounted? if these versions are "
        "lost for good, create it, with any file in it, and the project trains anew"
    )
