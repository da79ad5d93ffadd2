""" "What if we had used X since Monday", worked out by hand on a store filled by its functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backend.errors import SettingsError, UnknownThing
from backend.records import Annotation, Interaction, Task, TaskEvidence, Version
from backend.settings import Settings
from backend.simulation import history, since
from backend.simulation.options import CONTROL, contenders
from backend.steps import projects
from backend.store import annotations, learning, proposals, tasks, versions
from backend.wiring import Services, build
from tests.migrated import new_store
from tests.steps.conftest import CONFIG

SUNDAY = datetime(2026, 11, 15, 9, tzinfo=timezone.utc)
MONDAY = SUNDAY + timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Tasks 1 to 6 on Sunday; v1 finds the larger ones more doubtful."""
    new_store(tmp_path)
    real = build(Settings.from_env({"DATA_DIR": str(tmp_path)}))
    found = replace(real, clock=lambda: MONDAY + 10 * HOUR)
    projects.adopt(found, 1, CONFIG, title="bridge")
    with found.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, n, f"/data/{n}.jpg", SUNDAY) for n in range(1, 7)])
    version(found, 1, SUNDAY)
    with found.store.transaction() as tx:
        for n in range(1, 7):
            proposals.save(tx, 1, n, 1, [], evidence(n, 1, 0.08 * n))
    yield found
    real.close()


def version(services: Services, number: int, at: datetime) -> None:
    with services.store.transaction() as tx:
        assert versions.next_number(tx, 1) == number
        versions.add(tx, Version(1, number, "challenger", "advcam", f"s{number}", at))
        projects.promote(tx, 1, number)


def evidence(task: int, number: int, probability: float) -> TaskEvidence:
    stats = {"area_px": 10.0, "outline_px": 10.0, "components": 1.0, "heat_sharpness": 0.5}
    return TaskEvidence(
        1, task, number, ("crack",), ((probability,),), (1.0, float(task)), {"crack": stats}
    )


def finish(services: Services, task: int, at: datetime, seconds: float | None, pixels: int) -> None:
    """Keep one finished task, all of whose changed pixels were added; 0: nothing to be said."""
    done = Annotation(100 + task, 1, task, at, ({"id": "x"},), created_at=at, lead_time_s=seconds)
    said = Interaction(
        1, task, done.id, "crack", "modified", 0.5, pixels, 0, seconds, 1, 1, 1.0, created_at=at
    )
    with services.store.transaction() as tx:
        annotations.put(tx, done)
        learning.replace(tx, done.id, 1, task, [said] if pixels else [], [], [])


def ask(services: Services, strategies: str = "entropy", seeds: int = 3) -> dict[str, Any]:
    wanted = since.Wanted(1, MONDAY, contenders(strategies), seeds)
    console = Console(file=StringIO(), width=200)
    result = since.run(services, wanted, console)
    result["printed"] = console.file.getvalue()  # type: ignore[attr-defined]
    return result


def of(result: dict[str, Any], strategy: str) -> dict[str, Any]:
    (found,) = [one for one in result["strategies"] if one["strategy"] == strategy]
    return dict(found)


def order(services: Services, strategy: str, seed: int = 0) -> list[int]:
    past = history.read(services, 1, MONDAY)
    return since.replayed(since.StoreWorld(past, contenders(strategy)[-1], seed))


def worked(services: Services) -> None:
    """People began with what was sure: 10 s each, and the corrections came last."""
    for task, pixels in ((1, 0), (2, 100), (3, 200), (4, 700)):
        finish(services, task, MONDAY + task * HOUR, 10.0, pixels)


