from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select
from sqlalchemy.exc import DBAPIError, OperationalError, StatementError

from backend import records
from backend.errors import SettingsError
from backend.store import Store, engines, inbox, projects, schema, statements
from tests.postgresql_server import PostgresqlServer
from tests.store.examples import NOON, PROJECT

SERVER = multiprocessing.get_context("forkserver")  # new processes that have imported all
SERVER.set_forkserver_preload([__name__])


def run_at_once(target: Callable[..., None], *arguments: tuple[Any, ...]) -> None:
    """Start one process per tuple, let them begin together, and require that none fails."""
    barrier = SERVER.Barrier(len(arguments), timeout=60)
    started = [
        SERVER.Process(target=target, args=(barrier, *one), daemon=True) for one in arguments
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * len(started)


def open_store(barrier: Any, url: str) -> None:
    barrier.wait()
    Store.open(url).close()


def put_events(barrier: Any, url: str, name: str) -> None:
    with closing(Store.open(url)) as store:
        barrier.wait()
        for number in range(200):
            with store.transaction() as tx:
                inbox.put(tx, name, {"number": number}, "webhook", NOON)


def count_up(barrier: Any, url: str) -> None:
    """Read, then write in one transaction: where both read first, one would block the other."""
    with closing(Store.open(url)) as store:
        barrier.wait()
        for _ in range(50):
            with store.transaction() as tx:
                project = projects.get(tx, 7)
                assert project is not None
                projects.update(tx, 7, order_wanted=project.order_wanted + 1)


def test_migrations_from_nothing_give_exactly_the_tables_of_the_schema(url: str) -> None:
    with closing(Store.open(url)) as store, store.reading() as tx:
        options = {"compare_type": True}
        assert compare_metadata(MigrationContext.configure(tx, opts=options), schema.metadata) == []
        assert inspect(tx).get_table_names()


@pytest.mark.integration
def test_three_processes_open_a_new_store_at_once(url: str) -> None:
    run_at_once(open_store, (url,), (url,), (url,))
    with closing(Store.open(url)) as store, store.reading() as tx:
        assert projects.all(tx) == []


@pytest.mark.integration
def test_two_processes_write_200_events_each_and_none_is_lost(url: str) -> None:
    run_at_once(put_events, (url, "a"), (url, "b"))
    with closing(Store.open(url)) as store, store.reading() as tx:
        events = inbox.pending(tx, limit=1000)
    assert len({event.id for event in events}) == 400
    for name in ("a", "b"):
        numbers = [event.payload["number"] for event in events if event.action == name]
        assert numbers == list(range(200))


@pytest.mark.integration
def test_two_processes_that_read_before_they_write_neither_block_nor_overwrite(
    store: Store, migrated_url: str
) -> None:
    run_at_once(count_up, (migrated_url,), (migrated_url,))
    with store.reading() as tx:
        project = projects.get(tx, 7)
    assert project is not None
    assert project.order_wanted == 100


def test_a_second_writer_waits_and_sees_what_the_first_wrote(store: Store) -> None:
    entered = threading.Event()

    def write() -> int:
        with store.transaction() as tx:
            entered.set()
            return len(inbox.pending(tx))

    with ThreadPoolExecutor() as threads:
        with store.transaction() as tx:
            second = threads.submit(write)
            with store.reading() as reader:
                assert inbox.pending(reader) == [], "a reader is not held up"
            assert not entered.wait(0.2)
            inbox.put(tx, "A", {}, "webhook", NOON)
        assert second.result(timeout=60) == 1


def test_a_restarted_database_is_used_again(postgresql: PostgresqlServer) -> None:
    with closing(Store.open(postgresql.new_database())) as store:
        with store.transaction() as tx:
            inbox.put(tx, "before", {}, "webhook", NOON)
        with pytest.raises(DBAPIError), store.transaction() as tx:
            inbox.put(tx, "cut off", {}, "webhook", NOON)
            postgresql.restart()
            inbox.put(tx, "cut off too", {}, "webhook", NOON)
        with store.transaction() as tx:
            inbox.put(tx, "after", {}, "webhook", NOON)
        with store.reading() as tx:
            assert [event.action for event in inbox.pending(tx)] == ["before", "after"]


def test_a_writer_that_never_gets_its_turn_says_so_and_can_write_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_S", 0.05)

    def write() -> int:
        with store.transaction() as tx:
            return inbox.put(tx, "A", {}, "webhook", NOON)

    with ThreadPoolExecutor(1) as threads:
        with store.transaction():
            hopeless = threads.submit(write)
            with pytest.raises(OperationalError, match="lock"):
                hopeless.result(timeout=60)
        assert threads.submit(write).result(timeout=60)


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError, match="crash"), store.transaction() as tx:
        inbox.put(tx, "A", {}, "webhook", NOON)
        projects.update(tx, 7, title="changed")
        raise RuntimeError("crash")
    with store.reading() as tx:
        assert inbox.counts(tx) == {}
        assert projects.get(tx, 7) == PROJECT


