"""Label Studio's webhook events, parsed into records.

Facts: deletions carry ids only; bulk creations carry lists without `origin` and `lead_time`;
with `send_payload` off a body is just {"action": ...}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from backend.errors import InvalidPayload, LabelConfigError
from backend.labelstudio import config as label_config
from backend.records import Annotation, Task

UPLOADED = "$undefined$"  # the key of an uploaded image where no label config names another


@dataclass(frozen=True)
class AnnotationsWritten:
    """Annotations were created or updated; `tasks` are theirs."""

    project: int
    title: str
    label_config: str
    annotations: tuple[Annotation, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class AnnotationsDeleted:
    """Annotations were deleted; Label Studio says their ids and no more."""

    project: int
    title: str
    label_config: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class TasksCreated:
    """Tasks were imported; annotations that came with them have no event of their own."""

    project: int
    title: str
    label_config: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class TasksDeleted:
    """Tasks were deleted; their ids can be given again to new ones."""

    project: int
    title: str
    label_config: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class ProjectUpdated:
    """A project's settings or label config changed."""

    project: int
    title: str
    label_config: str


@dataclass(frozen=True)
class StartTraining:
    """Somebody pressed "Start Training", or the project's own counter did."""

    project: int
    title: str
    label_config: str


@dataclass(frozen=True)
class WithoutPayload:
    """Something of a known kind happened; only a comparison with Label Studio tells what."""

    action: str
    project: int | None = None


@dataclass(frozen=True)
class Unknown:
    """An action that labelclimb does not use."""

    action: str
    project: int | None = None


WITH_CONFIG = (
    AnnotationsWritten,
    AnnotationsDeleted,
    TasksCreated,
    TasksDeleted,
    ProjectUpdated,
    StartTraining,
)
Event = (
    AnnotationsWritten
    | AnnotationsDeleted
    | TasksCreated
    | TasksDeleted
    | ProjectUpdated
    | StartTraining
    | WithoutPayload
    | Unknown
)

_FIELDS = {  # action -> the field that it must have beside `project`
    "ANNOTATION_CREATED": "annotation",
    "ANNOTATION_UPDATED": "annotation",
    "ANNOTATIONS_CREATED": "annotation",
    "ANNOTATIONS_DELETED": "annotations",
    "TASKS_CREATED": "tasks",
    "TASKS_DELETED": "tasks",
    "PROJECT_UPDATED": None,
    "START_TRAINING": None,
}


def parse(body: Mapping[str, Any]) -> Event:
    """Parse the body of a webhook; raises InvalidPayload naming the field that is wrong."""
    action = body.get("action")
    if not isinstance(action, str) or not action:
        raise _wrong("action", action, "a text")
    if action not in _FIELDS:
        return Unknown(action, _project_of(body))
    field = _FIELDS[action]
    if body.keys() == {"action"}:
        return WithoutPayload(action)
    project = _object(body.get("project"), "project")
    about = {
        "project": _integer(project.get("id"), "project.id"),
        "title": _text(project.get("title") or "", "project.title"),
        "label_config": _text(project.get("label_config") or "", "project.label_config"),
    }
    return _event(action, _listed(body, field) if field else [], body, about)


def task(payload: Mapping[str, Any], *, project: int, data_key: str) -> Task:
    """Return a task as webhooks, /predict and the API write it; raises InvalidPayload.

    data_key: the label config's key of the image; uploads may have it under `$undefined$`.
    """
    task_id = _integer(payload.get("id"), "task.id")
    data = _object(payload.get("data"), "task.data")
    image = data.get(data_key) or data.get(UPLOADED)
    if not isinstance(image, str) or not image:
        keys = ", ".join(map(str, data)) or "nothing"
        raise InvalidPayload(
            f"task {task_id} has no image: data.{data_key} is {data.get(data_key)!r}; "
            f"its data has {keys}"
        )
    created_at = _optional_time(payload.get("created_at"), "task.created_at")
    return Task(project=project, id=task_id, image=image, created_at=created_at)


