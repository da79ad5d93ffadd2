"""An empty store on SQLite and on PostgreSQL: every store test runs on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.store import Store, projects
from tests.postgresql_server import PostgresqlServer
from tests.store.examples import PROJECT


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/labelclimb.db"
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    yield server.new_database()


@pytest.fixture
def empty(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()


@pytest.fixture
def store(empty: Store) -> Store:
    with empty.transaction() as tx:
        projects.add(tx, PROJECT)
    return empty
