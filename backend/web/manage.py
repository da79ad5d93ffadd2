"""The management API: what a project manager or a script reads and changes at run time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

import strategies.base
from backend.records import Job, Project, Version
from backend.settings import LONGEST_WAIT_S
from backend.steps import intake, projects, status
from backend.web.access import services_of

router = APIRouter(prefix="/api")

JsonObject = dict[str, Any]


class ProjectChange(BaseModel):
    """What can be changed of a project; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    strategy: str | None = None
    train_after: int | None = Field(default=None, ge=1)
    quiet_s: float | None = Field(default=None, ge=0, le=LONGEST_WAIT_S)
    max_wait_s: float | None = Field(default=None, ge=0, le=LONGEST_WAIT_S)


class Activation(BaseModel):
    """The version to use."""

    number: int = Field(ge=1)


@router.get("/strategies")
def list_strategies() -> list[JsonObject]:
    """Name every strategy with one sentence about it."""
    return [
        {"name": name, "summary": strategies.base.get(name).summary}
        for name in strategies.base.names()
    ]


@router.get("/projects")
def list_projects(request: Request) -> list[status.Status]:
    """Say where every connected project stands."""
    return status.all_projects(services_of(request))


@router.get("/projects/{project}")
def get_project(project: int, request: Request) -> status.Status:
    """Say where a project stands, and why it is not training right now."""
    return status.of_project(services_of(request), project)


@router.patch("/projects/{project}")
def change_project(project: int, change: ProjectChange, request: Request) -> Project:
    """Change the strategy (the queue is ordered anew at once) or the training policy."""
    services = services_of(request)
    changes = change.model_dump(exclude_none=True)
    strategy = changes.pop("strategy", None)
    if strategy is not None:
        projects.choose_strategy(services, project, strategy)
    return projects.change(services, project, **changes)


@router.post("/projects/{project}/train", status_code=202)
def train(project: int, request: Request) -> JsonObject:
    """Ask for a training now; the project's status says what comes of it."""
    return {"event": intake.request_training(services_of(request), project)}


@router.get("/projects/{project}/versions")
def list_versions(project: int, request: Request) -> list[Version]:
    """List a project's versions with their figures and the gate's decisions, newest first."""
    return status.versions_of(services_of(request), project)


@router.post("/projects/{project}/activate")
def activate(project: int, wanted: Activation, request: Request) -> JsonObject:
    """Use another stored version: promotion by hand, or rollback."""
    version = projects.activate(services_of(request), project, wanted.number)
    return {"champion": version.name}


@router.get("/projects/{project}/jobs")
def list_jobs(project: int, request: Request) -> list[Job]:
    """List a project's latest jobs, newest first."""
    return status.jobs_of(services_of(request), project)


@router.get("/projects/{project}/queue")
def queue(project: int, request: Request) -> list[JsonObject]:
    """List the open tasks in the order of the strategy, most urgent first."""
    return [asdict(entry) for entry in status.queue_of(services_of(request), project)]
