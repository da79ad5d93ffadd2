"""The reconciler: without any webhook, after an outage, for every kind of loss; and cheaply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backend.errors import LabelStudioDown, UnknownThing
from backend.labelstudio import session
from backend.labelstudio.client import LabelStudio
from backend.settings import Settings
from backend.steps import decide, projects, status, tick
from backend.steps.listening import intake, reconcile
from backend.steps.listening.reconcile import Found
from backend.store import annotations as annotation_rows
from backend.store import inbox, learning, reconciling, tasks
from backend.wiring import Services, build
from tests.migrated import new_store
from tests.steps.conftest import CONFIG, NOW, PlayedQueues
from tests.steps.played_label_studio import PlayedLabelStudio, click, handle_all

CALLS = {  # none of these makes Label Studio 1.23 call a backend
    "GET /api/projects/1/",
    "GET /api/tasks",
    "GET /api/annotations/N/",
    "GET /api/projects/1/model-versions/",
}


class Clock:
    """Ours, a minute ahead of Label Studio's."""

    def __init__(self) -> None:
        self.now = NOW + timedelta(minutes=1)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now


@pytest.fixture
def played() -> PlayedLabelStudio:
    return PlayedLabelStudio()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def services(tmp_path: Path, played: PlayedLabelStudio, clock: Clock) -> Iterator[Services]:
    new_store(tmp_path)
    real = build(Settings.from_env({"DATA_DIR": str(tmp_path)}))
    hasty = session.Clock(pause=lambda _: None)  # tries again at once
    client = LabelStudio("http://ls.test", "0" * 40, transport=played.transport(), clock=hasty)
    doubles: dict[str, Any] = {"labelstudio": client, "queues": PlayedQueues(), "clock": clock}
    yield replace(real, **doubles)
    client.close()
    real.close()


@pytest.fixture
def connected(services: Services, played: PlayedLabelStudio) -> PlayedLabelStudio:
    """Three tasks, one of them annotated, known to the store; `requests` begin afterwards."""
    projects.adopt(services, 1, CONFIG, title="bridge")
    played.import_tasks(3)
    played.annotate(11, [click("crack")])
    look(services)
    played.events.clear()
    played.requests.clear()
    return played


def look(services: Services, **options: Any) -> Found:
    """Reconcile, and handle what was found."""
    found = reconcile.reconcile(services, 1, **options)
    handle_all(services)
    return found


def assert_equal(services: Services, played: PlayedLabelStudio) -> None:
    """The store knows the tasks and annotations that exist, in their newest state, and no more."""
    with services.store.reading() as tx:
        known = {row.id: (row.task, [dict(r) for r in row.result]) for row in live(tx)}
        stored = {task.id: task.image for task in tasks.all(tx, 1)}
        taught = set(learning.label_counts(tx, 1))
        assert inbox.pending(tx) == inbox.dead(tx) == []
    assert known == {id: (a["task"], a["result"]) for id, a in played.living().items()}
    assert stored == {id: task["data"]["image"] for id, task in played.tasks.items()}
    assert taught == {id for id, a in played.living().items() if a["result"]}


def live(tx: Any) -> Any:
    return annotation_rows.live(tx, 1)


def test_without_any_webhook_everything_is_found(
    services: Services, connected: PlayedLabelStudio
) -> None:
    assert_equal(services, connected)
    connected.import_tasks(2)
    connected.annotate(12, [click("crack", 20.0)])
    connected.annotate(13, [], was_cancelled=True)
    connected.update(501, [click("crack", 80.0)])
    assert look(services) == Found(tasks=2, annotations=3)
    assert_equal(services, connected)
    connected.delete_annotations(501)
    connected.delete_tasks(12, 15)
    assert look(services) == Found(deletions=3)
    assert_equal(services, connected)
    assert look(services) == Found()


def test_it_asks_nothing_that_makes_label_studio_call_back(
    services: Services, connected: PlayedLabelStudio
) -> None:
    connected.annotate(12, [click("crack")])
    connected.delete_annotations(501)
    connected.delete_tasks(13)
    look(services, full=True)
    calls = {call.replace("501", "N").replace("502", "N") for call in connected.requests}
    assert calls == CALLS


def test_predictions_on_listing_are_switched_off_before_anything_is_listed(
    services: Services, connected: PlayedLabelStudio
) -> None:
    """Otherwise Label Studio asks /predict for whoever lists tasks, us included."""
    connected.configure(evaluate_predictions_automatically=True)
    connected.annotate(12, [click("crack")])
    assert look(services) == Found(annotations=1)
    assert connected.requests[:2] == ["GET /api/projects/1/", "PATCH /api/projects/1/"]
    connected.requests.clear()
    look(services)
    assert "PATCH /api/projects/1/" not in connected.requests


