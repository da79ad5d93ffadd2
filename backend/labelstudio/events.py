"""Label Studio's webhook events, parsed into records.

Facts: deletions carry ids only; bulk creations carry lists without `origin` and `lead_time`;
with `send_payload` off a body is just {"action": ...}. Reviews are Enterprise's: their form is the
one of its published API, read tolerantly. The official SDK and the documentation also name
ANNOTATION_DELETED, TASK_CREATED and TASK_DELETED, which 1.23 never sends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from backend.errors import InvalidPayload, LabelConfigError
from backend.labelstudio import config as label_config
from backend.labelstudio import fields
from backend.records import Annotation, ReviewVerdict, Task

UPLOADED = "$undefined$"  # the key of an uploaded image where no label config names another
ANNOTATION_COUNTS = ("total_annotations", "cancelled_annotations")


@dataclass(frozen=True)
class ProjectState:
    """What every event with a payload says of its project.

    changed_at: Label Studio's time of the project's last change, which dates `label_config`.
    """

    id: int
    title: str
    label_config: str
    changed_at: datetime | None


@dataclass(frozen=True)
class Review:
    """A reviewer's verdict on an annotation as it was at `at`; None: neither for nor against."""

    id: int | None
    annotation: int
    verdict: ReviewVerdict | None
    at: datetime


@dataclass(frozen=True)
class AnnotationsWritten:
    """Annotations were created or updated; `tasks` are theirs, as far as the event has them."""

    project: ProjectState
    annotations: tuple[Annotation, ...]
    tasks: tuple[Task, ...]
    reviews: tuple[Review, ...] = ()


@dataclass(frozen=True)
class AnnotationsDeleted:
    """Annotations were deleted; Label Studio says their ids and no more."""

    project: ProjectState
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Reviewed:
    """A reviewer accepted or rejected annotations."""

    project: ProjectState
    reviews: tuple[Review, ...]


@dataclass(frozen=True)
class ReviewsDeleted:
    """Reviews were taken back; `ids` are the reviews' own."""

    project: ProjectState
    ids: tuple[int, ...]


@dataclass(frozen=True)
class TasksCreated:
    """Tasks were imported.

    are_annotated: some came with annotations, which have no event of their own.
    """

    project: ProjectState
    tasks: tuple[Task, ...]
    are_annotated: bool = False


@dataclass(frozen=True)
class TasksDeleted:
    """Tasks were deleted; their ids can be given again to new ones.

    created_at: which task of that id; only the reconciler knows it, a webhook says ids alone.
    """

    project: ProjectState
    created_at: Mapping[int, datetime | None]

    @property
    def ids(self) -> tuple[int, ...]:
        """Return the ids of the deleted tasks."""
        return tuple(self.created_at)


@dataclass(frozen=True)
class ProjectUpdated:
    """A project's settings or label config changed."""

    project: ProjectState


@dataclass(frozen=True)
class ProjectDeleted:
    """A project was deleted with all that it held."""

    project: ProjectState


@dataclass(frozen=True)
class StartTraining:
    """Somebody pressed "Start Training", or the project's own counter did."""

    project: ProjectState


@dataclass(frozen=True)
class WithoutPayload:
    """Something of a known kind happened; only a comparison with Label Studio tells what."""

    action: str
    project_id: int | None = None


@dataclass(frozen=True)
class Unused:
    """A known action that changes nothing here: a project was created, a label was linked."""

    action: str
    project_id: int | None = None


@dataclass(frozen=True)
class Unknown:
    """An action that this version of labelclimb has never heard of."""

    action: str
    project_id: int | None = None


WithPayload: TypeAlias = (
    AnnotationsWritten
    | AnnotationsDeleted
    | Reviewed
    | ReviewsDeleted
    | TasksCreated
    | TasksDeleted
    | ProjectUpdated
    | ProjectDeleted
    | StartTraining
)
Event: TypeAlias = WithPayload | WithoutPayload | Unused | Unknown

SAME = {  # other names of an action: the official SDK's, the documentation's
    "ANNOTATION_DELETED": "ANNOTATIONS_DELETED",
    "TASK_CREATED": "TASKS_CREATED",
    "TASK_DELETED": "TASKS_DELETED",
    "REVIEW_DELETED": "REVIEWS_DELETED",
}
UNUSED = ("PROJECT_CREATED", "LABEL_LINK_CREATED", "LABEL_LINK_UPDATED", "LABEL_LINK_DELETED")


