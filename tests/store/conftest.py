"""An empty store on SQLite and on PostgreSQL: every store test runs on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.store import Store, projects
from tests.migrated import new_store
from tests.postgresql_server import PostgresqlServer
from tests.store.examples import PROJECT

POSTGRESQL = "postgresql"


@pytest.fixture(params=["sqlite", pytest.param(POSTGRESQL, marks=pytest.mark.integration)])
def kind(request: pytest.FixtureRequest) -> str:
    """Say which database the test runs on."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgresql_template(postgresql: PostgresqlServer) -> str:
    """Name a PostgreSQL database with the tables, which is copied."""
    url = postgresql.new_database()
    Store.open(url).close()
    return url.partition("@/")[2].partition("?")[0]


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a database with nothing in it, not even tables."""
    if kind != POSTGRESQL:
        return f"sqlite:///{tmp_path}/labelclimb.db"
    server: PostgresqlServer = request.getfixturevalue(POSTGRESQL)
    return server.new_database()


@pytest.fixture
def migrated_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a database with all tables, empty."""
    if kind != POSTGRESQL:
        return f"sqlite:///{new_store(tmp_path)}"
    server: PostgresqlServer = request.getfixturevalue(POSTGRESQL)
    return server.new_database(request.getfixturevalue("postgresql_template"))


@pytest.fixture
def empty(migrated_url: str) -> Iterator[Store]:
    store = Store.open(migrated_url)
    yield store
    store.close()


@pytest.fixture
def store(empty: Store) -> Store:
    with empty.transaction() as tx:
        projects.add(tx, PROJECT)
    return empty
