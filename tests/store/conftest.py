"""An empty store on SQLite, and on PostgreSQL where LABELCLIMB_TEST_DATABASE_URL names one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from backend.store import Store, projects
from tests.store.examples import PROJECT

POSTGRESQL = os.environ.get("LABELCLIMB_TEST_DATABASE_URL")


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRESQL else ["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/labelclimb.db"
        return
    assert POSTGRESQL
    schema = f"test_{uuid.uuid4().hex}"
    admin = create_engine(POSTGRESQL)
    with admin.begin() as tx:
        tx.execute(text(f"CREATE SCHEMA {schema}"))
    own = make_url(POSTGRESQL).update_query_dict({"options": f"-csearch_path={schema}"})
    yield own.render_as_string(hide_password=False)
    with admin.begin() as tx:
        tx.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    admin.dispose()


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
