import json
from datetime import datetime, timezone

import pytest

from backend.errors import InvalidPayload
from backend.labelstudio import events
from tests.labelstudio import payloads


def load(name, **changes):
    return {**payloads.load(name), **changes}


def test_a_created_annotation_with_its_task_and_project():
    found = events.parse(load("annotation_created_region_deleted"))
    assert isinstance(found, events.AnnotationsWritten)
    assert (found.project.id, found.project.title) == (3, "UI project")
    assert found.project.label_config.startswith("<View>")
    (annotation,), (task,) = found.annotations, found.tasks
    assert (annotation.id, annotation.project, annotation.task) == (138, 3, 1012)
    assert annotation.updated_at == datetime(2026, 11, 21, 0, 42, 51, 860552, timezone.utc)
    assert (annotation.lead_time_s, annotation.annotator) == (7.562, 1)
    assert not (annotation.bulk or annotation.was_cancelled or annotation.deleted)
    assert [item["id"] for item in annotation.result][:2] == ["prop1a", "prop1a"]
    assert (task.id, task.image) == (1012, "/data/local-files/?d=images/c001.jpg")
    assert task.created_at == datetime(2026, 11, 21, 0, 40, 18, 786449, timezone.utc)


def test_an_update_and_a_skip():
    found = events.parse(load("annotation_updated"))
    assert isinstance(found, events.AnnotationsWritten)
    assert found.annotations[0].lead_time_s == 19.294
    skipped = events.parse(load("annotation_created_skipped"))
    assert skipped.annotations[0].was_cancelled
    assert skipped.annotations[0].result  # the proposals, which nobody accepted


def test_annotations_made_from_predictions_in_bulk():
    found = events.parse(load("annotations_created_bulk"))
    assert isinstance(found, events.AnnotationsWritten)
    (annotation,), (task,) = found.annotations, found.tasks
    assert annotation.bulk and annotation.lead_time_s is None
    assert (annotation.id, annotation.task, task.id) == (7, 3, 3)


def test_deletions_carry_ids_only():
    found = events.parse(load("annotations_deleted"))
    assert isinstance(found, events.AnnotationsDeleted)
    assert (found.project.id, found.ids) == (1, (6,))
    found = events.parse(load("tasks_deleted"))
    assert isinstance(found, events.TasksDeleted)
    assert found.ids == tuple(t["id"] for t in load("tasks_deleted")["tasks"])


def test_new_tasks():
    found = events.parse(load("tasks_created"))
    assert isinstance(found, events.TasksCreated)
    assert [(t.id, t.project, t.image) for t in found.tasks] == [
        (18, 1, "/data/local-files/?d=images/c011.jpg")
    ]


def test_project_events():
    updated, start = events.parse(load("project_updated")), events.parse(load("start_training"))
    assert isinstance(updated, events.ProjectUpdated) and "<View>" in updated.project.label_config
    assert isinstance(start, events.StartTraining) and start.project.id == 1
    bare = events.parse({"action": "START_TRAINING", "project": {"id": 4}})
    assert bare == events.StartTraining(events.ProjectState(4, "", "", None))
    dated = {"id": 4, "updated_at": "2026-11-21T00:32:20.762912Z"}
    deleted = events.parse({"action": "PROJECT_DELETED", "project": dated})
    assert isinstance(deleted, events.ProjectDeleted)
    assert deleted.project.changed_at == datetime(2026, 11, 21, 0, 32, 20, 762912, timezone.utc)


def test_events_without_payload_and_unknown_ones():
    assert events.parse(load("send_payload_false")) == events.WithoutPayload("ANNOTATION_CREATED")
    assert events.parse({"action": "PROJECT_UPDATED"}) == events.WithoutPayload("PROJECT_UPDATED")
    of_project = events.parse({"action": "TASKS_CREATED", "project": {"id": 5}})
    assert of_project == events.WithoutPayload("TASKS_CREATED", 5)
    later = events.parse({"action": "NEW_THING", "project": {"id": 5}, "x": 1})
    assert later == events.Unknown("NEW_THING", 5)


@pytest.mark.parametrize("what", ["CREATED", "UPDATED", "DELETED"])
def test_linked_labels_and_new_projects_change_nothing(what):
    action = f"LABEL_LINK_{what}"
    body = {"action": action, "label_link": {"id": 3}, "project": {"id": 5}}
    assert events.parse(body) == events.Unused(action, 5)
    created = {"action": "PROJECT_CREATED", "project": {"id": 6, "label_config": "<View/>"}}
    assert events.parse(created) == events.Unused("PROJECT_CREATED", 6)


