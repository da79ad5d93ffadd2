"""Why a task gets no proposals: noted with the task, and shown in its queue."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import structlog

from backend.records import Task
from backend.store import tasks
from backend.wiring import Services

MOST_DEATHS = 2  # of processes that began with a task; then it is left alone
KILLED = "predicting it killed its process"

log = structlog.get_logger(__name__)


def counted(services: Services, number: int, task: Task, act: Callable[[], None]) -> None:
    """Look at a task with a version, unless the processes that tried so far did not survive it.

    Who is at it this very moment counts as dead too. That does no harm: two others would have to
    be, and who lives to predict it takes the problem back.
    """
    with _beginnings(services, f"predict-{task.project}-{number}-{task.id}") as deaths:
        if deaths < MOST_DEATHS:
            act()
        else:
            reason = f"{KILLED} {deaths} times; was it out of memory?"
            note(services, task, of_version(number, reason))


def looked(
    services: Services, number: int, task: Task, iterations: int | None, act: Callable[[], None]
) -> None:
    """Look at a task for a click, unless that killed who tried; its proposals are shown as before.

    One job looks at a time with so many iterations.
    """
    name = f"see-{task.project}-{number}-{task.id}-{iterations or 0}"
    with _beginnings(services, name) as deaths:
        if deaths < MOST_DEATHS:
            act()
            return
    log.warning("not looked at again", task=task.id, version=number, deaths=deaths)


@contextlib.contextmanager
def _beginnings(services: Services, name: str) -> Iterator[int]:
    """Count a beginning until the block ends; gives how many before had no end."""
    deaths = services.queues.begun(name) - 1
    try:
        yield deaths
    finally:
        services.queues.ended(name)


def note(services: Services, task: Task, reason: str) -> None:
    """Keep with a task why it gets no proposals."""
    log.warning("no proposal", task=task.id, reason=reason)
    with services.store.transaction() as tx:
        tasks.set_problem(tx, task.project, task.id, reason)


def of_version(number: int, reason: str) -> str:
    """Name a problem that a version has with a task; another version may have none."""
    return f"v{number}: {reason}"


def is_blocked(task: Task, number: int) -> bool:
    """Say whether a version need not try a task: its image, or this very version, has a problem."""
    return task.problem is not None and _version(task) in (None, number)


def is_hopeless(task: Task, number: int) -> bool:
    """Say whether this very version has a problem with a task: a mended image would not help."""
    return _version(task) == number


def is_deadly(task: Task, number: int) -> bool:
    """Say whether predicting a task has killed the processes that tried, by this very version."""
    return (task.problem or "").startswith(of_version(number, KILLED))


def _version(task: Task) -> int | None:
    """Return the version that a task's problem is with, None for the image's own, or for none."""
    found = re.match(r"v(\d+): ", task.problem or "")
    return None if found is None else int(found[1])
