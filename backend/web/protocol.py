"""The ML backend protocol as Label Studio 1.23 speaks it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastapi import APIRouter, BackgroundTasks, Request
from pydantic import BaseModel, Field

from backend import facade
from backend.facade import project_id
from backend.labelstudio import config as label_config
from backend.steps import copying, projects, queues
from backend.steps.listening import intake
from backend.web.access import services_of
from backend.web.inbox_writer import InboxWriter

router = APIRouter()

JsonObject = dict[str, Any]


class SetupRequest(BaseModel):
    """`project` is "<id>.<created>"; the rest of the body (tokens, host name) is not used."""

    project: Any
    label_config: str | None = Field(default=None, alias="schema")


class PredictRequest(BaseModel):
    """Tasks to propose for; `params.context` holds prompts when a person clicked."""

    tasks: list[JsonObject] | JsonObject
    project: Any = None
    label_config: str | None = None
    params: JsonObject | None = None


class ProjectRequest(BaseModel):
    """A request about one project."""

    project: Any


class JobRequest(BaseModel):
    """A request about one job."""

    job: str


class ValidateRequest(BaseModel):
    """A label config to check."""

    config: str


class DuplicateRequest(BaseModel):
    """Two projects; the second is to start from the first one's champion."""

    project_src: Any
    project_dst: Any


@router.api_route("/", methods=["GET", "HEAD"])
@router.api_route("/health", methods=["GET", "HEAD"])
async def health() -> JsonObject:
    """Answer from memory: Label Studio waits one second for this, often."""
    return facade.health()


@router.post("/setup")
def setup(body: SetupRequest, request: Request) -> JsonObject:
    """Take the project in, check its label config and name the version now shown."""
    return facade.setup(services_of(request), body.project, body.label_config)


@router.post("/predict")
def predict_tasks(body: PredictRequest, request: Request) -> JsonObject:
    """Return exactly one result per task, whatever happens to single tasks."""
    results = facade.predict(
        services_of(request),
        body.tasks,
        project=body.project,
        label_config=body.label_config,
        context=(body.params or {}).get("context"),
    )
    return {"results": results}


@router.post("/webhook", status_code=201)
async def webhook(request: Request, later: BackgroundTasks) -> JsonObject:
    """Keep the event, answer, and only then wake a worker: a Redis that hangs delays no answer."""
    services, body = services_of(request), await request.body()
    event = await _inbox_writer().keep(services, body)
    later.add_task(queues.event, services, event)
    return {"status": "ok", "event": event}


@lru_cache(maxsize=1)
def _inbox_writer() -> InboxWriter:
    return InboxWriter()


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
    """Say whether a label config can be served, and what of it may surprise."""
    parsed = label_config.parse(body.config)
    warnings = label_config.explain(body.config).warnings
    return {"status": "ok", "classes": list(parsed.classes), "warnings": list(warnings)}


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
    number = copying.copy_champion(
        services_of(request), project_id(body.project_src), project_id(body.project_dst)
    )
    return {"status": "ok", "version": number}