@pytest.mark.parametrize(
    ("other", "name", "changes"),
    [
        ("ANNOTATION_DELETED", "annotations_deleted", {}),
        ("ANNOTATION_DELETED", "annotations_deleted", {"annotations": "annotation"}),
        ("TASK_CREATED", "tasks_created", {}),
        ("TASK_CREATED", "tasks_created", {"tasks": "task"}),
        ("TASK_DELETED", "tasks_deleted", {"tasks": "task"}),
    ],
)
def test_the_names_of_the_sdk_and_the_documents_mean_the_same(other, name, changes):
    body = load(name)
    renamed = {changes.get(key, key): value for key, value in body.items()}
    assert events.parse({**renamed, "action": other}) == events.parse(body)


REVIEW = {"id": 9, "annotation": 138, "accepted": False, "created_by": 2,
          "created_at": "2026-11-21T01:00:00Z", "started_at": "2026-11-21T00:59:00Z"}  # fmt: skip


def reviewed(**review):
    """As the published API of the Enterprise edition writes reviews."""
    return {"action": "REVIEW_CREATED", "review": {**REVIEW, **review}, "project": {"id": 3}}


@pytest.mark.parametrize(
    ("accepted", "verdict"), [(True, "accepted"), (False, "rejected"), (None, None)]
)
def test_a_review_names_its_annotation_and_verdict(accepted, verdict):
    found = events.parse(reviewed(accepted=accepted))
    at = datetime(2026, 11, 21, 1, tzinfo=timezone.utc)
    assert found.reviews == (events.Review(9, 138, verdict, at),)
    again = events.parse({**reviewed(accepted=accepted), "action": "REVIEW_UPDATED"})
    assert again == found


def test_reviews_are_read_tolerantly():
    whole = {"id": 138, "result": [], "reviews": [REVIEW]}
    (found,) = events.parse(reviewed(annotation=whole)).reviews
    assert found.annotation == 138
    beside = reviewed()
    beside["annotation"] = {"id": 138}
    del beside["review"]["annotation"], beside["review"]["id"]
    assert events.parse(beside).reviews[0].annotation == 138
    assert events.reviews(whole) == (found,)
    assert events.reviews({"id": 138}) == ()
    gone = events.parse({"action": "REVIEWS_DELETED", "reviews": [{"id": 9}], "project": {"id": 3}})
    assert isinstance(gone, events.ReviewsDeleted) and gone.ids == (9,)


def test_an_annotation_event_without_its_task_is_still_one():
    body = load("annotation_updated")
    del body["task"]  # as Label Studio's documentation has it
    found = events.parse(body)
    assert found.tasks == () and found.annotations[0].task == 1018


KINDS = {
    "ANNOTATION_CREATED": events.AnnotationsWritten,
    "ANNOTATION_UPDATED": events.AnnotationsWritten,
    "ANNOTATIONS_CREATED": events.AnnotationsWritten,
    "ANNOTATIONS_DELETED": events.AnnotationsDeleted,
    "TASKS_CREATED": events.TasksCreated,
    "TASKS_DELETED": events.TasksDeleted,
    "PROJECT_UPDATED": events.ProjectUpdated,
    "START_TRAINING": events.StartTraining,
}


RECORDED = sorted((payloads.FOLDER / "webhooks").glob("*.json"))  # long RLE is cut off in them


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_every_recorded_event_is_read_as_what_it_is(path):
    name, body = path.stem, json.loads(path.read_text())
    found = events.parse(body)
    if "send_payload_false" in name:
        assert found == events.WithoutPayload(body["action"])
        return
    assert isinstance(found, KINDS[body["action"]])
    assert (found.project.id, found.project.title) == (
        body["project"]["id"],
        body["project"]["title"],
    )
    for field, kind in (("annotation", "annotations"), ("task", "tasks"), ("tasks", "tasks")):
        sent = body.get(field, [])
        rows = sent if isinstance(sent, list) else [sent]
        if rows and hasattr(found, kind):
            assert [one.id for one in getattr(found, kind)] == [row["id"] for row in rows]
    for annotation in getattr(found, "annotations", ()):
        assert annotation.was_cancelled == ("skip" in name or "task1014" in name)
        assert annotation.bulk == (body["action"] == "ANNOTATIONS_CREATED")
    for task in getattr(found, "tasks", ()):
        assert task.image.startswith(("/data/", "http://")) and task.created_at is not None
    if "DELETED" in body["action"]:
        assert found.ids == tuple(r["id"] for r in body.get("annotations") or body["tasks"])


