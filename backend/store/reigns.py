"""Which version has been the champion since when, and how its proposals have been taken."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, select

from backend.records import Reign
from backend.store import statements
from backend.store.schema import interactions, reigns


def add(tx: Connection, reign: Reign) -> None:
    """Note that a version has become the champion."""
    tx.execute(reigns.insert(), {**statements.values(reign), "watch": dict(reign.watch)})


def list(tx: Connection, project: int) -> builtins.list[Reign]:
    """Return a project's reigns, oldest first."""
    found = select(reigns).where(reigns.c.project == project).order_by(reigns.c.id)
    return [statements.record(Reign, row) for row in tx.execute(found)]


def newest(tx: Connection, project: int) -> Reign | None:
    """Return the present reign; None before the first version."""
    found = select(reigns).where(reigns.c.project == project).order_by(reigns.c.id.desc())
    row = tx.execute(found.limit(1)).one_or_none()
    return None if row is None else statements.record(Reign, row)


def note(tx: Connection, project: int, number: int, seen: int, watch: Mapping[str, Any]) -> bool:
    """Keep what a look at the present reign has found; False when another version reigns by now."""
    present = select(reigns.c.id).where(reigns.c.project == project)
    present = present.order_by(reigns.c.id.desc()).limit(1)
    own = reigns.update().where(reigns.c.id == present.scalar_subquery(), reigns.c.number == number)
    return bool(tx.execute(own.values(seen=seen, watch=dict(watch))).rowcount)


def seen(tx: Connection, project: int, number: int) -> int:
    """Count the interactions with a version's proposals."""
    own = (interactions.c.project == project) & (interactions.c.version == number)
    return int(tx.execute(select(func.count()).select_from(interactions).where(own)).scalar_one())