def test_a_reader_sees_one_state_while_another_writes(store: Store) -> None:
    with store.reading() as reader:
        before = projects.get(reader, 7)
        with store.transaction() as writer:
            projects.update(writer, 7, title="changed")
        assert before == PROJECT
        assert projects.get(reader, 7) == PROJECT
    with store.reading() as reader:
        after = projects.get(reader, 7)
    assert after == dataclasses.replace(PROJECT, title="changed")


def test_a_write_while_reading_raises_and_the_connection_can_write_again(store: Store) -> None:
    with pytest.raises(DBAPIError), store.reading() as tx:
        projects.update(tx, 7, title="changed")
    with store.transaction() as tx:
        assert projects.update(tx, 7, title="changed").title == "changed"


def test_moments_come_back_in_utc_whatever_zone_they_came_in(store: Store) -> None:
    tokyo = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=9)))
    with store.transaction() as tx:
        projects.update(tx, 7, train_requested_at=tokyo)
    with store.reading() as tx:
        project = projects.get(tx, 7)
    assert project is not None
    assert project.train_requested_at == tokyo
    assert project.train_requested_at.utcoffset() == timedelta(0)


def test_a_moment_without_zone_is_refused(store: Store) -> None:
    with pytest.raises(StatementError, match="has no time zone"), store.transaction() as tx:
        projects.update(tx, 7, train_requested_at=datetime(2026, 1, 2))


PAIR, SMILE = "\ud83d\ude00", "\U0001f600"
ODD = f"cut \ud83d, {PAIR} whole, \0 nothing, \u4e2d"
ROW = {"project": 7, "id": 1, "image": "a\0b", "created_at": None, "width_px": None,
       "height_px": None, "problem": None}  # fmt: skip


def test_texts_that_a_database_cannot_hold_are_made_holdable(store: Store) -> None:
    with store.transaction() as tx:
        kept = inbox.put(tx, "A\0", {"text": ODD}, "webhook", NOON)
        projects.update(tx, 7, title=ODD)
        statements.upsert(tx, schema.tasks, [ROW, {**ROW, "id": 2, "image": "a.jpg"}])
    with store.reading() as tx:
        project, event = projects.get(tx, 7), inbox.get(tx, kept)
        images = tx.execute(select(schema.tasks.c.image).order_by(schema.tasks.c.id)).scalars()
        assert [*images] == ["a\ufffdb", "a.jpg"]
    assert project is not None
    assert project.title == f"cut \ufffd, {SMILE} whole, \ufffd nothing, \u4e2d"
    assert event is not None
    assert (event.action, event.payload) == ("A\ufffd", {"text": ODD.replace(PAIR, SMILE)})


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_figure_that_is_none_is_refused(store: Store, number: float) -> None:
    unkept = pytest.raises((StatementError, ValueError), match="not JSON compliant")
    with unkept, store.transaction() as tx:
        inbox.put(tx, "A", {"loss": number}, "webhook", NOON)


def test_an_error_does_not_tell_what_was_to_be_kept(store: Store) -> None:
    with pytest.raises(DBAPIError) as raised, store.transaction() as tx:
        projects.add(tx, dataclasses.replace(PROJECT, title="hunter2"))
    assert "hunter2" not in str(raised.value)


def test_foreign_keys_hold(empty: Store) -> None:
    with pytest.raises(DBAPIError), empty.transaction() as tx:
        tx.execute(schema.versions.insert(), {"project": 99, "number": 1, "state": "champion"})


@pytest.mark.parametrize(
    ("kind", "table", "other"),
    [
        (records.Project, schema.projects, set()),
        (records.Task, schema.tasks, set()),
        (records.Annotation, schema.annotation_states, {"learned_at"}),
        (records.ProposedRegion, schema.proposed_regions, {"linked"}),
        (records.Interaction, schema.interactions, {"id"}),
        (records.WeakLabel, schema.weak_labels, {"id"}),
        (records.VerifiedMask, schema.masks, set()),
        (records.Version, schema.versions, set()),
        (records.Job, schema.jobs, set()),
        (records.InboxEvent, schema.inbox, {"state", "done_at"}),
    ],
)
def test_each_field_of_a_record_is_a_column(kind: Any, table: Any, other: set[str]) -> None:
    fields = {field.name for field in dataclasses.fields(kind)}
    assert set(table.columns.keys()) - other == fields


def test_a_forked_process_uses_connections_of_its_own(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/fork.db")
    request.addfinalizer(store.close)
    with store.transaction() as tx:
        projects.add(tx, PROJECT)
    pooled = store.engine.pool.checkedin()  # type: ignore[attr-defined]
    assert pooled > 0
    child = os.fork()
    if child == 0:
        forgotten = store.engine.pool.checkedin() == 0  # type: ignore[attr-defined]
        with store.transaction() as tx:
            projects.update(tx, 7, title="child")
        os._exit(0 if forgotten else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with store.reading() as tx:
        project = projects.get(tx, 7)
    assert project is not None
    assert project.title == "child"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "not a database address"),
        ("mysql://me:hidden@host/db", "only SQLite and PostgreSQL"),
        ("sqlite://", "names no file"),
        ("sqlite:////dev/null/x.db", "DATABASE_URL"),
    ],
)
def test_an_unusable_address_says_so_without_its_password(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as raised:
        Store.open(url)
    assert "hidden" not in str(raised.value)
