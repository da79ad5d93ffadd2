"""Compare the store with Label Studio's own inventory; feed what never arrived to the inbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from backend.labelstudio.client import TaskInventory
from backend.steps import intake
from backend.store import annotations as annotation_rows
from backend.store import projects, tasks
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
    new_tasks = [row for row in inventory if row.id not in known_tasks]
    changed = list(_changed(inventory, known, owners))
    gone = sorted(owners.keys() - {a for row in inventory for a in row.annotation_ids})
    lost = sorted(known_tasks.keys() - {row.id for row in inventory})
    _feed(services, "TASKS_CREATED", project, "tasks", [row.payload for row in new_tasks])
    for row, annotation_id in changed:
        annotation = services.labelstudio.get_annotation(annotation_id)
        body = {"annotation": annotation, "task": row.payload, "project": project}
        intake.receive(services, {"action": "ANNOTATION_UPDATED", **body}, "reconciler")
    _feed(services, "ANNOTATIONS_DELETED", project, "annotations", [{"id": a} for a in gone])
    _feed(services, "TASKS_DELETED", project, "tasks", [{"id": task} for task in lost])
    return Found(len(new_tasks), len(changed), len(gone) + len(lost))


def _changed(
    inventory: Iterable[TaskInventory], known: Mapping[int, datetime], owners: Mapping[int, int]
) -> Iterable[tuple[TaskInventory, int]]:
    """Yield annotations that we never saw, and those of tasks touched after we last heard."""
    for row in inventory:
        for annotation_id in row.annotation_ids:
            seen = known.get(annotation_id)
            moved = owners.get(annotation_id) != row.id
            if seen is None or moved or _touched_after(row, seen):
                yield row, annotation_id


def _touched_after(row: TaskInventory, seen: datetime) -> bool:
    return row.updated_at is not None and row.updated_at > seen + SLACK


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
