"""Events: kept first, then applied; what was acknowledged is never lost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NoReturn, TypeAlias

import structlog
from sqlalchemy import Connection

from backend.errors import InvalidPayload, LabelclimbError, LabelConfigError, UnknownThing
from backend.labelstudio import config as label_config
from backend.labelstudio import events, fields
from backend.labelstudio.config import LabelConfig
from backend.records import Annotation, InboxEvent, Project, Task
from backend.steps import decide, projects, queues
from backend.steps.listening import learn
from backend.store import annotations as annotation_rows
from backend.store import graves, inbox, jobs, learning, reconciling, tasks
from backend.store import projects as project_rows
from backend.wiring import Services

PROJECT_FIELDS = ("id", "title", "label_config", "updated_at")  # the rest is bulk, or a token
GONE = "Label Studio no longer has the project"
YOUNG = timedelta(seconds=10)  # a task deleted so soon after its creation may be the wrong one

Source: TypeAlias = Literal["webhook", "reconciler"]
Taught: TypeAlias = Mapping[int, learn.Learned]  # by annotation

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Row:
    """An event as it is kept; project: None when it names none."""

    action: str
    payload: Mapping[str, Any]
    project: int | None


def keep(services: Services, body: Mapping[str, Any], source: Source = "webhook") -> int:
    """Write the event to the inbox in one committed transaction; returns its number.

    Raises InvalidPayload when it is no event at all.
    """
    row = _row(body)
    with services.store.transaction() as tx:
        return _put(services, tx, row, source)


def keep_texts(services: Services, texts: Sequence[bytes]) -> list[int | InvalidPayload]:
    """Keep the events that these request bodies are, in one committed transaction.

    Returns the number of each, or why it is no event.
    """
    rows = [_row_of_text(text) for text in texts]
    if all(isinstance(row, InvalidPayload) for row in rows):
        return [row for row in rows if isinstance(row, InvalidPayload)]
    with services.store.transaction() as tx:
        return [
            row if isinstance(row, InvalidPayload) else _put(services, tx, row, "webhook")
            for row in rows
        ]


def _put(services: Services, tx: Connection, row: _Row, source: Source) -> int:
    return inbox.put(tx, row.action, row.payload, source, services.clock(), row.project)


def _row(body: Mapping[str, Any]) -> _Row:
    action = body.get("action")
    if not isinstance(action, str) or not action:
        raise InvalidPayload("the event has no `action`; is this Label Studio's webhook?")
    return _Row(action, _without_secrets(body), events.project_of(body))


def _row_of_text(text: bytes) -> _Row | InvalidPayload:
    """Read a JSON object; JSON has no NaN and no infinity, although Python would read them."""
    try:
        body = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return InvalidPayload(f"the event is no JSON: {error}")
    if not isinstance(body, dict):
        return InvalidPayload(f"the event is a {type(body).__name__}; expected an object")
    try:
        return _row(body)
    except InvalidPayload as error:
        return error


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def receive(services: Services, body: Mapping[str, Any], source: Source = "webhook") -> int:
    """Keep the event, then wake a worker; returns its number."""
    event_id = keep(services, body, source)
    queues.event(services, event_id)
    return event_id


def request_training(services: Services, project_id: int) -> int:
    """Ask for a training, as the button "Start Training" does; returns the event's number."""
    projects.require(services, project_id)
    return receive(services, {"action": "START_TRAINING", "project": {"id": project_id}})


def retry(services: Services, event_id: int) -> None:
    """Have an event that was given up tried again, from the first attempt; raises UnknownThing."""
    with services.store.transaction() as tx:
        revived = inbox.revive(tx, event_id)
        state = inbox.state(tx, event_id)
    if not revived:
        what = "is unknown" if state is None else f"is {state}, only dead ones are tried again"
        raise UnknownThing(f"event {event_id} {what}; `labelclimb events` lists the dead ones")
    queues.event(services, event_id)


