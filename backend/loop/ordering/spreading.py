"""An order in which neighbours differ: people who work at once are served one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FIRST = 50  # most urgent tasks that are spread; the order of the others stays
APART = 4  # tasks in a row of different groups, so that so many people get different ones at once


def spread(order: Sequence[int], groups: Mapping[int, int]) -> list[int]:
    """Return the order, its FIRST tasks such that APART in a row are of different groups.

    Each place goes to the most urgent task whose group is not that of the APART - 1 tasks before;
    when only such groups are left, to the one that was served the longest time ago. A task without
    a group is a group of its own.
    """
    waiting: dict[object, list[int]] = {}
    for task in order[:FIRST]:
        waiting.setdefault((groups[task],) if task in groups else task, []).append(task)
    place = {task: n for n, task in enumerate(order)}
    served: list[int] = []
    last: dict[object, int] = {}
    while waiting:
        fresh = [g for g in waiting if len(served) - last.get(g, -APART) >= APART]
        if fresh:
            chosen = min(fresh, key=lambda g: place[waiting[g][0]])
        else:
            chosen = min(waiting, key=lambda g: last[g])
        last[chosen] = len(served)
        served.append(waiting[chosen].pop(0))
        if not waiting[chosen]:
            del waiting[chosen]
    return [*served, *order[FIRST:]]
