"""Connections that behave alike on both databases: one writer at a time, texts that can be kept."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from backend.errors import SettingsError

BUSY_TIMEOUT_S = 60
LOOK_S = 0.001
WRITES = {"labelclimb_writes": True}  # execution option of a connection that may write
HASTY = {"labelclimb_hasty": True}  # of one that does not wait for the disk
LATE_CHECKPOINT_PAGES = 25_000  # of 4 KiB: the log does not grow for ever in a process alone
WRITER_LOCK = 0x6C636C62  # "lclb": any number that nobody else uses in this database
LOST_AFTER_S = 300  # a writer that says nothing for so long is given up, and its lock with it
POSTGRESQL = {  # notice a server, and let it notice us, that vanished without a word
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}

OPTIONS: dict[str, Any] = {
    "json_serializer": partial(json.dumps, allow_nan=False),  # PostgreSQL keeps no NaN
    "hide_parameters": True,  # an error's text must not tell the tokens in an event
}


def usable_url(text: str) -> URL:
    """Return the address of a database that we can use; raises SettingsError, hiding passwords."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise SettingsError(
            "DATABASE_URL is not a database address; wanted: sqlite:///file or "
            "postgresql://user:password@host/name"
        ) from None
    if url.get_backend_name() in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite":
        raise SettingsError(f"DATABASE_URL={url!r}: only SQLite and PostgreSQL are served")
    if url.database in (None, "", ":memory:"):
        raise SettingsError(
            f"DATABASE_URL={url!r} names no file, and processes cannot share memory; "
            "write sqlite:///path/to/file.db"
        )
    return url


def make(url: URL) -> Engine:
    """Prepare connections; raises SettingsError when PostgreSQL's driver is not installed."""
    engine = _postgresql(url) if url.get_backend_name() == "postgresql" else _sqlite(url)
    event.listen(engine, "before_cursor_execute", _make_storable, retval=True)
    return engine


def _sqlite(url: URL) -> Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, **OPTIONS)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql(url: URL) -> Engine:
    try:
        engine = create_engine(url, pool_pre_ping=True, connect_args=POSTGRESQL, **OPTIONS)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"DATABASE_URL={url!r} needs {error.name}; pip install 'labelclimb[postgresql]'"
        ) from error
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Hand the transactions to us; WAL lets readers and a writer work side by side."""
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    _switch_to_wal(connection)


def checkpoint_late(engine: Engine) -> None:
    """Have this process copy SQLite's log into its file only when nobody else has for long."""
    if engine.dialect.name == "sqlite":
        pragma = f"PRAGMA wal_autocheckpoint = {LATE_CHECKPOINT_PAGES}"
        event.listen(engine, "connect", lambda connection, _: connection.execute(pragma))
        engine.dispose()


def _switch_to_wal(connection: Any) -> None:
    """Two processes may both find a new file; SQLite does not wait for the other by itself here."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    pause = threading.Event()
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            pause.wait(0.02)
        else:
            return


def _begin_sqlite(tx: Connection) -> None:
    """Take the write lock at once: two readers that both want to write would block each other."""
    writes, hasty = _writes(tx), tx.get_execution_options().get("labelclimb_hasty", False)
    tx.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
    tx.exec_driver_sql(f"PRAGMA synchronous = {'NORMAL' if hasty else 'FULL'}")
    if writes:
        _wait_for_turn(tx)
    else:
        tx.exec_driver_sql("BEGIN")


def _wait_for_turn(tx: Connection) -> None:
    """Take SQLite's write lock, looking for it every millisecond.

    By itself SQLite sleeps ever longer between two looks, up to 0.1 s, while the lock is held for
    a few milliseconds at a time and others take it.
    """
    driver: Any = tx.connection.driver_connection
    pause, deadline = threading.Event(), time.monotonic() + BUSY_TIMEOUT_S
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        while _is_taken(driver) and time.monotonic() < deadline:
            pause.wait(LOOK_S)
        if not driver.in_transaction:
            tx.exec_driver_sql("BEGIN IMMEDIATE")  # says what is wrong
    finally:
        driver.execute(f"PRAGMA busy_timeout = {1000 * BUSY_TIMEOUT_S:.0f}")


def _is_taken(driver: Any) -> bool:
    """Begin to write, unless another writer is at it."""
    try:
        driver.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    return False


def _begin_postgresql(tx: Connection) -> None:
    """Let one transaction write at a time, as SQLite does: it sees all that those before wrote.

    A reader is not held up, and a writer whose machine was lost does not keep its place.
    """
    if _writes(tx):
        tx.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_S}s'")
        tx.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{LOST_AFTER_S}s'")
        tx.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")


def _writes(tx: Connection) -> bool:
    return bool(tx.get_execution_options().get("labelclimb_writes", False))


def _make_storable(
    _connection: Connection,
    _cursor: Any,
    statement: str,
    parameters: Any,
    _context: Any,
    _is_many: bool,  # also for many rows in one statement, whose parameters are those of one
) -> tuple[str, Any]:
    """Replace by U+FFFD what PostgreSQL cannot keep in a text: NUL; and both: lone surrogates."""
    if isinstance(parameters, list):
        return statement, [_storable(row) for row in parameters]
    return statement, _storable(parameters)


def _storable(row: Any) -> Any:
    if isinstance(row, Mapping):
        return {name: _storable_text(value) for name, value in row.items()}
    return tuple(_storable_text(value) for value in row)


def _storable_text(value: Any) -> Any:
    if not isinstance(value, str) or (value.isascii() and "\0" not in value):
        return value
    paired = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return paired.replace("\0", "\ufffd")
