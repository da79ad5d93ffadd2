"""Events: kept first, then applied; what was acknowledged is never lost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import structlog
from sqlalchemy import Connection

from backend.errors import InvalidPayload, LabelclimbError, UnknownThing
from backend.labelstudio import config as label_config
from backend.labelstudio import events
from backend.records import Annotation
from backend.steps import decide, learn, projects, queues
from backend.store import annotations as annotation_rows
from backend.store import inbox, jobs, learning, tasks
from backend.store import projects as project_rows
from backend.wiring import Services

PROJECT_FIELDS = ("id", "title", "label_config")  # the rest is bulk, or a token

log = structlog.get_logger(__name__)


def receive(
    services: Services,
    body: Mapping[str, Any],
    source: Literal["webhook", "reconciler"] = "webhook",
) -> int:
    """Write the event to the inbox in one committed transaction, then wake a worker.

    Returns the event's number; raises InvalidPayload when it is no event at all.
    """
    action = body.get("action")
    if not isinstance(action, str) or not action:
        raise InvalidPayload("the event has no `action`; is this Label Studio's webhook?")
    with services.store.transaction() as tx:
        event_id = inbox.put(tx, action, _without_secrets(body), source, services.clock())
    queues.event(services, event_id)
    return event_id


def _without_secrets(body: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of the project what we read: the payload carries its import token and much bulk."""
    project = body.get("project")
    if not isinstance(project, Mapping):
        return dict(body)
    return {**body, "project": {k: project[k] for k in PROJECT_FIELDS if k in project}}


def handle(services: Services, event_id: int) -> None:
    """Apply one kept event; handling it twice, late or out of order changes nothing.

    A malformed event is marked as failed with the reason and stays visible in the inbox.
    """
    with services.store.reading() as tx:
        kept = inbox.get(tx, event_id)
    if kept is None:
        return
    try:
        event = events.parse(kept.payload)
        project_id = apply(services, event, event_id)
    except LabelclimbError as error:
        with services.store.transaction() as tx:
            inbox.failed(tx, event_id, str(error))
        log.warning("event failed", event_number=event_id, action=kept.action, reason=str(error))
        return
    if project_id is not None:
        decide.next_steps(services, project_id)


def apply(services: Services, event: events.Event, event_id: int) -> int | None:
    """Apply a parsed event and mark it as done in the same transaction; returns its project."""
    project_id = event.project
    if project_id is not None and isinstance(event, events.WITH_CONFIG) and event.label_config:
        _adopt(services, project_id, event)
    with services.store.transaction() as tx:
        if project_id is not None and project_rows.get(tx, project_id) is not None:
            _apply(services, tx, event)
        inbox.done(tx, event_id, services.clock())
        known = project_id is not None and project_rows.get(tx, project_id) is not None
    return project_id if known else None


def _adopt(services: Services, project_id: int, event: Any) -> None:
    projects.adopt(services, project_id, event.label_config, title=event.title or "")


def _apply(services: Services, tx: Connection, event: events.Event) -> None:
    now = services.clock()
    if isinstance(event, events.AnnotationsWritten):
        tasks.upsert(tx, event.tasks)
        for annotation in event.annotations:
            take_annotation(tx, annotation)
    elif isinstance(event, events.AnnotationsDeleted):
        learning.remove(tx, annotation_rows.delete(tx, event.project, event.ids, now))
    elif isinstance(event, events.TasksCreated):
        tasks.upsert(tx, event.tasks)
    elif isinstance(event, events.TasksDeleted):
        tasks.delete(tx, event.project, event.ids)
    elif isinstance(event, events.StartTraining):
        _request_training(tx, event.project, now)


def _request_training(tx: Connection, project_id: int, now: datetime) -> None:
    """Note the request; after a failure the same labels may be tried again."""
    latest = next(iter(jobs.list(tx, project_id, 1)), None)
    again = {"last_snapshot": None} if latest is not None and latest.state == "failed" else {}
    project_rows.update(tx, project_id, train_requested_at=now, **again)


def take_annotation(tx: Connection, annotation: Annotation) -> None:
    """Replace what an annotation produced before by what its newest state says."""
    project = project_rows.get(tx, annotation.project)
    if project is None:
        raise UnknownThing(f"annotation {annotation.id} belongs to no known project")
    if annotation_rows.put(tx, annotation):
        learned = learn.from_annotation(tx, annotation, label_config.parse(project.label_config))
        learning.replace(
            tx,
            annotation.id,
            project=annotation.project,
            task=annotation.task,
            interactions=learned.interactions,
            weak_labels=learned.weak_labels,
            masks=learned.masks,
        )
