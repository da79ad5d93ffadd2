from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy.exc import CompileError, IntegrityError

from backend.errors import UnknownThing
from backend.store import Store, jobs, projects, versions
from tests.store.examples import NOON, PROJECT, at, job, version


def test_a_project_changes_in_the_named_fields_alone(store: Store) -> None:
    changed = replace(PROJECT, champion=3, train_requested_at=at(5))
    with store.transaction() as tx:
        assert projects.update(tx, 7, champion=3, train_requested_at=at(5)) == changed
        assert projects.update(tx, 7) == changed
        assert projects.all(tx) == [changed]
        projects.add(tx, replace(PROJECT, id=2))
        assert [project.id for project in projects.all(tx)] == [2, 7]


def test_an_unknown_project_is_said_with_the_known_ones(store: Store) -> None:
    with store.transaction() as tx:
        assert projects.get(tx, 8) is None
        with pytest.raises(UnknownThing, match=r"no project 8 .* \[7\]"):
            projects.update(tx, 8, title="x")


def test_an_unknown_field_is_refused(store: Store) -> None:
    with (
        pytest.raises(CompileError, match="Unconsumed column names: colour"),
        store.transaction() as tx,
    ):
        projects.update(tx, 7, colour="red")


def test_versions_come_back_newest_first(store: Store) -> None:
    with store.transaction() as tx:
        versions.add(tx, version())
        versions.add(tx, version(number=2))
        assert versions.list(tx, 7) == [version(number=2), version()]
        assert versions.get(tx, 7, 1) == version()
        assert versions.get(tx, 7, 3) is None
        assert versions.list(tx, 8) == []


def test_a_version_is_written_once(store: Store) -> None:
    with store.transaction() as tx:
        versions.add(tx, version())
    with pytest.raises(IntegrityError), store.transaction() as tx:
        versions.add(tx, version(snapshot="other"))


def test_state_and_gate_change_and_the_rest_stays(store: Store) -> None:
    with store.transaction() as tx:
        versions.add(tx, version())
        versions.set_state(tx, 7, 1, "champion")
        assert versions.get(tx, 7, 1) == version(state="champion")
        versions.set_state(tx, 7, 1, "rejected", {"reason": "worse"})
        assert versions.get(tx, 7, 1) == version(state="rejected", gate={"reason": "worse"})
        with pytest.raises(UnknownThing, match="v9"):
            versions.set_state(tx, 7, 9, "champion")


def test_the_champion_is_where_the_pointer_points(store: Store) -> None:
    with store.transaction() as tx:
        versions.add(tx, version())
        assert versions.champion(tx, 7) is None
        projects.update(tx, 7, champion=1)
        assert versions.champion(tx, 7) == version()


def test_a_number_is_given_once_per_project(store: Store) -> None:
    with store.transaction() as tx:
        projects.add(tx, replace(PROJECT, id=8))
        assert [versions.next_number(tx, 7) for _ in range(3)] == [1, 2, 3]
        assert versions.next_number(tx, 8) == 1
    with pytest.raises(RuntimeError), store.transaction() as tx:
        versions.next_number(tx, 8)
        raise RuntimeError
    with store.transaction() as tx:
        assert versions.next_number(tx, 8) == 2


def test_jobs_are_listed_newest_first_and_replaced_by_id(store: Store) -> None:
    later = job(id="train-7-b", created_at=at(9), state="queued")
    with store.transaction() as tx:
        jobs.put(tx, job())
        jobs.put(tx, later)
        jobs.put(tx, job(project=8, id="train-8-a"))
        assert jobs.list(tx, 7) == [later, job()]
        assert jobs.list(tx, 7, limit=1) == [later]
        assert jobs.running(tx, 7, "train") == [job(), later]
        assert jobs.running(tx, 7, "publish") == []
        jobs.put(tx, job(state="gating"))
        assert jobs.get(tx, job().id) == job(state="gating")


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_an_ended_job_keeps_its_first_end(store: Store, state: str) -> None:
    with store.transaction() as tx:
        jobs.put(tx, job())
        jobs.progress(tx, job().id, {"fraction": 0.5}, state="gating")
        assert jobs.get(tx, job().id) == job(detail={"fraction": 0.5}, state="gating")
        jobs.finish(tx, job().id, state, "why", at(9))  # type: ignore[arg-type]
        jobs.finish(tx, job().id, "failed", "too late", at(10))
        jobs.progress(tx, job().id, {"fraction": 1.0})
        ended = jobs.get(tx, job().id)
        assert ended is not None
        assert (ended.state, ended.error, ended.finished_at) == (state, "why", at(9))
        assert ended.detail == {"fraction": 0.5}
        assert jobs.running(tx, 7, "train") == []
        jobs.put(tx, job(created_at=NOON))
        assert jobs.running(tx, 7, "train") == [job()]
