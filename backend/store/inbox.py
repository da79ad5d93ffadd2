"""Acknowledged events: never lost, never deleted before they are done."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, case, func, literal_column, select

from backend.records import InboxEvent
from backend.store import statements
from backend.store.schema import forgotten_events, inbox

MAX_ATTEMPTS = 5
PENDING, DONE, DEAD = "pending", "done", "dead"
NO_PROJECT = 0  # where events without a project are counted
KILLED = (
    f"no worker survived {MAX_ATTEMPTS} attempts to handle it; see the log of the events worker, "
    "then `labelclimb events --retry ID`"
)


def put(
    tx: Connection,
    action: str,
    payload: Mapping[str, Any],
    source: Literal["webhook", "reconciler"],
    received_at: datetime,
    project: int | None = None,
) -> int:
    """Keep an event; return its id, which grows with the order of arrival."""
    row = {
        "action": action,
        "payload": dict(payload),
        "project": project,
        "source": source,
        "received_at": received_at,
        "state": PENDING,
        "attempts": 0,
    }
    return int(tx.execute(inbox.insert().values(row).returning(inbox.c.id)).scalar_one())


def get(tx: Connection, id: int) -> InboxEvent | None:
    """Return an event in whatever state."""
    row = tx.execute(select(inbox).where(inbox.c.id == id)).one_or_none()
    return None if row is None else statements.record(InboxEvent, row)


def pending(tx: Connection, limit: int = 100) -> list[InboxEvent]:
    """Return events that wait, in order of arrival, those that failed before included."""
    return _in_state(tx, PENDING, limit)


def pending_ids(tx: Connection, limit: int = 100) -> list[int]:
    """Return the ids of events that wait, in order of arrival."""
    found = select(inbox.c.id).where(inbox.c.state == PENDING).order_by(inbox.c.id).limit(limit)
    return list(tx.scalars(found))


def dead(tx: Connection, limit: int = 100) -> list[InboxEvent]:
    """Return events that failed MAX_ATTEMPTS times and wait for a person."""
    return _in_state(tx, DEAD, limit)


def state(tx: Connection, id: int) -> str | None:
    """Return "pending", "done" or "dead"; None for an unknown event."""
    return tx.execute(select(inbox.c.state).where(inbox.c.id == id)).scalar_one_or_none()


def has_pending(tx: Connection, other_than: int) -> bool:
    """Say whether another event waits."""
    found = select(inbox.c.id).where(inbox.c.state == PENDING, inbox.c.id != other_than).limit(1)
    return tx.execute(found).one_or_none() is not None


def begin(tx: Connection, id: int) -> InboxEvent | None:
    """Count an attempt before it is made and return the event; None when it does not wait.

    Counted beforehand, also the attempts count that kill their worker: an event that no worker has
    survived MAX_ATTEMPTS times is dead.
    """
    waiting = inbox.update().where(inbox.c.id == id, inbox.c.state == PENDING)
    allowed = waiting.where(inbox.c.attempts < MAX_ATTEMPTS)
    counted = allowed.values(attempts=inbox.c.attempts + 1).returning(inbox)
    row = tx.execute(counted).one_or_none()
    if row is not None:
        return statements.record(InboxEvent, row)
    tx.execute(waiting.values(state=DEAD, error=KILLED))
    return None


def done(tx: Connection, id: int, at: datetime) -> None:
    """Note that an event was handled."""
    tx.execute(inbox.update().where(inbox.c.id == id).values(state=DONE, done_at=at))


def failed(tx: Connection, id: int, error: str) -> None:
    """Note why an attempt failed; after MAX_ATTEMPTS the event is dead: kept and visible."""
    state = case((inbox.c.attempts >= MAX_ATTEMPTS, DEAD), else_=PENDING)
    chosen = inbox.update().where(inbox.c.id == id, inbox.c.state == PENDING)
    tx.execute(chosen.values(error=error, state=state))


def revive(tx: Connection, id: int) -> bool:
    """Let a dead event be tried again, from the first attempt; False when it is not dead."""
    chosen = inbox.update().where(inbox.c.id == id, inbox.c.state == DEAD)
    revived = tx.execute(chosen.values(attempts=0, state=PENDING).returning(inbox.c.id))
    return revived.one_or_none() is not None


def forget_done(tx: Connection, before: datetime) -> int:
    """Delete events that were handled before a moment; return how many. They stay counted."""
    old = (inbox.c.state == DONE) & (inbox.c.done_at < before)
    named = func.coalesce(inbox.c.project, literal_column(f"{NO_PROJECT}"))  # groupable
    by_source = select(named, inbox.c.source, func.count()).where(old)
    by_source = by_source.group_by(named, inbox.c.source)
    for project, source, count in tx.execute(by_source).all():
        statement = statements.insert(tx, forgotten_events)
        sum_ = forgotten_events.c.count + statement.excluded.count
        keys = [forgotten_events.c.project, forgotten_events.c.source]
        row = {"project": project, "source": source, "count": count}
        tx.execute(statement.on_conflict_do_update(index_elements=keys, set_={"count": sum_}), row)
    return int(tx.execute(inbox.delete().where(old)).rowcount)


def counts(tx: Connection, project: int | None = None) -> dict[tuple[str, str], int]:
    """Return the number of kept events by (state, source), of one project or of all."""
    grouped = select(inbox.c.state, inbox.c.source, func.count()).group_by(
        inbox.c.state, inbox.c.source
    )
    chosen = grouped if project is None else grouped.where(inbox.c.project == project)
    return {(state, source): count for state, source, count in tx.execute(chosen)}


def received(tx: Connection, project: int, source: Literal["webhook", "reconciler"]) -> int:
    """Return how many events of a project ever came, in whatever state or forgotten."""
    kept = sum(n for (_, found), n in counts(tx, project).items() if found == source)
    table = forgotten_events
    found = select(table.c.count).where(table.c.project == project, table.c.source == source)
    return kept + (tx.execute(found).scalar_one_or_none() or 0)


def _in_state(tx: Connection, state: str, limit: int) -> list[InboxEvent]:
    found = select(inbox).where(inbox.c.state == state).order_by(inbox.c.id).limit(limit)
    return [statements.record(InboxEvent, row) for row in tx.execute(found)]