def parse(body: Mapping[str, Any]) -> Event:
    """Parse the body of a webhook; raises InvalidPayload naming the field that is wrong."""
    named = body.get("action")
    if not isinstance(named, str) or not named:
        raise fields.wrong("action", named, "a text")
    action = SAME.get(named, named)
    if action in UNUSED:
        return Unused(action, project_of(body))
    if action not in _READERS:
        return Unknown(action, project_of(body))
    more = body.keys() - {"action", "project"}
    if body.keys() == {"action"} or (action in _NEEDS_MORE and not more):
        return WithoutPayload(action, project_of(body))
    project = fields.mapping(body.get("project"), "project")
    state = ProjectState(
        id=fields.integer(project.get("id"), "project.id"),
        title=fields.text(project.get("title") or "", "project.title"),
        label_config=fields.text(project.get("label_config") or "", "project.label_config"),
        changed_at=fields.optional_moment(project.get("updated_at"), "project.updated_at"),
    )
    return _READERS[action](body, state)


def project_of(body: Mapping[str, Any]) -> int | None:
    """Return the id of the event's project, None when it names none."""
    project = body.get("project")
    found = project.get("id") if isinstance(project, Mapping) else project
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def task(payload: Mapping[str, Any], *, project: int, data_key: str) -> Task:
    """Return a task as webhooks, /predict and the API write it; raises InvalidPayload.

    data_key: the label config's key of the image; uploads may have it under `$undefined$`.
    """
    task_id = fields.integer(payload.get("id"), "task.id")
    data = fields.mapping(payload.get("data"), "task.data")
    image = data.get(data_key) or data.get(UPLOADED)
    if not isinstance(image, str) or not image:
        keys = ", ".join(map(str, data)) or "nothing"
        raise InvalidPayload(
            f"task {task_id} has no image: data.{data_key} is {data.get(data_key)!r}; "
            f"its data has {keys}"
        )
    created_at = fields.optional_moment(payload.get("created_at"), "task.created_at")
    return Task(project=project, id=task_id, image=image, created_at=created_at)


def annotation(payload: Mapping[str, Any], *, bulk: bool = False) -> Annotation:
    """Return an annotation as webhooks and the API write it; raises InvalidPayload."""
    result = payload.get("result")
    if not isinstance(result, list) or not all(isinstance(item, Mapping) for item in result):
        raise fields.wrong("annotation.result", type(result).__name__, "a list of objects")
    return Annotation(
        id=fields.integer(payload.get("id"), "annotation.id"),
        project=fields.identity(payload.get("project"), "annotation.project"),
        task=fields.identity(payload.get("task"), "annotation.task"),
        updated_at=fields.moment(payload.get("updated_at"), "annotation.updated_at"),
        created_at=fields.optional_moment(payload.get("created_at"), "annotation.created_at"),
        result=tuple(result),
        was_cancelled=payload.get("was_cancelled") is True,
        lead_time_s=fields.seconds(payload.get("lead_time"), "annotation.lead_time"),
        annotator=fields.identity(payload["completed_by"], "annotation.completed_by")
        if payload.get("completed_by")
        else None,
        bulk=bulk or payload.get("bulk_created") is True,
    )


def reviews(payload: Mapping[str, Any]) -> tuple[Review, ...]:
    """Return the reviews that Enterprise's API writes into an annotation."""
    rows = payload.get("reviews")
    if not isinstance(rows, list):
        return ()
    return tuple(
        review({"annotation": payload.get("id"), **fields.mapping(r, "reviews")}) for r in rows
    )


def review(payload: Mapping[str, Any]) -> Review:
    """Return a review as Enterprise writes it; raises InvalidPayload."""
    accepted = payload.get("accepted")
    if accepted is not None and not isinstance(accepted, bool):
        raise fields.wrong("review.accepted", accepted, "true, false or null")
    moments = (payload.get(key) for key in ("updated_at", "created_at", "started_at"))
    return Review(
        id=fields.integer(payload["id"], "review.id") if payload.get("id") is not None else None,
        annotation=fields.identity(payload.get("annotation"), "review.annotation"),
        verdict=_VERDICTS[accepted],
        at=fields.moment(next((m for m in moments if m), None), "review.created_at"),
    )


_VERDICTS: Mapping[bool | None, ReviewVerdict | None] = {
    True: "accepted",
    False: "rejected",
    None: None,
}
Body: TypeAlias = Mapping[str, Any]
Reader: TypeAlias = Callable[[Body, ProjectState], WithPayload]


