"""The newest known state of each annotation; a deleted one leaves a tombstone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, case, or_, select

from backend.records import Annotation
from backend.store import statements
from backend.store.schema import annotation_states, interactions, masks, tasks, weak_labels

NO_TASK = 0  # the task in the tombstone of an annotation that was never seen alive


def put(tx: Connection, annotation: Annotation) -> bool:
    """Store a state; False when it is stale: known already, older than the known one or its task.

    Label Studio gives ids of deleted tasks to new ones, so an annotation that is older than its
    task belongs to a former task of that id.
    """
    known = get(tx, annotation.id)
    if known == annotation or _older_than_its_task(tx, annotation):
        return False
    statement = statements.insert(tx, annotation_states).values(_row(annotation))
    new = statement.excluded
    known_at = annotation_states.c.updated_at
    alive = annotation_states.c.deleted.is_(False)
    newer = or_(and_(alive, new.updated_at >= known_at), new.created_at > known_at)
    changed = {
        column.name: new[column.name] for column in annotation_states.c if column.name != "id"
    }
    written = statement.on_conflict_do_update(
        index_elements=[annotation_states.c.id], set_=changed, where=newer
    )
    return tx.execute(written.returning(annotation_states.c.id)).one_or_none() is not None


def get(tx: Connection, id: int) -> Annotation | None:
    """Return an annotation; a deleted one has `deleted` and no result."""
    row = tx.execute(select(annotation_states).where(annotation_states.c.id == id)).one_or_none()
    return None if row is None else _record(row)


def delete(tx: Connection, project: int, ids: Iterable[int], at: datetime) -> list[int]:
    """Bury annotations with all that they taught; return those that were alive.

    Ids never seen get a tombstone too: no late event brings an annotation back, only one that was
    created after `at`, since Label Studio on SQLite may give an id again.
    """
    buried: list[int] = []
    for chunk in statements.chunks(ids):
        buried += _alive(tx, project, chunk)
        for table in (interactions, weak_labels, masks):
            tx.execute(table.delete().where(table.c.annotation.in_(chunk)))
        _bury(tx, [_tombstone(project, id, at) for id in chunk])
    return sorted(buried)


def live(tx: Connection, project: int) -> list[Annotation]:
    """Return a project's annotations that are not deleted, by id; skipped ones included."""
    return [_record(row) for row in tx.execute(_living(project).order_by(annotation_states.c.id))]


def of_task(tx: Connection, project: int, task: int) -> list[Annotation]:
    """Return a task's annotations that are not deleted, by id; skipped ones included."""
    found = (
        _living(project).where(annotation_states.c.task == task).order_by(annotation_states.c.id)
    )
    return [_record(row) for row in tx.execute(found)]


def inventory(tx: Connection, project: int) -> dict[int, datetime]:
    """Return {id: updated_at} of a project's annotations that are not deleted."""
    found = _living(project).with_only_columns(
        annotation_states.c.id, annotation_states.c.updated_at
    )
    return {row.id: row.updated_at for row in tx.execute(found)}


def _living(project: int) -> Any:
    return select(annotation_states).where(
        annotation_states.c.project == project, annotation_states.c.deleted.is_(False)
    )


def _record(row: Any) -> Annotation:
    return statements.record(Annotation, row, result=tuple(row.result))


def _row(annotation: Annotation) -> dict[str, Any]:
    result = [dict(region) for region in annotation.result]
    return {**statements.values(annotation), "result": result}


def _older_than_its_task(tx: Connection, annotation: Annotation) -> bool:
    found = select(tasks.c.created_at).where(
        tasks.c.project == annotation.project, tasks.c.id == annotation.task
    )
    created_at = tx.execute(found).scalar_one_or_none()
    return created_at is not None and annotation.updated_at < created_at


def _alive(tx: Connection, project: int, ids: list[int]) -> list[int]:
    found = _living(project).where(annotation_states.c.id.in_(ids)).with_for_update()
    return list(tx.scalars(found.with_only_columns(annotation_states.c.id)))


def _tombstone(project: int, id: int, at: datetime) -> dict[str, Any]:
    grave = Annotation(id=id, project=project, task=NO_TASK, updated_at=at, result=(), deleted=True)
    return _row(grave)


def _bury(tx: Connection, graves: list[dict[str, Any]]) -> None:
    statement = statements.insert(tx, annotation_states)
    known, new = annotation_states.c.updated_at, statement.excluded.updated_at
    changed = {
        "deleted": True,
        "result": statement.excluded.result,
        "updated_at": case((known > new, known), else_=new),
    }
    tx.execute(
        statement.on_conflict_do_update(index_elements=[annotation_states.c.id], set_=changed),
        graves,
    )
