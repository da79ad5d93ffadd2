"""Intake: recorded events, in any order and any number of times, leave one truth."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from backend.errors import InvalidPayload, UnknownThing
from backend.labelstudio import rle
from backend.records import WeakLabel
from backend.steps import decide, projects, status
from backend.steps.listening import intake, learn
from backend.steps.proposing.publish import publish
from backend.store import annotations as annotation_rows
from backend.store import inbox, jobs, learning, proposals, tasks
from backend.store import projects as project_rows
from backend.wiring import Services
from tests.labelstudio import payloads
from tests.steps.conftest import CONFIG, NOW
from tests.steps.fake_label_studio import FakeLabelStudio
from tests.steps.played_label_studio import click

Body = dict[str, Any]
PROJECT = {"id": 1, "title": "bridge", "label_config": CONFIG}


def written(
    result: list[Body], *, action: str = "ANNOTATION_CREATED", id: int = 501, minute: int = 0,
    task: int = 11, **fields: Any,
) -> Body:  # fmt: skip
    at = (NOW + timedelta(minutes=minute)).isoformat()
    made = NOW.isoformat()
    annotation = {"id": id, "task": task, "project": 1, "result": result, "updated_at": at,
                  "created_at": made, "lead_time": 12.5, "was_cancelled": False,
                  **fields}  # fmt: skip
    row = {"id": task, "data": {"image": f"/data/upload/1/{task}.jpg"}, "created_at": made}
    return {"action": action, "annotation": annotation, "task": row, "project": PROJECT}


def deliver(services: Services, *bodies: Body) -> None:
    for body in bodies:
        intake.handle(services, intake.receive(services, copy.deepcopy(body)))


def labels(services: Services) -> list[WeakLabel]:
    with services.store.reading() as tx:
        return learning.weak_labels(tx, 1)


CREATED = written([click("crack")])
UPDATED = written([click("crack"), click("crack", 20.0)], action="ANNOTATION_UPDATED", minute=1)
DELETED = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 501}], "project": PROJECT}


@pytest.mark.parametrize("order", list(permutations([CREATED, UPDATED, CREATED, UPDATED])))
def test_the_newest_state_wins_in_any_order(services: Services, order: tuple[Body, ...]) -> None:
    deliver(services, *order)
    assert [label.x_px for label in labels(services)] == [12.0, pytest.approx(4.8)]


@pytest.mark.parametrize("order", list(permutations([CREATED, UPDATED, DELETED])))
def test_a_deleted_annotation_takes_its_labels_with_it_and_stays_deleted(
    services: Services, order: tuple[Body, ...]
) -> None:
    deliver(services, *order)
    assert labels(services) == []


def test_handling_an_event_twice_changes_nothing(services: Services) -> None:
    event = intake.receive(services, CREATED)
    intake.handle(services, event)
    before = labels(services)
    intake.handle(services, event)
    assert labels(services) == before
    with services.store.reading() as tx:
        assert inbox.counts(tx) == {("done", "webhook"): 1}


def test_skipped_annotations_teach_nothing(services: Services) -> None:
    deliver(services, written([click("crack")], was_cancelled=True))
    assert labels(services) == []
    with services.store.reading() as tx:
        assert 11 in {task.id for task in tasks.open(tx, 1)}


def test_nothing_here_denies_every_class(services: Services) -> None:
    deliver(services, written([click("nothing here")]))
    assert [(x.class_name, x.positive, x.source) for x in labels(services)] == [
        ("crack", False, "click")
    ]


@pytest.mark.parametrize(
    ("edit", "outcome"),
    [
        (lambda regions: regions, "accepted"),
        (lambda regions: [], "rejected"),
        (lambda regions: [painted(regions[0])], "modified"),
    ],
)
def test_proposals_become_outcomes(
    services: Services,
    server: FakeLabelStudio,
    champion: Callable[[int], None],
    edit: Callable[[list[Body]], list[Body]],
    outcome: str,
) -> None:
    champion(1)
    for _ in range(2):
        publish(services, 1)
    shown = server.shown()[11][0]["result"]
    deliver(services, written(edit(copy.deepcopy(shown))))
    with services.store.reading() as tx:
        (interaction,) = learning.interactions(tx, 1)
    assert (interaction.outcome, interaction.version) == (outcome, 1)
    assert interaction.edit_seconds == 12.5


def painted(region: Body) -> Body:
    mask = rle.decode_mask(region["value"]["rle"], 16, 24)
    mask[10:14, 10:20] = True
    return {**region, "value": {**region["value"], "rle": rle.encode(mask)}}


def test_the_version_is_known_by_region_ids_after_label_studio_forgot_it(
    services: Services, server: FakeLabelStudio, champion: Callable[[int], None]
) -> None:
    champion(1)
    for _ in range(2):
        publish(services, 1)
    old = copy.deepcopy(server.shown()[11][0]["result"])
    champion(2)
    for _ in range(2):
        publish(services, 1)
    deliver(services, written(old))
    with services.store.reading() as tx:
        (interaction,) = learning.interactions(tx, 1)
        assert proposals.of_task(tx, 1, 11, 1)[0].region_id == old[0]["id"]
    assert (interaction.outcome, interaction.version) == ("accepted", 1)


def test_a_malformed_event_is_kept_with_its_reason_and_stops_nobody(services: Services) -> None:
    broken = written([click("crack")])
    broken["annotation"]["result"] = "nonsense"
    deliver(services, broken, CREATED)
    assert len(labels(services)) == 1
    with services.store.reading() as tx:
        (waiting,) = inbox.pending(tx)
    assert "annotation.result" in str(waiting.error)


@pytest.mark.parametrize(
    "name", [path.stem for path in sorted(payloads.FOLDER.glob("*.json"))]
)  # fmt: skip
def test_recorded_events_of_unknown_projects_are_taken_in_without_harm(
    services: Services, name: str
) -> None:
    body = payloads.load(name)
    if "action" not in body:
        return
    deliver(services, body, body)
    with services.store.reading() as tx:
        assert not inbox.pending(tx)


def test_start_training_is_remembered_until_there_is_something_to_train(
    services: Services,
) -> None:
    deliver(services, {"action": "START_TRAINING", "project": PROJECT})
    decision, _ = decide.training_decision(services, 1)
    assert not decision.train
    assert "nothing to train" in decision.reason
    deliver(services, written([click("crack"), click("nothing here", 10.0)]))
    played: Any = services.queues
    assert [name for name, _ in played.enqueued].count("train") == 1
    with services.store.reading() as tx:
        assert [job.state for job in jobs.running(tx, 1, "train")] == ["queued"]


def test_a_reused_task_id_does_not_inherit_anything(services: Services) -> None:
    deliver(services, CREATED)
    row = {"id": 11, "data": {"image": "/data/upload/1/other.jpg"}}
    later = {**row, "created_at": (NOW + timedelta(hours=1)).isoformat()}
    deliver(services, {"action": "TASKS_CREATED", "tasks": [later], "project": PROJECT})
    assert labels(services) == []
    with services.store.reading() as tx:
        assert 501 not in {a.id for a in annotation_rows.live(tx, 1)}


def test_a_config_that_cannot_be_served_waits_visibly(services: Services) -> None:
    body = {"action": "PROJECT_UPDATED", "project": {**PROJECT, "label_config": "<View/>"}}
    deliver(services, body)
    with services.store.reading() as tx:
        (waiting,) = inbox.pending(tx)
        known = project_rows.get(tx, 1)
    assert "BrushLabels" in str(waiting.error)
    assert known is not None
    assert known.label_config == CONFIG
    assert projects.require(services, 1).title == "bridge"


TASK_DELETED = {"action": "TASKS_DELETED", "tasks": [{"id": 11}], "project": PROJECT}
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def an_hour_later(services: Services) -> Services:
    """What webhooks say is received long after it happened."""
    return replace(services, clock=lambda: LATER)


@pytest.mark.parametrize(
    "order", list(permutations([CREATED, UPDATED, TASK_DELETED, TASK_DELETED]))
)
def test_a_deleted_task_takes_all_with_it_and_no_late_event_brings_it_back(
    an_hour_later: Services, order: tuple[Body, ...]
) -> None:
    deliver(an_hour_later, *order)
    assert labels(an_hour_later) == []
    with an_hour_later.store.reading() as tx:
        assert tasks.get(tx, 1, 11) is None
        assert annotation_rows.live(tx, 1) == []


@pytest.mark.parametrize("order", list(permutations([CREATED, DELETED, UPDATED])))
def test_an_event_that_comes_before_its_task_brings_it_along(
    an_hour_later: Services, order: tuple[Body, ...]
) -> None:
    unknown = [written([click("crack")], task=77, id=601), *order]
    deliver(an_hour_later, *unknown)
    with an_hour_later.store.reading() as tx:
        assert tasks.get(tx, 1, 77) is not None
        assert [a.id for a in annotation_rows.live(tx, 1)] == [601]


def test_a_repeated_request_that_named_another_annotation_first_has_one_effect(
    services: Services,
) -> None:
    """Label Studio repeats whole requests: the first try's id may be given to another one."""
    phantom = written([click("crack", 5.0)], task=12, created_at=NOW.isoformat())
    real = written([click("crack", 90.0)], task=11, minute=1, created_at=LATER.isoformat())
    real["annotation"]["updated_at"] = LATER.isoformat()
    for order in ([phantom, real], [real, phantom], [phantom, real, phantom]):
        deliver(services, *order)
        assert [(label.task, label.x_px) for label in labels(services)] == [(11, 21.6)]


