"""Alembic's entry: runs on the connection, and in the transaction, that `Store.migrate` gives."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from backend.store.schema import UtcDateTime, metadata


def plain_types(kind: str, thing: Any, _context: Any) -> str | Literal[False]:
    """Write migrations without our own types, which may change later."""
    if kind == "type" and isinstance(thing, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    render_as_batch=True,
    render_item=plain_types,
)
context.run_migrations()
