"""Deleted tasks: a late event must not bring one back, and its id may be given to a new one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection, case, delete, select

from backend.records import Task
from backend.store import statements
from backend.store.schema import task_graves, tasks


def bury(tx: Connection, project: int, ids: Iterable[int], at: datetime) -> None:
    """Remember that tasks were deleted, and which they were if they are known.

    To be called before the tasks are removed. at: by our clock.
    """
    for chunk in statements.chunks(ids):
        found = select(tasks.c.id, tasks.c.created_at).where(
            tasks.c.project == project, tasks.c.id.in_(chunk)
        )
        known = {row.id: row.created_at for row in tx.execute(found)}
        rows = [
            {"project": project, "id": id, "buried_at": at, "created_at": known.get(id)}
            for id in chunk
        ]
        statement = statements.insert(tx, task_graves)
        before, new = task_graves.c.buried_at, statement.excluded.buried_at
        changed = {
            "buried_at": case((before > new, before), else_=new),
            "created_at": statement.excluded.created_at,
        }
        keys = [task_graves.c.project, task_graves.c.id]
        tx.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)


def risen(
    tx: Connection, seen: Sequence[Task], seen_at: datetime | None = None
) -> tuple[list[Task], bool]:
    """Return the tasks that are not buried, and whether a refusal is in doubt.

    Of a buried task that was known, its own creation decides: what was created later is another
    task. Of one that was never known only our clock's moment of the burial is left to compare
    with, so a refusal is in doubt. seen_at: when Label Studio itself, asked, said that they exist.
    """
    standing: list[Task] = []
    in_doubt = False
    for task in seen:
        at = (task_graves.c.project == task.project) & (task_graves.c.id == task.id)
        grave = tx.execute(select(task_graves).where(at)).one_or_none()
        if grave is None or _outlives(task, grave.created_at, grave.buried_at, seen_at):
            standing.append(task)
            if grave is not None:
                tx.execute(delete(task_graves).where(at))
        else:
            in_doubt = in_doubt or grave.created_at is None
    return standing, in_doubt


def holds(tx: Connection, project: int, id: int) -> bool:
    """Say whether a task lies buried."""
    at = (task_graves.c.project == project) & (task_graves.c.id == id)
    return tx.execute(select(task_graves.c.id).where(at)).one_or_none() is not None


def _outlives(
    task: Task, former: datetime | None, buried_at: datetime, seen_at: datetime | None
) -> bool:
    if seen_at is not None and seen_at > buried_at:
        return True
    if task.created_at is None:
        return False
    return task.created_at > (former or buried_at)
