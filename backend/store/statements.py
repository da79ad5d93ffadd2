"""What several nouns need of SQL: upserts for both databases, long id lists, records from rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Table
from sqlalchemy.dialects import postgresql, sqlite

INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
CHUNK = 500  # ids in one statement; both databases limit its parameters

T = TypeVar("T")


def insert(tx: Connection, table: Table) -> Any:
    """Return the dialect's INSERT, which knows `on_conflict_do_update` and `..._nothing`."""
    return INSERTS[tx.dialect.name](table)


def upsert(tx: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or replace those with the same primary key."""
    if not rows:
        return
    statement = insert(tx, table)
    keys = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    tx.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)


def chunks(ids: Iterable[T]) -> Iterator[list[T]]:
    """Split ids into lists that fit into one statement."""
    rest = iter(ids)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def values(record: Any) -> dict[str, Any]:
    """Return a record's fields as column values; nested records stay as they are."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def record(kind: type[T], row: Row[Any], **changed: Any) -> T:
    """Make a record from a row's columns of the same names."""
    columns = row._mapping
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: columns[name] for name in names if name not in changed}, **changed)
