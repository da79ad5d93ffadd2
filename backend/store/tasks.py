"""Tasks; Label Studio may give a deleted task's id to a new image, so identity is checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sqlalchemy import Connection, Table, exists, select

from backend.records import Task
from backend.store import statements
from backend.store.schema import (
    annotation_states,
    proposals,
    proposed_regions,
    published,
    tasks,
)

Key = tuple[int, int]  # project and id


def upsert(tx: Connection, seen: Sequence[Task]) -> list[int]:
    """Store tasks; return the ids that are new or whose identity (image, created_at) changed.

    A changed identity removes all that hung on the old one. A sighting of an older identity than
    the stored one is ignored; an unknown created_at, size or problem leaves the stored one.
    """
    known = _locked(tx, seen)
    fresh: dict[Key, Task | None] = {}
    written: dict[Key, Task] = {}
    for task in seen:
        key = (task.project, task.id)
        before = known.get(key)
        if before is None or _is_newer(task, before):
            fresh.setdefault(key, before)
            known[key] = written[key] = task
        elif _is_same(task, before):
            known[key] = written[key] = _completed(task, before)
    for (project, id), former in fresh.items():
        if former is not None:
            forget_identity(tx, project, [id])
    statements.upsert(tx, tasks, [statements.values(written[key]) for key in sorted(written)])
    return [id for _, id in fresh]


def get(tx: Connection, project: int, id: int) -> Task | None:
    """Return a task."""
    found = select(tasks).where(tasks.c.project == project, tasks.c.id == id)
    row = tx.execute(found).one_or_none()
    return None if row is None else statements.record(Task, row)


def all(tx: Connection, project: int) -> list[Task]:
    """Return a project's tasks by id."""
    rows = tx.execute(select(tasks).where(tasks.c.project == project).order_by(tasks.c.id))
    return [statements.record(Task, row) for row in rows]


def open(tx: Connection, project: int) -> list[Task]:
    """Return the tasks without a live annotation, by id; skipping a task does not close it."""
    closing = exists().where(
        annotation_states.c.project == tasks.c.project,
        annotation_states.c.task == tasks.c.id,
        annotation_states.c.deleted.is_(False),
        annotation_states.c.was_cancelled.is_(False),
    )
    found = select(tasks).where(tasks.c.project == project, ~closing).order_by(tasks.c.id)
    return [statements.record(Task, row) for row in tx.execute(found)]


def set_size(tx: Connection, project: int, id: int, width_px: int, height_px: int) -> None:
    """Note the size of a task's upright image, which can be decoded: its problem is gone."""
    size = {"width_px": width_px, "height_px": height_px, "problem": None}
    tx.execute(tasks.update().where(tasks.c.project == project, tasks.c.id == id).values(size))


def set_problem(tx: Connection, project: int, id: int, problem: str | None) -> None:
    """Note why no proposal can be made for a task; None: it can."""
    chosen = tasks.update().where(tasks.c.project == project, tasks.c.id == id)
    tx.execute(chosen.values(problem=problem))


def delete(tx: Connection, project: int, ids: Iterable[int]) -> list[int]:
    """Remove tasks with all that hangs on them; return those that were known."""
    deleted: list[int] = []
    for chunk in statements.chunks(ids):
        forget_identity(tx, project, chunk)
        gone = tasks.delete().where(tasks.c.project == project, tasks.c.id.in_(chunk))
        deleted.extend(tx.scalars(gone.returning(tasks.c.id)))
    return sorted(deleted)


def forget_identity(tx: Connection, project: int, ids: list[int]) -> None:
    """Remove annotations (taking what they taught along), proposals and published rows of tasks.

    Proposed regions stay under their ids for ever, but no longer belong to the task.
    """
    for table in (annotation_states, proposals, published):
        _delete_of(tx, table, project, ids)
    regions = proposed_regions
    chosen = regions.update().where(regions.c.project == project, regions.c.task.in_(ids))
    tx.execute(chosen.values(linked=False))


def _delete_of(tx: Connection, table: Table, project: int, ids: list[int]) -> None:
    tx.execute(table.delete().where(table.c.project == project, table.c.task.in_(ids)))


def _locked(tx: Connection, seen: Sequence[Task]) -> dict[Key, Task]:
    """Return those that are stored; PostgreSQL keeps other writers from them until we commit."""
    known = {}
    for project in sorted({task.project for task in seen}):
        for chunk in statements.chunks(sorted({t.id for t in seen if t.project == project})):
            found = select(tasks).where(tasks.c.project == project, tasks.c.id.in_(chunk))
            for row in tx.execute(found.order_by(tasks.c.id).with_for_update()):
                known[project, row.id] = statements.record(Task, row)
    return known


def _is_same(task: Task, known: Task) -> bool:
    return task.image == known.image and _order(task, known) == 0


def _is_newer(task: Task, known: Task) -> bool:
    return not _is_same(task, known) and _order(task, known) >= 0


def _order(task: Task, known: Task) -> float:
    """Return seconds from the known creation to the seen one; 0 when one of them is unknown."""
    if task.created_at is None or known.created_at is None:
        return 0.0
    return (task.created_at - known.created_at).total_seconds()


def _completed(task: Task, known: Task) -> Task:
    return replace(
        task,
        created_at=task.created_at or known.created_at,
        width_px=task.width_px or known.width_px,
        height_px=task.height_px or known.height_px,
        problem=task.problem or known.problem,
    )