def configured(config: str, minute: int, action: str = "PROJECT_UPDATED") -> Body:
    at = (NOW + timedelta(minutes=minute)).isoformat()
    return {"action": action, "project": {**PROJECT, "label_config": config, "updated_at": at}}


RUST, SPALLING = (CONFIG.replace('"crack"', f'"{name}"') for name in ("rust", "spalling"))


@pytest.mark.parametrize(
    "order",
    list(permutations([configured(CONFIG, 1), configured(RUST, 2), configured(SPALLING, 3)])),
)
def test_the_newest_label_config_wins_in_any_order(
    services: Services, order: tuple[Body, ...]
) -> None:
    deliver(services, *order)
    assert projects.require(services, 1).label_config == SPALLING


def test_an_annotation_is_read_by_the_config_that_it_was_made_with(services: Services) -> None:
    deliver(services, configured(RUST, 3), written([click("crack")]))
    assert [label.class_name for label in labels(services)] == ["crack"]
    assert projects.require(services, 1).label_config == RUST


def review(accepted: bool, minute: int) -> Body:
    at = (NOW + timedelta(minutes=minute)).isoformat()
    row = {"id": 40 + minute, "annotation": 501, "accepted": accepted, "created_at": at}
    return {"action": "REVIEW_CREATED", "review": row, "project": PROJECT}


