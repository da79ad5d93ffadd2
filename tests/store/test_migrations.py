"""A database of an older release is brought up to date with what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from alembic import command
from sqlalchemy import MetaData

from backend.loop import succession
from backend.records import Reign
from backend.steps import projects as project_steps
from backend.store import Store, engines, reigns, unrecorded, versions
from backend.store.database import alembic_config
from tests.store.examples import at, version

PROJECT = {"title": "", "label_config": "", "strategy": "random_order", "train_after": 20,
           "quiet_s": 0.0, "max_wait_s": 0.0, "order_wanted": 0, "order_shown": 0}  # fmt: skip
VERSION = {"pipeline": "auto", "snapshot": "s", "classes": [], "metrics": {}, "gate": {}}
PROMOTED = {  # champions and versions by project: number, state, seconds after noon
    1: (4, [(1, "retired", 1), (2, "rejected", 2), (3, "retired", 3), (4, "champion", 4)]),
    2: (1, [(1, "champion", 1), (2, "retired", 2)]),  # somebody went back to v1
    3: (None, []),
    4: (1, [(1, "champion", 1)]),
}


@pytest.fixture
def old(url: str) -> Iterator[Store]:
    """A database of before reigns, filled, and opened by this release."""
    store = Store(engines.make(engines.usable_url(url)))
    config = alembic_config()
    with store.transaction() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0002")
        tables = MetaData()
        tables.reflect(tx)
        for project, (champion, made) in PROMOTED.items():
            tx.execute(tables.tables["projects"].insert(), _row(id=project, champion=champion))
            for number, state, after_s in made:
                moment = _moment(tx.dialect.name, at(after_s))
                row = {"project": project, "number": number, "state": state, "created_at": moment}
                tx.execute(tables.tables["versions"].insert(), {**VERSION, **row})
    store.close()
    store = Store.open(url)
    yield store
    store.close()


def _row(**fields: Any) -> dict[str, Any]:
    return {**PROJECT, **fields}


def _moment(dialect: str, moment: datetime) -> datetime:
    return moment.replace(tzinfo=None) if dialect == "sqlite" else moment


def reigns_of(store: Store, project: int) -> list[Reign]:
    with store.reading() as tx:
        return reigns.list(tx, project)


def test_versions_of_before_have_reigned_in_turn(old: Store) -> None:
    found = [(r.number, r.former, r.at, r.how) for r in reigns_of(old, 1)]
    assert found == [
        (1, None, at(1), "promoted"),
        (3, 1, at(3), "promoted"),
        (4, 3, at(4), "promoted"),
    ]
    assert reigns_of(old, 1)[0] == Reign(
        1, 1, None, at(1), "promoted", reason="before reigns were noted"
    )
    assert reigns_of(old, 3) == []
    assert [r.number for r in reigns_of(old, 4)] == [1]


def test_a_champion_of_before_can_be_left_and_gone_back_to(old: Store) -> None:
    assert succession.former(reigns_of(old, 1)) == 3
    with old.transaction() as tx:
        versions.add(tx, version(project=1, number=5))
        project_steps.promote(tx, 1, 5)
    assert reigns_of(old, 1)[-1].former == 4
    assert succession.former(reigns_of(old, 1)) == 4


def test_a_champion_that_somebody_went_back_to_reigns_at_last(old: Store) -> None:
    found = [(r.number, r.former, r.how) for r in reigns_of(old, 2)]
    assert found == [(1, None, "promoted"), (2, 1, "promoted"), (1, 2, "activated")]
    assert succession.former(reigns_of(old, 2)) == 2


def test_nothing_of_before_counts_as_being_written(old: Store) -> None:
    with old.transaction() as tx:
        unrecorded.give_up(tx, 1)
        assert unrecorded.given_up(tx, 1) == set()
