"""Opening the store: engine, transactions, and migrations that two processes may start at once."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, OperationalError

from backend.errors import SettingsError

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 60
MIGRATION_LOCK = 0x6C636C62  # "lclb": any number that nobody else uses in this database


class Store:
    """A database whose tables are up to date; share it by threads, open it anew in a process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(labelclimb_writes=True)
        self._reading = engine
        if engine.dialect.name == "postgresql":
            self._reading = engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        _forget_connections_in_children(engine)

    @classmethod
    def open(cls, url: str) -> Store:
        """Connect and migrate to the newest tables; raises SettingsError when that cannot be."""
        address = _usable_url(url)
        try:
            store = cls(_engine(address))
            store.migrate()
        except (OperationalError, OSError) as error:
            why = error.orig if isinstance(error, OperationalError) else error
            raise SettingsError(
                f"DATABASE_URL={address!r} cannot be opened ({why}); "
                "start the database, or correct the address"
            ) from error
        return store

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Write: all of it when the block ends, nothing when it raises.

        SQLite has one writer at a time, from the first statement on; others wait for up to
        BUSY_TIMEOUT_S. Keep slow work out of the block.
        """
        with self._writing.begin() as tx:
            yield tx

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read one consistent state while others write; a write in the block raises."""
        with self._reading.connect() as tx:
            yield tx

    def migrate(self) -> None:
        """Bring the tables up to date; of several processes, one does it and the others wait."""
        config = alembic_config()
        newest = ScriptDirectory.from_config(config).get_current_head()
        with self.reading() as tx:
            if MigrationContext.configure(tx).get_current_revision() == newest:
                return
        with self.transaction() as tx:
            if tx.dialect.name == "postgresql":
                tx.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            config.attributes["connection"] = tx
            command.upgrade(config, "head")

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.engine.dispose()


def alembic_config() -> Config:
    """Return Alembic's configuration; its env.py wants a Connection in `attributes`."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _usable_url(text: str) -> URL:
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


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return _postgresql(url)
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql(url: URL) -> Engine:
    try:
        return create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"DATABASE_URL={url!r} needs {error.name}; pip install 'labelclimb[postgresql]'"
        ) from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Hand the transactions to us; WAL lets readers and a writer work side by side."""
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    _switch_to_wal(connection)


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
    writes = tx.get_execution_options().get("labelclimb_writes", False)
    tx.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
    tx.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _forget_connections_in_children(engine: Engine) -> None:
    """A forked process must neither use nor close its parent's connections."""
    kept = weakref.ref(engine)

    def forget() -> None:
        parents = kept()
        if parents is not None:
            parents.dispose(close=False)

    os.register_at_fork(after_in_child=forget)
