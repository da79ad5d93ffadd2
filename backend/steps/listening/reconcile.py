"""Compare the store with Label Studio's own inventory; feed what never arrived to the inbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from backend.errors import LabelclimbError, LabelStudioError, UnknownThing
from backend.labelstudio import events, fields
from backend.labelstudio.client import LabelStudio
from backend.labelstudio.inventory import TaskInventory
from backend.records import Project, Task
from backend.steps.listening import intake
from backend.steps.projects import want_order
from backend.store import annotations as annotation_rows
from backend.store import jobs, projects, publishing, reconciling, tasks
from backend.store.reconciling import Reconciliation
from backend.wiring import Services

FULL_EVERY = timedelta(hours=1)
OVERLAP = timedelta(minutes=1)  # a request that began earlier may commit its time later
TASKS_PER_EVENT = 500

JsonObject = dict[str, Any]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Found:
    """How many events had to be made up because their webhooks never arrived."""

    tasks: int = 0
    annotations: int = 0
    deletions: int = 0

    @property
    def total(self) -> int:
        """Return the number of all of them."""
        return self.tasks + self.annotations + self.deletions


@dataclass(frozen=True)
class _Known:
    """What the store knew before Label Studio was asked: what comes meanwhile is not "gone".

    annotations: {id: updated_at}; of_task: {task: ids of its annotations}; compared: {task: its
    `updated_at` in Label Studio when its annotations were last compared}.
    """

    project: Project
    state: Reconciliation
    tasks: Mapping[int, Task]
    annotations: Mapping[int, datetime]
    of_task: Mapping[int, frozenset[int]]
    compared: Mapping[int, datetime]
    asked_at: datetime


def reconcile(services: Services, project_id: int, *, full: bool = False) -> Found:
    """Fetch only what differs; never from an endpoint that makes Label Studio call us back.

    Usually only tasks that changed since the last comparison are listed, and all of them where
    their number does not fit, every FULL_EVERY, and on request. Raises LabelStudioError when Label
    Studio is down and UnknownThing when it has no such project; what was found until then is kept.
    """
    known = _read(services, project_id)
    if known is None:
        return Found()
    with services.store.transaction() as tx:
        reconciling.note(tx, project_id, tried_at=known.asked_at)
    try:
        return _reconcile(services, known, full)
    except LabelclimbError as error:
        with services.store.transaction() as tx:
            reconciling.note(tx, project_id, error=str(error))
        raise


def _read(services: Services, project_id: int) -> _Known | None:
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
        if project is None:
            return None
        of_task: dict[int, set[int]] = {}
        for annotation, task in annotation_rows.owners(tx, project_id).items():
            of_task.setdefault(task, set()).add(annotation)
        return _Known(
            project=project,
            state=reconciling.get(tx, project_id),
            tasks={task.id: task for task in tasks.all(tx, project_id)},
            annotations=annotation_rows.inventory(tx, project_id),
            of_task={task: frozenset(ids) for task, ids in of_task.items()},
            compared=reconciling.compared(tx, project_id),
            asked_at=services.clock(),
        )


def _reconcile(services: Services, known: _Known, full: bool) -> Found:
    payload = _project(services, known)
    full = full or _is_full_due(known)
    rows = _changed_rows(services.labelstudio, known) if not full else []
    if not full and len(known.tasks.keys() | {r.id for r in rows}) != payload.get("task_number"):
        full = True  # tasks were deleted, or came without our noticing
    if full:
        rows = services.labelstudio.inventory(known.project.id)
    feed = _Feed(services, known, {key: payload.get(key) for key in intake.PROJECT_FIELDS})
    if payload.get("label_config") not in (None, known.project.label_config):
        feed.put("PROJECT_UPDATED", {})
    new = [r for r in rows if _is_new(r, known) and (full or _is_touched(r, known))]
    feed.put_rows("TASKS_CREATED", "tasks", [dict(row.payload) for row in new])
    annotations = deletions = 0
    for row in rows:
        changed, gone = _compare(feed, row, known, full)
        annotations, deletions = annotations + changed, deletions + gone
    lost = _lost(services.labelstudio, known, rows) if full else []
    feed.put_rows("TASKS_DELETED", "tasks", [_identity(known.tasks[id]) for id in lost])
    _undouble(services, known.project.id)
    found = Found(len(new), annotations, deletions + len(lost))
    _note_done(services, known, found, lost, full)
    return found


def _project(services: Services, known: _Known) -> JsonObject:
    """Return the project as it is in Label Studio; one that is gone is noted as gone."""
    project_id = known.project.id
    try:
        payload = services.labelstudio.get_project(project_id)
    except LabelStudioError as error:
        if error.status != 404:
            raise
        with services.store.transaction() as tx:
            reconciling.note(tx, project_id, gone_at=known.state.gone_at or known.asked_at)
            jobs.cancel_all(tx, project_id, intake.GONE, known.asked_at)
        raise UnknownThing(
            f"Label Studio has no project {project_id} any more, or does not show it to the owner "
            "of LABEL_STUDIO_API_KEY; what was learned is kept"
        ) from error
    if payload.get("evaluate_predictions_automatically"):
        # with it, Label Studio calls /predict for whoever lists tasks; we push predictions anyway
        services.labelstudio.patch_project(project_id, evaluate_predictions_automatically=False)
        log.warning("evaluate_predictions_automatically was switched off", project=project_id)
    return payload


def _is_full_due(known: _Known) -> bool:
    last = known.state.full_at
    return last is None or not known.compared or known.asked_at - last >= FULL_EVERY


def _changed_rows(client: LabelStudio, known: _Known) -> list[TaskInventory]:
    """Return tasks that changed since the newest one that was compared, by Label Studio's clock."""
    newest = max(known.compared.values())
    return client.inventory(known.project.id, updated_after=newest - OVERLAP)


