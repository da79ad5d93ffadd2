"""Opening the store: engine, transactions, and migrations that two processes may start at once."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DatabaseError

from backend.errors import SettingsError
from backend.store import engines
from backend.store.schema import metadata

MIGRATIONS = Path(__file__).parent / "migrations"


class Store:
    """A database whose tables are up to date; share it by threads, open it anew in a process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(**engines.WRITES)
        self._hasty = engine.execution_options(**engines.WRITES, **engines.HASTY)
        self._reading = engine
        if engine.dialect.name == "postgresql":
            self._reading = engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        _forget_connections_in_children(engine)

    @classmethod
    def open(cls, url: str) -> Store:
        """Connect and migrate to the newest tables; raises SettingsError when that cannot be."""
        address = engines.usable_url(url)
        try:
            store = cls(engines.make(address))
            store.migrate()
        except (DatabaseError, OSError) as error:
            why = error.orig if isinstance(error, DatabaseError) else error
            raise SettingsError(
                f"DATABASE_URL={address!r} cannot be opened ({why}); "
                "start the database, or correct the address"
            ) from error
        return store

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Connection]:
        """Write: all of it when the block ends, nothing when it raises.

        There is one writer at a time, from the first statement on; others wait for up to
        `engines.BUSY_TIMEOUT_S`. So what was read in the block is still true when it writes. Keep
        slow work out of it. durable=False: SQLite does not wait for the disk; a process that is
        killed loses nothing, but a power failure may undo the transaction, with all after it. For
        what would then be done again from what is durable.
        """
        with (self._writing if durable else self._hasty).begin() as tx:
            yield tx

    def leave_checkpoints_to_others(self) -> None:
        """Let other processes copy SQLite's log into its file, which takes many slow writes."""
        engines.checkpoint_late(self.engine)

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
            config.attributes["connection"] = tx
            command.upgrade(config, "head")

    def damage(self) -> list[str]:
        """Return columns that are missing, and what SQLite finds wrong with its file."""
        try:
            with self.reading() as tx:
                return [*_missing_columns(tx), *_file_faults(tx)]
        except DatabaseError as error:
            return [str(error.orig)]

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.engine.dispose()


def _missing_columns(tx: Connection) -> Iterator[str]:
    seen = inspect(tx)
    for table in metadata.sorted_tables:
        there = seen.has_table(table.name)
        columns = {column["name"] for column in seen.get_columns(table.name)} if there else set()
        for column in table.columns:
            if column.name not in columns:
                yield f"{table.name}.{column.name} is missing, although the tables are up to date"


def _file_faults(tx: Connection) -> list[str]:
    if tx.dialect.name != "sqlite":
        return []
    rows = tx.exec_driver_sql("PRAGMA quick_check(5)")
    return [str(row[0]) for row in rows if row[0] != "ok"]


def alembic_config() -> Config:
    """Return Alembic's configuration; its env.py wants a Connection in `attributes`."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _forget_connections_in_children(engine: Engine) -> None:
    """A forked process must neither use nor close its parent's connections."""
    kept = weakref.ref(engine)

    def forget() -> None:
        parents = kept()
        if parents is not None:
            parents.dispose(close=False)

    os.register_at_fork(after_in_child=forget)
