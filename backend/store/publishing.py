"""Which predictions Label Studio holds under which name, and with which priority."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select

from backend.store import statements
from backend.store.schema import published


def record(tx: Connection, project: int, name: str, priorities: Mapping[int, float]) -> None:
    """Note predictions that Label Studio has taken, {task: priority}; adds to those of the name."""
    rows = [
        {"project": project, "name": name, "task": task, "priority": priority}
        for task, priority in priorities.items()
    ]
    statements.upsert(tx, published, rows)


def claim(
    tx: Connection, project: int, name: str, priorities: Mapping[int, float]
) -> dict[int, float]:
    """Note predictions that are about to be given to Label Studio; return those not noted before.

    Two who want to give the same one must not both do so: Label Studio would store it twice.
    """
    rows = [
        {"project": project, "name": name, "task": task, "priority": priority}
        for task, priority in priorities.items()
    ]
    if not rows:
        return {}
    new = statements.insert(tx, published).on_conflict_do_nothing()
    returned = new.returning(published.c.task, published.c.priority)
    return {row.task: row.priority for row in tx.execute(returned, rows)}  # in statements that fit


def release(tx: Connection, project: int, name: str, tasks: Iterable[int]) -> None:
    """Take back claims that came to nothing."""
    chosen = (published.c.project == project) & (published.c.name == name)
    for some in statements.chunks(tasks):
        tx.execute(published.delete().where(chosen, published.c.task.in_(some)))


def of(tx: Connection, project: int, name: str) -> dict[int, float]:
    """Return {task: priority} of the predictions under a name."""
    found = select(published.c.task, published.c.priority).where(
        published.c.project == project, published.c.name == name
    )
    return {row.task: row.priority for row in tx.execute(found)}


def names(tx: Connection, project: int) -> list[str]:
    """Return the names under which a project has predictions, sorted."""
    found = select(published.c.name).where(published.c.project == project).distinct()
    return sorted(tx.scalars(found))


def forget(tx: Connection, project: int, name: str) -> None:
    """Note that Label Studio no longer holds the predictions of a name."""
    chosen = (published.c.project == project) & (published.c.name == name)
    tx.execute(published.delete().where(chosen))