@pytest.mark.parametrize("full", [True, False])
def test_a_thousand_unchanged_tasks_cost_three_requests(
    services: Services, connected: PlayedLabelStudio, full: bool
) -> None:
    connected.import_tasks(997)
    for task in range(12, 62):
        connected.annotate(task, [])
    look(services)
    connected.requests.clear()
    assert look(services, full=full) == Found()
    assert connected.requests == [
        "GET /api/projects/1/", "GET /api/tasks", "GET /api/projects/1/model-versions/",
    ]  # fmt: skip


def test_only_what_differs_is_fetched_and_once(
    services: Services, connected: PlayedLabelStudio
) -> None:
    connected.annotate(12, [click("crack")])
    look(services)
    connected.requests.clear()
    connected.update(502, [click("crack", 10.0)])
    assert look(services) == Found(annotations=1)
    assert look(services) == look(services, full=True) == Found()
    assert connected.fetched() == [502]
    assert_equal(services, connected)


def test_a_lost_update_is_found_although_another_one_of_its_task_arrived(
    services: Services, connected: PlayedLabelStudio
) -> None:
    """The task's time alone cannot tell: both updates are within a second."""
    connected.annotate(11, [click("crack", 20.0)])
    look(services)
    connected.events.clear()
    connected.update(501, [click("crack", 70.0)])
    connected.update(502, [click("crack", 71.0)])
    _lost, arrived = connected.events
    intake.handle(services, intake.receive(services, arrived))
    assert look(services) == Found(annotations=1)
    assert_equal(services, connected)


def test_what_webhooks_have_said_is_no_news(
    services: Services, connected: PlayedLabelStudio
) -> None:
    connected.import_tasks(1)
    connected.annotate(14, [click("crack")])
    connected.delete_annotations(501)
    for body in connected.events:
        intake.handle(services, intake.receive(services, body))
    assert look(services, full=True) == Found()
    assert_equal(services, connected)


def test_an_hour_of_outage_is_recovered_and_counted(
    services: Services, connected: PlayedLabelStudio, clock: Clock
) -> None:
    """Label Studio is down for us, people go on: no event arrives, and nothing can be asked."""
    connected.down = True
    for minute in range(60):
        clock.now += timedelta(minutes=1)
        if minute % 5 == 0:
            tick.reconcile_all(services)
        connected.annotate(connected.import_tasks(1)[0], [click("crack", minute)])
    shown = status.of_project(services, 1)
    assert "cannot be reached" in str(shown.reconcile_error)
    assert (shown.annotations, shown.recovered) == (1, 0)
    with pytest.raises(LabelStudioDown):
        reconcile.reconcile(services, 1)
    connected.down = False
    tick.reconcile_all(services)
    handle_all(services)
    assert_equal(services, connected)
    shown = status.of_project(services, 1)
    assert (shown.annotations, shown.recovered, shown.given_up) == (61, 120, 0)
    assert (shown.received, shown.reconcile_error) == (0, None)


def test_labels_found_after_an_outage_are_new_whatever_their_date(
    services: Services, connected: PlayedLabelStudio, clock: Clock
) -> None:
    """A training that ended meanwhile has not seen them, though they are older than it."""
    connected.annotate(12, [click("crack"), click("nothing here", 10.0)])
    clock.now += timedelta(hours=1)
    projects.change(services, 1, last_snapshot_at=clock.now, last_snapshot="before", train_after=2)
    look(services)
    clock.now += timedelta(minutes=5)
    decision, _ = decide.training_decision(services, 1)
    assert decision.train, decision.reason
    assert "2 of 2 new labels" in decision.reason


def test_an_event_without_payload_has_every_project_looked_at_soon(
    services: Services, connected: PlayedLabelStudio, clock: Clock
) -> None:
    connected.annotate(12, [click("crack")])
    tick.reconcile_wanted(services)
    assert connected.requests == []
    for _ in range(2):
        event = intake.receive(services, {"action": "ANNOTATION_CREATED"})
        intake.handle(services, event)
    tick.reconcile_wanted(services)
    assert connected.requests == []  # the last comparison is just over
    clock.now += tick.PAUSE
    tick.reconcile_wanted(services)
    handle_all(services)
    assert_equal(services, connected)
    connected.requests.clear()
    clock.now += tick.PAUSE
    tick.reconcile_wanted(services)
    assert connected.requests == []


