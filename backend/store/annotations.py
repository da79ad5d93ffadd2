"""The newest known state of each annotation; a deleted one leaves a tombstone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, case, or_, select

from backend.records import Annotation, ReviewVerdict
from backend.store import graves, statements
from backend.store.schema import (
    annotation_states,
    interactions,
    masks,
    reviews,
    tasks,
    weak_labels,
)

NO_TASK = 0  # the task in the tombstone of an annotation that was never seen alive
REVIEW_SLACK = timedelta(seconds=5)  # saving a review may touch the annotation


def put(
    tx: Connection,
    annotation: Annotation,
    *,
    learned_at: datetime | None = None,
    seen_at: datetime | None = None,
) -> bool:
    """Store a state; False when it is stale: known already, older than the known one or its task.

    Label Studio gives ids of deleted tasks to new ones, so an annotation that is older than its
    task, or whose task is buried, belongs to a former task of that id. `review` is not taken from
    the state but from the reviews. learned_at: by our clock, `updated_at` otherwise. seen_at: when
    Label Studio itself, asked, said that the annotation exists: that outlives an older grave.
    """
    known = get(tx, annotation.id)
    if known is not None and known == replace(annotation, review=known.review):
        return False
    if _is_of_a_former_task(tx, annotation):
        return False
    row = {**_row(reviewed(tx, annotation)), "learned_at": learned_at or annotation.updated_at}
    statement = statements.insert(tx, annotation_states).values(row)
    new = statement.excluded
    known_at, deleted = annotation_states.c.updated_at, annotation_states.c.deleted
    newer = or_(and_(deleted.is_(False), new.updated_at >= known_at), new.created_at > known_at)
    if seen_at is not None:
        newer = or_(newer, and_(deleted.is_(True), known_at < seen_at))
    changed = {
        column.name: new[column.name] for column in annotation_states.c if column.name != "id"
    }
    written = statement.on_conflict_do_update(
        index_elements=[annotation_states.c.id], set_=changed, where=newer
    )
    return tx.execute(written.returning(annotation_states.c.id)).one_or_none() is not None


def reviewed(tx: Connection, annotation: Annotation) -> Annotation:
    """Return a state with the verdict that reviewers gave on it, whenever the review came.

    A review speaks of what its reviewer saw: a state that is newer than it is not reviewed.
    """
    found = tx.execute(select(reviews).where(reviews.c.annotation == annotation.id)).one_or_none()
    is_meant = found is not None and found.at + REVIEW_SLACK >= annotation.updated_at
    return replace(annotation, review=found.verdict if found and is_meant else None)


def review(
    tx: Connection, id: int, verdict: ReviewVerdict | None, at: datetime, review: int | None = None
) -> None:
    """Keep the newest review of an annotation, known or not; review: its own id."""
    statement = statements.insert(tx, reviews)
    row = {"annotation": id, "review": review, "verdict": verdict, "at": at}
    changed = {name: statement.excluded[name] for name in ("review", "verdict", "at")}
    newer = statement.excluded.at >= reviews.c.at
    keys = [reviews.c.annotation]
    tx.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed, where=newer), row)
    _judge(tx, id)


def withdraw_reviews(tx: Connection, ids: Iterable[int]) -> None:
    """Forget reviews by their own ids."""
    for chunk in statements.chunks(ids):
        gone = reviews.delete().where(reviews.c.review.in_(chunk))
        for annotation in tx.scalars(gone.returning(reviews.c.annotation)).all():
            _judge(tx, annotation)


def _judge(tx: Connection, id: int) -> None:
    known = get(tx, id)
    if known is not None:
        chosen = annotation_states.update().where(annotation_states.c.id == id)
        tx.execute(chosen.values(review=reviewed(tx, known).review))


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


def owners(tx: Connection, project: int) -> dict[int, int]:
    """Return {id: task} of a project's annotations that are not deleted."""
    found = _living(project).with_only_columns(annotation_states.c.id, annotation_states.c.task)
    return {row.id: row.task for row in tx.execute(found)}


def learned(tx: Connection, project: int) -> dict[int, datetime]:
    """Return {id: when we learned its newest state, by our clock} of those not deleted."""
    at = annotation_states.c.learned_at
    found = _living(project).with_only_columns(annotation_states.c.id, at)
    return {row.id: row.learned_at for row in tx.execute(found.where(at.is_not(None)))}


def _living(project: int) -> Any:
    return select(annotation_states).where(
        annotation_states.c.project == project, annotation_states.c.deleted.is_(False)
    )


def _record(row: Any) -> Annotation:
    return statements.record(Annotation, row, result=tuple(row.result))


def _row(annotation: Annotation) -> dict[str, Any]:
    result = [dict(region) for region in annotation.result]
    return {**statements.values(annotation), "result": result}


def _is_of_a_former_task(tx: Connection, annotation: Annotation) -> bool:
    found = select(tasks.c.created_at).where(
        tasks.c.project == annotation.project, tasks.c.id == annotation.task
    )
    row = tx.execute(found).one_or_none()
    if row is not None:
        return row.created_at is not None and bool(annotation.updated_at < row.created_at)
    return graves.holds(tx, annotation.project, annotation.task)


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
