"""Events: kept first, then applied; what was acknowledged is never lost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import structlog
from sqlalchemy import Connection

from backend.errors import InvalidPayload, LabelclimbError
from backend.labelstudio import config as label_config
from backend.labelstudio import events
from backend.labelstudio.config import LabelConfig
from backend.records import Annotation, InboxEvent
from backend.steps import decide, learn, projects, queues
from backend.store import annotations as annotation_rows
from backend.store import inbox, jobs, learning, tasks
from backend.store import projects as project_rows
from backend.wiring import Services

PROJECT_FIELDS = ("id", "title", "label_config")  # the rest is bulk, or a token

log = structlog.get_logger(__name__)


def keep(
    services: Services,
    body: Mapping[str, Any],
    source: Literal["webhook", "reconciler"] = "webhook",
) -> int:
    """Write the event to the inbox in one committed transaction; returns its number.

    Raises InvalidPayload when it is no event at all.
    """
    action = body.get("action")
    if not isinstance(action, str) or not action:
        raise InvalidPayload("the event has no `action`; is this Label Studio's webhook?")
    with services.store.transaction() as tx:
        return inbox.put(tx, action, _without_secrets(body), source, services.clock())


def receive(
    services: Services,
    body: Mapping[str, Any],
    source: Literal["webhook", "reconciler"] = "webhook",
) -> int:
    """Keep the event, then wake a worker; returns its number."""
    event_id = keep(services, body, source)
    queues.event(services, event_id)
    return event_id


def request_training(services: Services, project_id: int) -> int:
    """Ask for a training, as the button "Start Training" does; returns the event's number."""
    projects.require(services, project_id)
    return receive(services, {"action": "START_TRAINING", "project": {"id": project_id}})


def _without_secrets(body: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of the project what we read: the payload carries its import token and much bulk."""
    project = body.get("project")
    if not isinstance(project, Mapping):
        return dict(body)
    return {**body, "project": {k: project[k] for k in PROJECT_FIELDS if k in project}}


def handle(services: Services, event_id: int) -> None:
    """Apply one kept event; handling it twice, late or out of order changes nothing.

    An event that cannot be applied keeps the reason and stays visible in the inbox; what is no
    error of ours is raised, for the queue to try again and `jobs.mark_failed` to note.
    """
    with services.store.reading() as tx:
        kept = inbox.get(tx, event_id)
        is_waiting = inbox.state(tx, event_id) == inbox.PENDING
    if kept is None or not is_waiting:
        return
    try:
        project_id = apply(services, kept)
    except LabelclimbError as error:
        with services.store.transaction() as tx:
            inbox.failed(tx, event_id, str(error))
        log.warning("event failed", number=event_id, action=kept.action, reason=str(error))
        return
    if project_id is not None:
        decide.next_steps(services, project_id)


def apply(services: Services, kept: InboxEvent) -> int | None:
    """Apply an event and mark it as done in the same transaction; returns its project.

    What takes long (masks are decoded and compared) is done before the transaction begins.
    """
    event = events.parse(kept.payload)
    project_id = event.project
    if project_id is not None and isinstance(event, events.WITH_CONFIG) and event.label_config:
        projects.adopt(services, project_id, event.label_config, title=event.title)
    learned = _learn(services, event)
    with services.store.transaction() as tx:
        known = project_id is not None and project_rows.get(tx, project_id) is not None
        if known:
            _apply(tx, event, learned, kept.received_at)
        inbox.done(tx, kept.id, services.clock())
    return project_id if known else None


def _learn(services: Services, event: events.Event) -> dict[int, learn.Learned]:
    """Return what each annotation teaches, {} for other events."""
    if not isinstance(event, events.AnnotationsWritten):
        return {}
    with services.store.reading() as tx:
        project = project_rows.get(tx, event.project)
        if project is None:
            return {}
        config = label_config.parse(project.label_config)
        return {a.id: _learn_one(tx, a, config) for a in event.annotations}


def _learn_one(tx: Connection, annotation: Annotation, config: LabelConfig) -> learn.Learned:
    """An annotation that cannot be understood is kept, and teaches nothing."""
    try:
        return learn.from_annotation(tx, annotation, config)
    except InvalidPayload as error:
        log.warning("nothing learned", annotation=annotation.id, reason=str(error))
        return learn.Learned()


def _apply(
    tx: Connection, event: events.Event, learned: Mapping[int, learn.Learned], at: datetime
) -> None:
    if isinstance(event, events.AnnotationsWritten):
        tasks.upsert(tx, event.tasks)
        for annotation in event.annotations:
            _replace(tx, annotation, learned[annotation.id])
    elif isinstance(event, events.AnnotationsDeleted):
        learning.remove(tx, annotation_rows.delete(tx, event.project, event.ids, at))
    elif isinstance(event, events.TasksCreated):
        tasks.upsert(tx, event.tasks)
    elif isinstance(event, events.TasksDeleted):
        tasks.delete(tx, event.project, event.ids)
    elif isinstance(event, events.StartTraining):
        _request_training(tx, event.project, at)


def _replace(tx: Connection, annotation: Annotation, learned: learn.Learned) -> None:
    """Replace what an annotation produced before by what its newest state says."""
    if annotation_rows.put(tx, annotation):
        learning.replace(
            tx,
            annotation.id,
            project=annotation.project,
            task=annotation.task,
            interactions=learned.interactions,
            weak_labels=learned.weak_labels,
            masks=learned.masks,
        )


def _request_training(tx: Connection, project_id: int, now: datetime) -> None:
    """Note the request; after a failure the same labels may be tried again."""
    latest = next(iter(jobs.list(tx, project_id, 1)), None)
    again = {"last_snapshot": None} if latest is not None and latest.state == "failed" else {}
    project_rows.update(tx, project_id, train_requested_at=now, **again)