def test_a_task_id_given_again_while_nobody_listened(
    services: Services, connected: PlayedLabelStudio
) -> None:
    connected.annotate(13, [click("crack")])
    look(services)
    connected.delete_tasks(13)
    assert connected.import_tasks(1) == [13]
    look(services)
    assert_equal(services, connected)
    connected.annotate(13, [click("crack", 30.0)])
    look(services, full=True)
    assert_equal(services, connected)


def test_a_deletion_that_comes_after_its_ids_new_task_is_checked_not_believed(
    services: Services, connected: PlayedLabelStudio, clock: Clock
) -> None:
    connected.now = clock.now
    connected.delete_tasks(13)
    connected.import_tasks(1)
    connected.annotate(13, [click("crack")])
    deleted, *rest = connected.events
    for body in [*rest, deleted]:
        intake.handle(services, intake.receive(services, body))
    with services.store.reading() as tx:
        assert reconciling.get(tx, 1).due
        assert {a.id for a in annotation_rows.live(tx, 1)} == {501, 502}
    clock.now += tick.PAUSE
    tick.reconcile_wanted(services)
    handle_all(services)
    assert_equal(services, connected)


def test_a_task_that_was_really_deleted_young_is_gone_after_the_check(
    services: Services, connected: PlayedLabelStudio, clock: Clock
) -> None:
    connected.now = clock.now
    connected.import_tasks(1)
    connected.delete_tasks(14)
    for body in connected.events:
        intake.handle(services, intake.receive(services, body))
    clock.now += tick.PAUSE
    tick.reconcile_wanted(services)
    handle_all(services)
    assert_equal(services, connected)


def test_what_a_wrong_clock_has_buried_comes_back(
    services: Services, connected: PlayedLabelStudio, clock: Clock
) -> None:
    """Deletion and creation of a task that was never known, and Label Studio's clock is behind."""
    deleted = {"action": "TASKS_DELETED", "tasks": [{"id": 14}], "project": connected.project}
    intake.handle(services, intake.receive(services, deleted))
    connected.import_tasks(1)
    intake.handle(services, intake.receive(services, connected.events[-1]))
    with services.store.reading() as tx:
        assert tasks.get(tx, 1, 14) is None
    clock.now += tick.PAUSE
    tick.reconcile_wanted(services)
    handle_all(services)
    assert_equal(services, connected)


def test_a_late_event_does_not_undo_what_the_reconciler_saw(
    services: Services, connected: PlayedLabelStudio
) -> None:
    connected.update(501, [click("crack", 30.0)])
    connected.delete_annotations(501)
    connected.annotate(13, [click("crack")])
    connected.delete_tasks(13)
    look(services, full=True)
    for body in reversed(connected.events):
        intake.handle(services, intake.receive(services, body))
    assert_equal(services, connected)


def test_a_changed_label_config_is_taken_over(
    services: Services, connected: PlayedLabelStudio
) -> None:
    changed = CONFIG.replace('"crack"', '"rust"')
    connected.configure(label_config=changed)
    look(services)
    assert projects.require(services, 1).label_config == changed
    stale = {"action": "PROJECT_UPDATED", "project": {**connected.project, "label_config": CONFIG}}
    stale["project"]["updated_at"] = NOW.isoformat()
    intake.handle(services, intake.receive(services, stale))
    assert projects.require(services, 1).label_config == changed


def test_a_deleted_project_is_said_to_be_gone_and_keeps_what_it_taught(
    services: Services, connected: PlayedLabelStudio
) -> None:
    gone = connected.project["id"]
    connected.project["id"] = None
    with pytest.raises(UnknownThing, match="no project 1 any more"):
        reconcile.reconcile(services, 1)
    tick.reconcile_all(services)
    shown = status.of_project(services, 1)
    assert (shown.gone, shown.weak_labels) == (True, 1)
    connected.project["id"] = gone
    look(services)
    assert not status.of_project(services, 1).gone


def test_a_break_in_the_middle_loses_nothing(
    services: Services, connected: PlayedLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task in (12, 13):
        connected.annotate(task, [click("crack")])
    whole = services.labelstudio.get_annotation

    def breaks(annotation: int) -> Any:
        if annotation == 503:
            raise LabelStudioDown("gone")
        return whole(annotation)

    with monkeypatch.context() as patch, pytest.raises(LabelStudioDown):
        patch.setattr(services.labelstudio, "get_annotation", breaks)
        reconcile.reconcile(services, 1)
    handle_all(services)
    assert look(services) == Found(annotations=1)
    assert connected.fetched() == [502, 503]
    assert_equal(services, connected)