def _without_secrets(body: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of the project what we read: the payload carries its import token and much bulk."""
    project = body.get("project")
    if not isinstance(project, Mapping):
        return dict(body)
    return {**body, "project": {k: project[k] for k in PROJECT_FIELDS if k in project}}


def handle(services: Services, event_id: int) -> None:
    """Apply one kept event; handling it twice, late or out of order changes nothing.

    The attempt is counted first: an event that kills its worker is given up in the end. An event
    that cannot be applied keeps the reason and stays visible in the inbox; what is no error of
    ours is raised, for the queue to try again.
    """
    with services.store.transaction(durable=False) as tx:
        kept = inbox.begin(tx, event_id)
    if kept is None:
        return
    try:
        project_id = apply(services, kept)
    except LabelclimbError as error:
        _note_failure(services, kept, str(error))
        return
    except Exception as error:
        _note_failure(services, kept, f"{type(error).__name__}: {error}")
        raise
    if project_id is not None and not _is_last(services, kept):
        return  # the last one of a burst looks at what is due, and the scheduler does anyway
    if project_id is not None:
        decide.next_steps(services, project_id)


def _note_failure(services: Services, kept: InboxEvent, reason: str) -> None:
    with services.store.transaction(durable=False) as tx:
        inbox.failed(tx, kept.id, reason)
    log.warning("event failed", number=kept.id, action=kept.action, reason=reason)


def _is_last(services: Services, kept: InboxEvent) -> bool:
    with services.store.reading() as tx:
        return not inbox.has_pending(tx, other_than=kept.id)


def apply(services: Services, kept: InboxEvent) -> int | None:
    """Apply an event and mark it as done in the same transaction; returns its project.

    What takes long (masks are decoded and compared) is done before the transaction begins.
    """
    event = events.parse(kept.payload)
    if isinstance(event, events.Unknown | events.Unused | events.WithoutPayload):
        _note(services, kept, event)
        return None
    _adopt(services, event.project)
    learned = _learn(services, event)
    with services.store.transaction(durable=False) as tx:
        known = project_rows.get(tx, event.project.id)
        if known is not None:
            _apply(tx, event, _Known(kept, known, services.clock()), learned)
        inbox.done(tx, kept.id, services.clock())
        gone = reconciling.get(tx, event.project.id).gone_at is not None
    return event.project.id if known is not None and not gone else None


def _note(
    services: Services,
    kept: InboxEvent,
    event: events.Unknown | events.Unused | events.WithoutPayload,
) -> None:
    """Ask for a comparison where an event says that something happened, but not what."""
    with services.store.transaction(durable=False) as tx:
        if isinstance(event, events.WithoutPayload):
            named = event.project_id
            wanted = [p.id for p in project_rows.all(tx) if named in (None, p.id)]
            reconciling.want(tx, wanted, kept.received_at)
        inbox.done(tx, kept.id, services.clock())


def _adopt(services: Services, state: events.ProjectState) -> None:
    """Take an unknown project in, and a label config unless it is older than the known one."""
    if not state.label_config:
        return
    with services.store.reading() as tx:
        known = project_rows.get(tx, state.id)
        known_at = reconciling.get(tx, state.id).config_at
    if known is not None and known.label_config == state.label_config:
        if state.title not in ("", known.title) and not _is_older(state.changed_at, known_at):
            projects.adopt(services, state.id, state.label_config, title=state.title)
        return
    if known is not None and _is_older(state.changed_at, known_at):
        return
    projects.adopt(services, state.id, state.label_config, title=state.title)
    with services.store.transaction(durable=False) as tx:
        reconciling.note(tx, state.id, config_at=state.changed_at or known_at)


def _is_older(seen: datetime | None, known: datetime | None) -> bool:
    return known is not None and (seen is None or seen < known)


def _learn(services: Services, event: events.WithPayload) -> Taught:
    """Return what each annotation teaches, {} for other events."""
    if not isinstance(event, events.AnnotationsWritten):
        return {}
    with services.store.reading() as tx:
        project = project_rows.get(tx, event.project.id)
        if project is None:
            return {}
        config = _config(event.project, project)
        return {a.id: _learn_one(tx, a, config) for a in event.annotations}


def _config(state: events.ProjectState, known: Project) -> LabelConfig:
    """Return the label config that an annotation was made with: a later one may read otherwise."""
    with suppress(LabelConfigError):
        return label_config.parse(state.label_config)
    return label_config.parse(known.label_config)


def _learn_one(tx: Connection, annotation: Annotation, config: LabelConfig) -> learn.Learned:
    """An annotation that cannot be understood is kept, and teaches nothing."""
    try:
        return learn.from_annotation(tx, annotation, config)
    except InvalidPayload as error:
        log.warning("nothing learned", annotation=annotation.id, reason=str(error))
        return learn.Learned()


@dataclass(frozen=True)
class _Known:
    """What is known beside the event: its row in the inbox, its project, and the present time."""

    kept: InboxEvent
    project: Project
    now: datetime

    @property
    def seen_at(self) -> datetime | None:
        """Return when Label Studio was asked, for what it told the reconciler; else None."""
        moment = self.kept.payload.get("seen_at")
        is_ours = self.kept.source == "reconciler" and moment is not None
        return fields.moment(moment, "seen_at") if is_ours else None

    @property
    def happened_at(self) -> datetime:
        """Return the moment by our clock up to which the event speaks."""
        return self.seen_at or self.kept.received_at


def _apply(
    tx: Connection,
    event: events.WithPayload,
    known: _Known,
    learned: Taught,
) -> None:
    project_id, at = known.project.id, known.happened_at
    if isinstance(event, events.AnnotationsWritten):
        _write(tx, event, known, learned)
    elif isinstance(event, events.AnnotationsDeleted):
        learning.remove(tx, annotation_rows.delete(tx, project_id, event.ids, at))
    elif isinstance(event, events.Reviewed):
        _review(tx, event.reviews)
    elif isinstance(event, events.ReviewsDeleted):
        annotation_rows.withdraw_reviews(tx, event.ids)
    elif isinstance(event, events.TasksCreated):
        _see_tasks(tx, event.tasks, known)
        if event.are_annotated and known.kept.source == "webhook":
            reconciling.want(tx, [project_id], at)
    elif isinstance(event, events.TasksDeleted):
        _delete_tasks(tx, event, known)
    elif isinstance(event, events.ProjectDeleted):
        reconciling.note(tx, project_id, gone_at=at)
        jobs.cancel_all(tx, project_id, GONE, at)
    elif isinstance(event, events.StartTraining):
        _request_training(tx, project_id, at)


def _write(
    tx: Connection,
    event: events.AnnotationsWritten,
    known: _Known,
    learned: Taught,
) -> None:
    _see_tasks(tx, event.tasks, known)
    for annotation in event.annotations:
        if annotation_rows.put(tx, annotation, learned_at=known.now, seen_at=known.seen_at):
            _replace(tx, annotation, learned[annotation.id])
    _review(tx, event.reviews)


def _see_tasks(tx: Connection, seen: Sequence[Task], known: _Known) -> None:
    """Store tasks that are not buried; where that cannot be told, have Label Studio asked."""
    standing, in_doubt = graves.risen(tx, seen, known.seen_at)
    tasks.upsert(tx, standing)
    if in_doubt:
        reconciling.want(tx, [known.project.id], known.now)


def _delete_tasks(tx: Connection, event: events.TasksDeleted, known: _Known) -> None:
    """Delete the tasks that are meant.

    Label Studio gives ids again and says ids alone: a very young task may be the next one of its
    id. Then it is asked, and the reconciler says which task it means.
    """
    project_id, meant = known.project.id, []
    for id, created_at in event.created_at.items():
        present = tasks.get(tx, project_id, id)
        born_at = present.created_at if present else None
        if known.seen_at is not None:
            is_other, in_doubt = born_at is not None and born_at != created_at, False
        else:
            in_doubt = born_at is not None and born_at > known.happened_at - YOUNG
            is_other = in_doubt
        if not is_other:
            meant.append(id)
        if in_doubt:
            reconciling.want(tx, [project_id], known.now)
    graves.bury(tx, project_id, meant, known.happened_at)
    tasks.delete(tx, project_id, meant)


def _replace(tx: Connection, annotation: Annotation, learned: learn.Learned) -> None:
    """Replace what an annotation produced before by what its newest state says."""
    learning.replace(
        tx,
        annotation.id,
        project=annotation.project,
        task=annotation.task,
        interactions=learned.interactions,
        weak_labels=learned.weak_labels,
        masks=learned.masks,
    )


def _review(tx: Connection, found: Sequence[events.Review]) -> None:
    """Keep verdicts; they are weighed where the training set is read."""
    for review in found:
        annotation_rows.review(tx, review.annotation, review.verdict, review.at, review.id)


def _request_training(tx: Connection, project_id: int, now: datetime) -> None:
    """Note the request: also the labels of a training that failed are tried again then."""
    project_rows.update(tx, project_id, train_requested_at=now)
