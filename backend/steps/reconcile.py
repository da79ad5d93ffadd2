"""Compare the store with Label Studio's own inventory; feed what never arrived to the inbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from backend.errors import LabelStudioError
from backend.labelstudio import events
from backend.labelstudio.client import LabelStudio, TaskInventory
from backend.steps import intake
from backend.steps.projects import want_order
from backend.store import annotations as annotation_rows
from backend.store import projects, publishing, tasks
from backend.wiring import Services

SLACK = timedelta(seconds=2)  # Label Studio writes the task's time just after the annotation's


@dataclass(frozen=True)
class Found:
    """How many events had to be made up because their webhooks never arrived."""

    tasks: int = 0
    annotations: int = 0
    deletions: int = 0


def reconcile(services: Services, project_id: int) -> Found:
    """Fetch only what differs; never an endpoint that makes Label Studio call us back.

    Raises LabelStudioError when Label Studio is down.
    """
    with services.store.reading() as tx:  # before asking: what comes meanwhile is not "gone"
        if projects.get(tx, project_id) is None:
            return Found()
        known_tasks = {task.id: task for task in tasks.all(tx, project_id)}
        known = annotation_rows.inventory(tx, project_id)
        owners = {a.id: a.task for a in annotation_rows.live(tx, project_id)}
    payload = services.labelstudio.get_project(project_id)
    inventory = services.labelstudio.inventory(project_id)
    project = {key: payload.get(key) for key in intake.PROJECT_FIELDS}
    new_tasks = [row.payload for row in inventory if row.id not in known_tasks]
    changed = list(_changed(services.labelstudio, inventory, known))
    gone = owners.keys() - {a for row in inventory for a in row.annotation_ids}
    gone = {annotation for annotation in gone if _is_gone(services.labelstudio, annotation)}
    lost = known_tasks.keys() - {row.id for row in inventory}
    if lost:  # a task that is deleted while pages are read shifts another one out of sight
        lost -= {row.id for row in services.labelstudio.inventory(project_id)}
    _undouble(services, project_id)
    _feed(services, "TASKS_CREATED", project, "tasks", new_tasks)
    for body in changed:
        intake.receive(services, {**body, "project": project}, "reconciler")
    _feed(services, "ANNOTATIONS_DELETED", project, "annotations", [{"id": a} for a in gone])
    _feed(services, "TASKS_DELETED", project, "tasks", [{"id": task} for task in lost])
    return Found(len(new_tasks), len(changed), len(gone) + len(lost))


def _undouble(services: Services, project_id: int) -> None:
    """Publish under a new name when Label Studio holds more predictions than we gave it.

    It stores what it was answered on opening a task, also when the same was pushed meanwhile.
    """
    counts = services.labelstudio.model_versions(project_id)
    with services.store.transaction() as tx:
        project = projects.get(tx, project_id)
        if project is None or project.published is None or project.pushing:
            return
        given = publishing.of(tx, project_id, project.published)
        if counts.get(project.published, 0) > len(given):
            want_order(tx, project_id)


def _changed(
    client: LabelStudio, inventory: Iterable[TaskInventory], known: Mapping[int, datetime]
) -> Iterable[dict[str, Any]]:
    """Yield events of annotations that we never saw, or not in their newest state.

    Only tasks that were touched after the newest state we know of are asked about.
    """
    for row in inventory:
        heard = max((known[a] for a in row.annotation_ids if a in known), default=None)
        touched = heard is None or (row.updated_at is not None and row.updated_at > heard + SLACK)
        for annotation_id in row.annotation_ids:
            if annotation_id in known and not touched:
                continue
            annotation = client.get_annotation(annotation_id)
            if events.annotation(annotation).updated_at != known.get(annotation_id):
                yield {
                    "action": "ANNOTATION_UPDATED",
                    "annotation": annotation,
                    "task": dict(row.payload),
                }


def _is_gone(client: LabelStudio, annotation_id: int) -> bool:
    try:
        client.get_annotation(annotation_id)
    except LabelStudioError as error:
        if error.status == 404:
            return True
        raise
    return False


def _feed(
    services: Services,
    action: str,
    project: Mapping[str, Any],
    field: str,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    if rows:
        body = {"action": action, "project": dict(project), field: [dict(row) for row in rows]}
        intake.receive(services, body, "reconciler")