def _is_new(row: TaskInventory, known: _Known) -> bool:
    """Say whether we do not know this task; one of the same id may be a former one."""
    task = known.tasks.get(row.id)
    created_at = fields.optional_moment(row.payload.get("created_at"), "task.created_at")
    return task is None or (created_at is not None and created_at != task.created_at)


def _is_touched(row: TaskInventory, known: _Known) -> bool:
    return row.updated_at is None or row.updated_at != known.compared.get(row.id)


@dataclass(frozen=True)
class _Feed:
    """Puts what was found into the inbox, through the door that webhooks use."""

    services: Services
    known: _Known
    project: Mapping[str, Any]

    def put(self, action: str, about: JsonObject, seen_at: datetime | None = None) -> None:
        """Put one event; seen_at: when Label Studio was asked for it."""
        moment = (seen_at or self.known.asked_at).isoformat()
        body = {"action": action, "project": dict(self.project), "seen_at": moment, **about}
        intake.receive(self.services, body, "reconciler")

    def put_rows(self, action: str, field: str, rows: Sequence[JsonObject]) -> None:
        """Put objects, some hundred to an event."""
        for start in range(0, len(rows), TASKS_PER_EVENT):
            self.put(action, {field: rows[start : start + TASKS_PER_EVENT]})


def _compare(feed: _Feed, row: TaskInventory, known: _Known, full: bool) -> tuple[int, int]:
    """Feed what is new of a task's annotations; returns how many changed, and how many are gone.

    Label Studio does not say which annotation of a task was touched, so all of them are fetched,
    once per change of their task. Its time is noted only afterwards.
    """
    unknown = [id for id in row.annotation_ids if id not in known.annotations]
    touched = _is_touched(row, known)
    wanted = row.annotation_ids if touched else unknown if full else ()
    client, changed = feed.services.labelstudio, 0
    for annotation_id in wanted:
        changed += _fetch(feed, row, annotation_id)
    missing = known.of_task.get(row.id, frozenset()) - set(row.annotation_ids)
    gone = sorted(id for id in missing if _is_gone(client, id))
    feed.put_rows("ANNOTATIONS_DELETED", "annotations", [{"id": id} for id in gone])
    if touched and row.updated_at is not None:
        with feed.services.store.transaction() as tx:
            reconciling.note_compared(tx, known.project.id, {row.id: row.updated_at})
    return changed, len(gone)


def _fetch(feed: _Feed, row: TaskInventory, annotation_id: int) -> bool:
    """Feed an annotation if we do not know it in this state; one deleted meanwhile is no news."""
    seen_at = feed.services.clock()
    payload = _get(feed.services.labelstudio, annotation_id)
    if payload is None:
        return False
    is_known = events.annotation(payload).updated_at == feed.known.annotations.get(annotation_id)
    if is_known and not events.reviews(payload):
        return False
    about = {"annotation": payload, "task": dict(row.payload)}
    feed.put("ANNOTATION_UPDATED", about, seen_at)
    return not is_known


def _get(client: LabelStudio, annotation_id: int) -> JsonObject | None:
    try:
        return client.get_annotation(annotation_id)
    except LabelStudioError as error:
        if error.status == 404:
            return None
        raise


def _is_gone(client: LabelStudio, annotation_id: int) -> bool:
    return _get(client, annotation_id) is None


def _lost(client: LabelStudio, known: _Known, rows: Sequence[TaskInventory]) -> list[int]:
    """Return the tasks that Label Studio no longer has.

    A task that is deleted while pages are read shifts another one out of sight: look twice.
    """
    lost = known.tasks.keys() - {row.id for row in rows}
    if lost:
        lost -= {row.id for row in client.inventory(known.project.id)}
    return sorted(lost)


def _identity(task: Task) -> JsonObject:
    """Say which task of this id is meant; the id may be given again."""
    at = task.created_at.isoformat() if task.created_at else None
    return {"id": task.id, "created_at": at}


def _note_done(
    services: Services, known: _Known, found: Found, lost: Sequence[int], full: bool
) -> None:
    """Note the comparison; what a project held when it was connected was not recovered."""
    project_id, now = known.project.id, services.clock()
    with services.store.transaction() as tx:
        reconciling.forget_compared(tx, project_id, lost)
        before = reconciling.get(tx, project_id)
        changes: dict[str, Any] = {"begun_at": known.asked_at, "done_at": now}
        if full:
            changes["full_at"] = known.asked_at
        if before.full_at is not None:
            changes["recovered"] = before.recovered + found.total
        reconciling.note(tx, project_id, **changes, error=None, gone_at=None)


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