def test_an_upload_is_found_under_its_other_key():
    body = load("tasks_created")
    body["tasks"][0]["data"] = {"$undefined$": "/data/upload/1/ab-x.jpg"}
    assert events.parse(body).tasks[0].image == "/data/upload/1/ab-x.jpg"


def test_one_task_without_an_image_does_not_cost_the_others_their_event():
    body = load("tasks_created")
    good = body["tasks"][0]
    body["tasks"] = [{**good, "id": 19, "data": {"text": "x"}}, good]
    first, second = events.parse(body).tasks
    assert (first.image, second.image) == ("", good["data"]["image"])
    assert "task 19 has no image: data.image is None; its data has text" in first.problem
    assert second.problem is None


def test_a_config_that_cannot_be_served_still_lets_the_event_be_read():
    body = load("tasks_created")
    body["project"]["label_config"] = "<View><Text/></View>"
    body["tasks"][0]["data"] = {"$undefined$": "/data/upload/1/ab-x.jpg"}
    assert events.parse(body).tasks[0].image == "/data/upload/1/ab-x.jpg"


def test_relations_that_the_api_writes_as_objects():
    payload = load("annotation_updated")["annotation"]
    found = events.annotation({**payload, "completed_by": {"id": 9, "email": "a@b"}})
    assert found.annotator == 9
    assert events.annotation({**payload, "completed_by": None}).annotator is None


def spoilt(name, path, value):
    body = load(name)
    *parents, last = path
    target = body
    for key in parents:
        target = target[key]
    target[last] = value
    return body


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "action is None"),
        ({"action": 5}, "action is 5"),
        ({"action": "START_TRAINING", "x": 1}, "project is None; expected an object"),
        (spoilt("annotation_updated", ["project", "id"], "3"), "project.id is '3'"),
        (spoilt("annotation_updated", ["project", "label_config"], 3), "project.label_config"),
        (spoilt("annotation_updated", ["annotation"], None), "annotation is None"),
        (spoilt("annotation_updated", ["annotation", "id"], True), "annotation.id is True"),
        (spoilt("annotation_updated", ["annotation", "task"], None), "annotation.task is None"),
        (spoilt("annotation_updated", ["annotation", "result"], {}), "annotation.result"),
        (spoilt("annotation_updated", ["annotation", "result"], [1]), "annotation.result"),
        (spoilt("annotation_updated", ["annotation", "updated_at"], "now"), "ISO 8601"),
        (spoilt("annotation_updated", ["annotation", "updated_at"], None), "updated_at is None"),
        (spoilt("annotation_updated", ["annotation", "lead_time"], "7"), "annotation.lead_time"),
        (spoilt("annotation_updated", ["task"], []), None),
        (spoilt("annotation_updated", ["task", "id"], None), "task.id is None"),
        (spoilt("annotations_deleted", ["annotations"], [{"id": "a"}]), r"annotations\[0\].id"),
        (spoilt("annotations_deleted", ["annotations"], None), "annotations is None"),
        (spoilt("tasks_created", ["tasks"], ["x"]), r"tasks\[0\] is 'x'"),
        (spoilt("tasks_deleted", ["tasks"], [{}]), r"tasks\[0\].id is None"),
        (reviewed(accepted="yes"), "review.accepted is 'yes'; expected true, false or null"),
        (reviewed(annotation=None), "review.annotation is None"),
        (reviewed(created_at=None, started_at=None), "review.created_at is None"),
    ],
)
def test_malformed_events_name_the_field(body, says):
    if says is None:
        assert events.parse(body).tasks == ()
        return
    with pytest.raises(InvalidPayload, match=says):
        events.parse(body)


def test_a_task_without_an_image_is_refused_by_itself():
    with pytest.raises(InvalidPayload, match="task 3 has no image: data.image is 7"):
        events.task({"id": 3, "data": {"image": 7}}, project=1, data_key="image")
    with pytest.raises(InvalidPayload, match="task.data is None"):
        events.task({"id": 3}, project=1, data_key="image")
