"""How versions are named in paths, and what is said of names that are taken or unknown."""

from __future__ import annotations

from collections.abc import Sequence

from backend.errors import VersionExists


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


def unknown(project: int, number: int, known: Sequence[int]) -> str:
    """Return what is said of a version that is not there."""
    return (
        f"no files of version v{number} of project {project}; "
        f"there are {list(known) or 'none'}, pruned ones are gone"
    )