def test_the_answer_is_the_one_worked_out_by_hand(services: Services) -> None:
    worked(services)
    result = ask(services)
    # entropy would have begun with task 4, then 3: in the first half of the 40 s that brings
    # 700, then 900 of 1000 pixels, against 0 and 100 as it was.
    assert order(services, "entropy") == [4, 3, 2, 1]
    own, real = of(result, "entropy"), of(result, "as it was")
    assert own["runs"][0]["seconds"] == [0, 10, 20]
    assert own["runs"][0]["values"] == pytest.approx([0, 0.7, 0.9])
    assert real["runs"][0]["values"] == pytest.approx([0, 0, 0.1])
    assert own["mean_value"]["mean"] == pytest.approx((0.35 * 10 + 0.8 * 10) / 20)
    assert real["mean_value"]["mean"] == pytest.approx(0.05 / 2)
    assert result["budget_s"] == 20 and result["total_s"] == 40
    assert CONTROL in {one["strategy"] for one in result["strategies"]}


def test_what_is_left_out_is_counted_and_said(services: Services) -> None:
    worked(services)
    finish(services, 5, MONDAY + 5 * HOUR, None, 300)
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, 9, "/data/9.jpg", MONDAY + HOUR)])
    finish(services, 9, MONDAY + 6 * HOUR, 5.0, 50)
    result = ask(services)
    counted = ("tasks", "still_open", "untimed", "arrived_later")
    assert [result[name] for name in counted] == [4, 1, 1, 1]
    assert "1 are still open, 1 have no known seconds; 1 were imported later" in result["printed"]
    assert "this cannot say how" in result["printed"]


def test_what_was_finished_before_is_not_replayed(services: Services) -> None:
    finish(services, 4, SUNDAY + HOUR, 10.0, 700)
    for task in (1, 2):
        finish(services, task, MONDAY + task * HOUR, 10.0, 10)
    assert sorted(order(services, "random_order")) == [1, 2]
    assert history.read(services, 1, MONDAY).was_finished == 1


def test_a_version_serves_from_the_seconds_at_which_it_really_came(services: Services) -> None:
    """v2 came after task 1, which it so never saw, and finds the smaller ones more doubtful."""
    worked(services)
    version(services, 2, MONDAY + 1.5 * HOUR)
    with services.store.transaction() as tx:
        for task, probability in ((2, 0.07), (3, 0.02), (4, 0.01)):
            proposals.save(tx, 1, task, 2, [], evidence(task, 2, probability))
    past = history.read(services, 1, MONDAY)
    assert since.arrivals(past) == [(0.0, 1), (10.0, 2)]
    world = since.StoreWorld(past, contenders("entropy")[-1], 0)
    # v1, for 10 s: task 4. Then v2: task 1, for which v1 speaks with 0.08, then 2 and 3.
    assert since.replayed(world) == [4, 1, 2, 3]
    assert world.older == {1}
    assert "1 tasks were ranked by evidence of an older version" in ask(services)["printed"]


def test_tasks_that_no_version_has_seen_are_in_random_order_and_that_is_said(
    services: Services,
) -> None:
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, n, f"/data/{n}.jpg", SUNDAY) for n in range(11, 19)])
    for task in range(11, 19):
        finish(services, task, MONDAY + task * HOUR / 60, 10.0, 10)
    result = ask(services)
    note = "random_order instead of entropy, which needs predicted tasks"
    assert of(result, "entropy")["notes"] == [note] and note in result["printed"]
    assert order(services, "entropy", seed=1) == order(services, CONTROL, seed=1)
    assert order(services, CONTROL, seed=1) != order(services, CONTROL, seed=2)


def test_moments_without_a_zone_are_utc() -> None:
    assert history.aware(datetime(2026, 11, 16, 9)) == MONDAY
    assert history.aware(MONDAY) is MONDAY


def test_unknown_projects_and_idle_times_are_refused(services: Services) -> None:
    with pytest.raises(UnknownThing, match="project 8 is not connected"):
        history.read(services, 8, MONDAY)
    with pytest.raises(SettingsError, match="give an earlier --since"):
        history.read(services, 1, MONDAY)


def test_costs_of_a_project_need_timed_annotations(services: Services) -> None:
    worked(services)
    with pytest.raises(SettingsError, match="3 timed annotations and 20 are needed"):
        since.cost_of(services, 1)