def _annotations_written(body: Body, project: ProjectState) -> AnnotationsWritten:
    bulk = body["action"] == "ANNOTATIONS_CREATED"
    rows = _listed(body, "annotation")
    return AnnotationsWritten(
        project,
        annotations=tuple(annotation({"project": project.id, **r}, bulk=bulk) for r in rows),
        tasks=_tasks(_listed(body, "task") if body.get("task") else [], project),
        reviews=tuple(found for row in rows for found in reviews(row)),
    )


def _annotations_deleted(body: Body, project: ProjectState) -> AnnotationsDeleted:
    return AnnotationsDeleted(project, ids=_ids(*_either(body, "annotations", "annotation")))


def _tasks_created(body: Body, project: ProjectState) -> TasksCreated:
    rows = _either(body, "tasks", "task")[0]
    counts = [row.get(name) for row in rows for name in ANNOTATION_COUNTS]
    return TasksCreated(project, _tasks(rows, project), are_annotated=any(counts))


def _tasks_deleted(body: Body, project: ProjectState) -> TasksDeleted:
    rows, field = _either(body, "tasks", "task")
    moments = [fields.optional_moment(row.get("created_at"), f"{field}.created_at") for row in rows]
    return TasksDeleted(project, created_at=dict(zip(_ids(rows, field), moments, strict=True)))


def _reviewed(body: Body, project: ProjectState) -> Reviewed:
    rows, _ = _either(body, "review", "reviews")
    around = {"annotation": body.get("annotation")} if body.get("annotation") else {}
    return Reviewed(project, reviews=tuple(review({**around, **row}) for row in rows))


def _reviews_deleted(body: Body, project: ProjectState) -> ReviewsDeleted:
    return ReviewsDeleted(project, ids=_ids(*_either(body, "reviews", "review")))


_NEEDS_MORE: Mapping[
    str, Reader
] = {  # action -> its reader; each of these says nothing without its objects
    "ANNOTATION_CREATED": _annotations_written,
    "ANNOTATION_UPDATED": _annotations_written,
    "ANNOTATIONS_CREATED": _annotations_written,
    "ANNOTATIONS_DELETED": _annotations_deleted,
    "TASKS_CREATED": _tasks_created,
    "TASKS_DELETED": _tasks_deleted,
    "REVIEW_CREATED": _reviewed,
    "REVIEW_UPDATED": _reviewed,
    "REVIEWS_DELETED": _reviews_deleted,
}
_READERS: Mapping[str, Reader] = {
    **_NEEDS_MORE,
    "PROJECT_UPDATED": lambda _, project: ProjectUpdated(project),
    "PROJECT_DELETED": lambda _, project: ProjectDeleted(project),
    "START_TRAINING": lambda _, project: StartTraining(project),
}


def _tasks(rows: Sequence[Mapping[str, Any]], project: ProjectState) -> tuple[Task, ...]:
    data_key = _data_key(project.label_config)
    return tuple(_task_or_problem(row, project.id, data_key) for row in rows)


def _task_or_problem(row: Mapping[str, Any], project: int, data_key: str) -> Task:
    """One task without an image must not cost the others their event."""
    task_id = fields.integer(row.get("id"), "task.id")
    try:
        return task(row, project=project, data_key=data_key)
    except InvalidPayload as error:
        return Task(project=project, id=task_id, image="", problem=str(error))


def _data_key(config_xml: str) -> str:
    """Return the image's key; what a config cannot serve is said where a project is taken in."""
    try:
        return label_config.parse(config_xml).data_key
    except LabelConfigError:
        return UPLOADED


def _listed(body: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    """Return the objects of a field that holds one or a list of them."""
    value = body.get(field)
    rows = value if isinstance(value, list) else [value]
    return [
        fields.mapping(row, f"{field}[{n}]" if rows is value else field)
        for n, row in enumerate(rows)
    ]


def _either(body: Body, field: str, other: str) -> tuple[list[Mapping[str, Any]], str]:
    """Return the objects of the field that is there; documents and servers differ in the name."""
    present = other if field not in body and other in body else field
    return _listed(body, present), present


def _ids(rows: Sequence[Mapping[str, Any]], field: str) -> tuple[int, ...]:
    return tuple(fields.integer(row.get("id"), f"{field}[{n}].id") for n, row in enumerate(rows))
