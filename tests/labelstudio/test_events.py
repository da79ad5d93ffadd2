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
    assert (found.project, found.title) == (3, "UI project")
    assert found.label_config.startswith("<View>")
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
    assert (found.project, found.ids) == (1, (6,))
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
    assert isinstance(updated, events.ProjectUpdated) and "<View>" in updated.label_config
    assert isinstance(start, events.StartTraining) and start.project == 1
    bare = events.parse({"action": "START_TRAINING", "project": {"id": 4}})
    assert bare == events.StartTraining(4, "", "")


def test_events_without_payload_and_unknown_ones():
    assert events.parse(load("send_payload_false")) == events.WithoutPayload("ANNOTATION_CREATED")
    assert events.parse({"action": "LABEL_LINK_CREATED"}) == events.Unknown("LABEL_LINK_CREATED")
    later = events.parse({"action": "NEW_THING", "project": {"id": 5}, "x": 1})
    assert later == events.Unknown("NEW_THING", 5)


def test_every_kind_with_a_config_is_listed():
    for name in ("annotation_updated", "annotations_deleted", "tasks_created", "start_training"):
        assert isinstance(events.parse(load(name)), events.WITH_CONFIG)
    assert not isinstance(events.parse(load("send_payload_false")), events.WITH_CONFIG)


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