def annotation(payload: Mapping[str, Any], *, bulk: bool = False) -> Annotation:
    """Return an annotation as webhooks and the API write it; raises InvalidPayload."""
    result = payload.get("result")
    if not isinstance(result, list) or not all(isinstance(item, Mapping) for item in result):
        raise _wrong("annotation.result", type(result).__name__, "a list of objects")
    return Annotation(
        id=_integer(payload.get("id"), "annotation.id"),
        project=_id(payload.get("project"), "annotation.project"),
        task=_id(payload.get("task"), "annotation.task"),
        updated_at=_time(payload.get("updated_at"), "annotation.updated_at"),
        created_at=_optional_time(payload.get("created_at"), "annotation.created_at"),
        result=tuple(result),
        was_cancelled=payload.get("was_cancelled") is True,
        lead_time_s=_seconds(payload.get("lead_time"), "annotation.lead_time"),
        annotator=_id(payload["completed_by"], "annotation.completed_by")
        if payload.get("completed_by")
        else None,
        bulk=bulk or payload.get("bulk_created") is True,
    )


def _event(
    action: str, rows: list[Mapping[str, Any]], body: Mapping[str, Any], about: dict[str, Any]
) -> Event:
    if action == "PROJECT_UPDATED":
        return ProjectUpdated(**about)
    if action == "START_TRAINING":
        return StartTraining(**about)
    if action == "ANNOTATIONS_DELETED":
        return AnnotationsDeleted(**about, ids=_ids(rows, "annotations"))
    if action == "TASKS_DELETED":
        return TasksDeleted(**about, ids=_ids(rows, "tasks"))
    if action == "TASKS_CREATED":
        return TasksCreated(**about, tasks=_tasks(rows, about))
    bulk = action == "ANNOTATIONS_CREATED"
    written = tuple(annotation({"project": about["project"], **row}, bulk=bulk) for row in rows)
    tasks = _tasks(_listed(body, "task"), about)
    return AnnotationsWritten(**about, annotations=written, tasks=tasks)


def _tasks(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> tuple[Task, ...]:
    data_key = _data_key(about["label_config"])
    return tuple(_task_or_problem(row, about["project"], data_key) for row in rows)


def _task_or_problem(row: Mapping[str, Any], project: int, data_key: str) -> Task:
    """One task without an image must not cost the others their event."""
    task_id = _integer(row.get("id"), "task.id")
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
    return [_object(row, f"{field}[{n}]" if rows is value else field) for n, row in enumerate(rows)]


def _ids(rows: Sequence[Mapping[str, Any]], field: str) -> tuple[int, ...]:
    return tuple(_integer(row.get("id"), f"{field}[{n}].id") for n, row in enumerate(rows))


def _project_of(body: Mapping[str, Any]) -> int | None:
    project = body.get("project")
    found = project.get("id") if isinstance(project, Mapping) else None
    return found if isinstance(found, int) else None


def _object(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(path, value, "an object")
    return value


def _integer(value: Any, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(path, value, "a whole number")
    return value


def _id(value: Any, path: str) -> int:
    """Return an id; the API writes some relations as objects."""
    if isinstance(value, Mapping):
        return _integer(value.get("id"), f"{path}.id")
    return _integer(value, path)


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, value, "a text")
    return value


def _seconds(value: Any, path: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(path, value, "seconds or null")
    return float(value)


def _time(value: Any, path: str) -> datetime:
    text = _text(value, path)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise _wrong(path, value, "a time in ISO 8601") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _optional_time(value: Any, path: str) -> datetime | None:
    return _time(value, path) if value else None


def _wrong(path: str, value: Any, expected: str) -> InvalidPayload:
    return InvalidPayload(f"{path} is {repr(value)[:80]}; expected {expected}")
