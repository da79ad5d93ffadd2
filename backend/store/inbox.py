"""Acknowledged events: never lost, never deleted before they are done."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, case, func, select

from backend.records import InboxEvent
from backend.store import statements
from backend.store.schema import inbox

MAX_ATTEMPTS = 5
PENDING, DONE, DEAD = "pending", "done", "dead"


def put(
    tx: Connection,
    action: str,
    payload: Mapping[str, Any],
    source: Literal["webhook", "reconciler"],
    received_at: datetime,
) -> int:
    """Keep an event; return its id, which grows with the order of arrival."""
    row = {
        "action": action,
        "payload": dict(payload),
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


def done(tx: Connection, id: int, at: datetime) -> None:
    """Note that an event was handled."""
    tx.execute(inbox.update().where(inbox.c.id == id).values(state=DONE, done_at=at))


def failed(tx: Connection, id: int, error: str) -> None:
    """Count a failed attempt; after MAX_ATTEMPTS the event is dead: visible, kept, not tried."""
    attempts = inbox.c.attempts + 1
    state = case((attempts >= MAX_ATTEMPTS, DEAD), else_=PENDING)
    chosen = inbox.update().where(inbox.c.id == id, inbox.c.state == PENDING)
    tx.execute(chosen.values(attempts=attempts, error=error, state=state))


def revive(tx: Connection, id: int) -> None:
    """Let a dead event be tried again, from the first attempt."""
    chosen = inbox.update().where(inbox.c.id == id, inbox.c.state == DEAD)
    tx.execute(chosen.values(attempts=0, state=PENDING))


def forget_done(tx: Connection, before: datetime) -> int:
    """Delete events that were handled before a moment; return how many."""
    old = (inbox.c.state == DONE) & (inbox.c.done_at < before)
    return int(tx.execute(inbox.delete().where(old)).rowcount)


def counts(tx: Connection) -> dict[tuple[str, str], int]:
    """Return the number of events by (state, source)."""
    grouped = select(inbox.c.state, inbox.c.source, func.count()).group_by(
        inbox.c.state, inbox.c.source
    )
    return {(state, source): count for state, source, count in tx.execute(grouped)}


def _in_state(tx: Connection, state: str, limit: int) -> list[InboxEvent]:
    found = select(inbox).where(inbox.c.state == state).order_by(inbox.c.id).limit(limit)
    return [statements.record(InboxEvent, row) for row in tx.execute(found)]
