"""Intake: recorded events, in any order and any number of times, leave one truth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from backend.errors import InvalidPayload
from backend.labelstudio import rle
from backend.records import WeakLabel
from backend.steps import decide, intake, projects
from backend.steps.publish import publish
from backend.store import annotations as annotation_rows
from backend.store import inbox, jobs, learning, proposals, tasks
from backend.store import projects as project_rows
from backend.wiring import Services
from tests.labelstudio import payloads
from tests.steps.conftest import CONFIG, NOW
from tests.steps.fake_label_studio import FakeLabelStudio

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


def click(label: str, x: float = 50.0, y: float = 50.0) -> Body:
    value = {"x": x, "y": y, "width": 0.2, "keypointlabels": [label]}
    return {"id": f"c-{label}-{x}", "type": "keypointlabels", "from_name": "point",
            "to_name": "image", "original_width": 24, "original_height": 16,
            "image_rotation": 0, "value": value, "origin": "manual"}  # fmt: skip


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


def test_something_without_an_action_is_refused(services: Services) -> None:
    with pytest.raises(InvalidPayload, match="action"):
        intake.receive(services, {"hello": 1})


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
