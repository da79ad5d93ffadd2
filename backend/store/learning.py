"""What annotations taught: interactions, weak labels and verified masks, replaced as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, exists, func, not_, or_, select

from backend.records import Interaction, VerifiedMask, WeakLabel, Work
from backend.store import schema, statements

TABLES = (schema.interactions, schema.weak_labels, schema.masks)


def replace(
    tx: Connection,
    annotation: int,
    project: int,
    task: int,
    interactions: Sequence[Interaction],
    weak_labels: Sequence[WeakLabel],
    masks: Sequence[VerifiedMask],
) -> None:
    """Put what the newest state of a stored annotation teaches in the place of all it taught.

    Raises ValueError for a record of another annotation, task or project, and IntegrityError for
    an annotation that is not stored.
    """
    remove(tx, [annotation])
    for table, taught in zip(TABLES, (interactions, weak_labels, masks), strict=True):
        _require_owner((project, task, annotation), taught)
        if taught:
            tx.execute(table.insert(), [statements.values(record) for record in taught])


def remove(tx: Connection, annotations: Iterable[int]) -> None:
    """Forget what annotations taught."""
    for chunk in statements.chunks(annotations):
        for table in TABLES:
            tx.execute(table.delete().where(table.c.annotation.in_(chunk)))


def weak_labels(tx: Connection, project: int) -> list[WeakLabel]:
    """Return a project's weak labels by task, then annotation."""
    table = schema.weak_labels
    found = select(table).where(table.c.project == project)
    found = found.order_by(table.c.task, table.c.annotation, table.c.id)
    return [statements.record(WeakLabel, row) for row in tx.execute(found)]


def masks(tx: Connection, project: int) -> list[VerifiedMask]:
    """Return a project's verified masks by task, then annotation and class."""
    table = schema.masks
    found = select(table).where(table.c.project == project)
    found = found.order_by(table.c.task, table.c.annotation, table.c.class_name)
    return [statements.record(VerifiedMask, row) for row in tx.execute(found)]


def interactions(tx: Connection, project: int, since: datetime | None = None) -> list[Interaction]:
    """Return a project's interactions in order of time, those after `since` only when given."""
    table = schema.interactions
    found = _since(select(table), project, since).order_by(table.c.created_at, table.c.id)
    return [statements.record(Interaction, row) for row in tx.execute(found)]


def works(tx: Connection, project: int) -> list[Work]:
    """Return how each annotation of a project came about, by id; skipped and deleted ones not.

    Unchanged are those with no outcome but "accepted" and no click.
    """
    table = schema.annotation_states
    touched = exists().where(
        schema.interactions.c.annotation == table.c.id, schema.interactions.c.outcome != "accepted"
    )
    clicked = exists().where(
        schema.weak_labels.c.annotation == table.c.id, schema.weak_labels.c.source == "click"
    )
    found = select(
        table.c.id.label("annotation"),
        table.c.annotator,
        func.coalesce(table.c.created_at, table.c.updated_at).label("begun_at"),
        table.c.updated_at.label("written_at"),
        table.c.lead_time_s.label("seconds"),
        table.c.bulk,
        not_(or_(touched, clicked)).label("is_unchanged"),
        table.c.review,
    ).where(
        table.c.project == project, table.c.deleted.is_(False), table.c.was_cancelled.is_(False)
    )
    return [statements.record(Work, row) for row in tx.execute(found.order_by(table.c.id))]


def label_counts(tx: Connection, project: int) -> dict[int, int]:
    """Return {annotation: number of its weak labels} of those that have any."""
    table = schema.weak_labels
    counted = select(table.c.annotation, func.count()).where(table.c.project == project)
    rows = tx.execute(counted.group_by(table.c.annotation))
    return {row[0]: row[1] for row in rows}


def _since(found: Select[Any], project: int, since: datetime | None) -> Select[Any]:
    table = schema.interactions
    found = found.where(table.c.project == project)
    return found if since is None else found.where(table.c.created_at > since)


def _require_owner(owner: tuple[int, int, int], taught: Sequence[Any]) -> None:
    for record in taught:
        if (record.project, record.task, record.annotation) != owner:
            raise ValueError(f"{record} is not of (project, task, annotation) {owner}")
