"""Which versions need their files no more."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from backend.records import Version

PRUNABLE = ("rejected", "retired", "damaged")


@dataclass(frozen=True)
class Pruning:
    """Numbers of versions: `remove` all files of these, of `slim` those that only training reads.

    A slim version still proposes, so it can be activated; a training that starts from it computes
    anew what it lacks.
    """

    remove: tuple[int, ...]
    slim: tuple[int, ...]


def old(versions: Sequence[Version], keep: int) -> tuple[int, ...]:
    """Return the numbers of those that need not stay whole, ascending.

    The champion, challengers at the gate and the newest `keep` stay. Raises ValueError for
    keep < 1.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}; at least the newest version stays")
    newest_first = sorted(versions, key=lambda version: version.number, reverse=True)
    return tuple(sorted(v.number for v in newest_first[keep:] if v.state in PRUNABLE))


def decide(versions: Sequence[Version], *, referred: Collection[int], keep: int) -> Pruning:
    """Choose among a project's versions, given in any order.

    Old ones that an annotation, an interaction or Label Studio refers to become slim, others go; a
    damaged one that is referred to stays as it is.
    """
    numbers = old(versions, keep)
    damaged = {version.number for version in versions if version.state == "damaged"}
    return Pruning(
        remove=tuple(number for number in numbers if number not in referred),
        slim=tuple(number for number in numbers if number in referred and number not in damaged),
    )