@pytest.mark.parametrize("order", list(permutations([CREATED, review(False, 1), review(True, 2)])))
def test_the_newest_review_stays_with_the_annotation(
    services: Services, order: tuple[Body, ...]
) -> None:
    deliver(services, *order)
    with services.store.reading() as tx:
        (annotation,) = annotation_rows.live(tx, 1)
    assert annotation.review == "accepted"
    deliver(services, {"action": "REVIEWS_DELETED", "reviews": [{"id": 42}], "project": PROJECT})
    with services.store.reading() as tx:
        assert [a.review for a in annotation_rows.live(tx, 1)] == [None]


def test_a_deleted_project_is_noted_and_nothing_is_due_any_more(services: Services) -> None:
    deliver(services, written([click("crack"), click("nothing here", 10.0)]))
    deliver(services, {"action": "PROJECT_DELETED", "project": {"id": 1}})
    shown = status.of_project(services, 1)
    assert (shown.gone, shown.weak_labels) == (True, 2)
    played: Any = services.queues
    played.enqueued.clear()
    deliver(services, {"action": "START_TRAINING", "project": PROJECT})
    assert "train" not in [name for name, _ in played.enqueued]


@pytest.mark.parametrize("action", ["LABEL_LINK_CREATED", "PROJECT_CREATED", "BRAND_NEW"])
def test_events_that_are_not_used_are_done_and_change_nothing(
    services: Services, action: str
) -> None:
    deliver(services, {"action": action, "project": {"id": 99, "label_config": CONFIG}})
    with services.store.reading() as tx:
        assert inbox.counts(tx) == {("done", "webhook"): 1}
        assert [project.id for project in project_rows.all(tx)] == [1]


def test_the_sdks_name_of_a_deletion_deletes(services: Services) -> None:
    deliver(services, CREATED, {**DELETED, "action": "ANNOTATION_DELETED"})
    assert labels(services) == []


def test_an_event_that_kills_every_worker_is_given_up_and_can_be_tried_again(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = intake.receive(services, CREATED)
    with monkeypatch.context() as patch:
        patch.setattr(learn, "from_annotation", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        for _ in range(inbox.MAX_ATTEMPTS):
            child = os.fork()
            if child == 0:
                intake.handle(services, event)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    intake.handle(services, event)
    assert labels(services) == []
    (dead,) = status.events_of(services, "dead")
    assert (dead.id, dead.project) == (event, 1)
    assert "no worker survived 5 attempts" in str(dead.error)
    assert (status.of_project(services, 1).given_up, dead.payload) == (1, {})
    intake.retry(services, event)
    intake.handle(services, event)
    assert len(labels(services)) == 1
    for number, why in ((event, "is done"), (10**6, "is unknown")):
        with pytest.raises(UnknownThing, match=why):
            intake.retry(services, number)


def test_a_failure_of_ours_is_raised_for_the_queue_and_noted(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    event = intake.receive(services, CREATED)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(learn, "from_annotation", fails)
        intake.handle(services, event)
    (waiting,) = status.events_of(services, "pending")
    assert (waiting.error, waiting.attempts) == ("ZeroDivisionError: a bug", 1)
    with pytest.raises(InvalidPayload, match="state is 'lost'; expected one of pending, dead"):
        status.events_of(services, "lost")


def test_of_a_burst_the_last_event_looks_at_what_is_due(services: Services) -> None:
    events = [intake.receive(services, CREATED) for _ in range(3)]
    looked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decide, "next_steps", lambda _, project: looked.append(project))
        for number, event in enumerate(events, 1):
            intake.handle(services, event)
            assert looked == ([1] if number == 3 else [])
