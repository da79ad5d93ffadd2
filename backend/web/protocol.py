"""The ML backend protocol as Label Studio 1.23 speaks it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, BackgroundTasks, Request
from pydantic import BaseModel, Field

from backend.errors import InvalidPayload
from backend.labelstudio import config as label_config
from backend.steps import intake, predict, projects, queues
from backend.web.access import services_of

router = APIRouter()

JsonObject = dict[str, Any]


class SetupRequest(BaseModel):
    """`project` is "<id>.<created>"; the rest of the body (tokens, host name) is not used."""

    project: str
    label_config: str = Field(alias="schema")


class PredictRequest(BaseModel):
    """Tasks to propose for; `params.context` holds prompts when a person clicked."""

    tasks: list[JsonObject]
    project: str | None = None
    label_config: str | None = None
    params: JsonObject | None = None


class ProjectRequest(BaseModel):
    """A request about one project."""

    project: str


class JobRequest(BaseModel):
    """A request about one job."""

    job: str


class ValidateRequest(BaseModel):
    """A label config to check."""

    config: str


class DuplicateRequest(BaseModel):
    """Two projects; the second is to start from the first one's champion."""

    project_src: str
    project_dst: str


@router.get("/")
@router.get("/health")
async def health() -> JsonObject:
    """Answer from memory: Label Studio waits one second for this, often."""
    return {"status": "UP", "model_class": "labelclimb"}


@router.post("/setup")
def setup(body: SetupRequest, request: Request) -> JsonObject:
    """Take the project in, check its label config and name the version now shown."""
    project = projects.adopt(services_of(request), project_id(body.project), body.label_config)
    return {"model_version": projects.shown_version(project)}


@router.post("/predict")
def predict_tasks(body: PredictRequest, request: Request) -> JsonObject:
    """Return exactly one result per task, whatever happens to single tasks."""
    services = services_of(request)
    project = projects.require(services, _project_of(body))
    context = (body.params or {}).get("context")
    if context is not None:
        return {"results": predict.answer_prompts(services, project, body.tasks, context)}
    return {"results": predict.answer(services, project, body.tasks)}


@router.post("/webhook", status_code=201)
def webhook(body: JsonObject, request: Request, later: BackgroundTasks) -> JsonObject:
    """Keep the event, answer, and only then wake a worker: a Redis that hangs delays no answer."""
    services = services_of(request)
    event = intake.keep(services, body)
    later.add_task(queues.event, services, event)
    return {"status": "ok", "event": event}


@router.get("/versions")
def versions(request: Request) -> JsonObject:
    """Name all trained versions, newest first."""
    return {"versions": projects.version_names(services_of(request))}


@router.post("/train", status_code=201)
def train(body: ProjectRequest, request: Request) -> JsonObject:
    """Ask for a training, as the button "Start Training" does."""
    event = intake.request_training(services_of(request), project_id(body.project))
    return {"status": "ok", "event": event}


@router.post("/validate")
def validate(body: ValidateRequest) -> JsonObject:
    """Say whether a label config can be served."""
    parsed = label_config.parse(body.config)
    return {"status": "ok", "classes": list(parsed.classes)}


@router.post("/job_status")
def job_status(body: JobRequest, request: Request) -> JsonObject:
    """Say where a job stands."""
    job = projects.job(services_of(request), body.job)
    return {"job": job.id, "job_status": job.state, "error": job.error, "detail": job.detail}


@router.post("/delete")
def delete(body: ProjectRequest) -> JsonObject:
    """Acknowledge that Label Studio asks no more; what was learned stays in the store."""
    return {"status": "ok", "project": project_id(body.project)}


@router.post("/duplicate_model")
def duplicate_model(body: DuplicateRequest, request: Request) -> JsonObject:
    """Give a copied project the champion of the one that it was copied from."""
    number = projects.copy_champion(
        services_of(request), project_id(body.project_src), project_id(body.project_dst)
    )
    return {"status": "ok", "version": number}


def project_id(text: str) -> int:
    """Return the id of "<id>.<created>"; raises InvalidPayload."""
    head = text.partition(".")[0]
    if not (head.isascii() and head.isdecimal()):
        raise InvalidPayload(f"project is {text!r}; expected '<id>' or '<id>.<created>'")
    return int(head)


def _project_of(body: PredictRequest) -> int:
    if body.project:
        return project_id(body.project)
    named: set[Any] = {task.get("project") for task in body.tasks}
    if len(named) == 1 and isinstance(only := named.pop(), int):
        return only
    raise InvalidPayload("the body names no project; send `project` or `project` in each task")
