"""The management API: what a project manager or a script reads and changes at run time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

import strategies.base
from backend.records import InboxEvent, Project, RollbackChoice, Version, Weighting
from backend.settings_parts import LONGEST_WAIT_S
from backend.steps import decide, projects, status
from backend.steps.listening import intake, reconcile
from backend.steps.proposing import order
from backend.web.access import services_of
from backend.web.bodies import MOST

router = APIRouter(prefix="/api")

JsonObject = dict[str, Any]
ProjectId = Annotated[int, Path(ge=0, le=MOST)]
EventId = Annotated[int, Path(ge=0, le=MOST)]
Limit = Annotated[int, Query(ge=1, le=1000)]


class ProjectChange(BaseModel):
    """What can be changed of a project; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    strategy: str | None = Field(default=None, min_length=1)
    strategy_options: dict[str, float | str] | None = None
    train_after: int | None = Field(default=None, ge=1, le=MOST)
    quiet_s: float | None = Field(default=None, ge=0, le=LONGEST_WAIT_S)
    max_wait_s: float | None = Field(default=None, ge=0, le=LONGEST_WAIT_S)
    schedule: str | None = Field(default=None, max_length=200)
    rollback: RollbackChoice | None = None
    weighting: Weighting | None = None


class Rollback(BaseModel):
    """The version to leave; if another one is in use by now, nothing happens. None: any."""

    leave: int | None = Field(default=None, ge=1, le=MOST)


class Activation(BaseModel):
    """The version to use."""

    number: int = Field(ge=1, le=MOST)


@router.get("/strategies")
def list_strategies() -> list[JsonObject]:
    """Name every strategy with one sentence about it, and its options."""
    return [_described(name) for name in strategies.base.names()]


def _described(name: str) -> JsonObject:
    """Describe a strategy; a foreign one that cannot be used says why."""
    try:
        strategy = strategies.base.get(name)
    except ValueError as error:
        return {"name": name, "summary": f"Cannot be used: {error}.", "options": []}
    options = [
        {"name": o.name, "default": o.default, "help": o.help, "wanted": o.wanted}
        for o in strategies.base.options_of(strategy)
    ]
    return {"name": name, "summary": strategy.summary, "options": options}


@router.get("/projects")
def list_projects(request: Request) -> list[status.Status]:
    """Say where every connected project stands."""
    return status.all_projects(services_of(request))


@router.get("/projects/{project}")
def get_project(project: ProjectId, request: Request) -> status.Status:
    """Say where a project stands, and why it is not training right now."""
    return status.of_project(services_of(request), project)


@router.patch("/projects/{project}")
def change_project(project: ProjectId, change: ProjectChange, request: Request) -> Project:
    """Change the strategy or its options (the queue is ordered anew at once), or when to train.

    A strategy without options takes its defaults; options without a strategy are the present one's.
    """
    services = services_of(request)
    changes = change.model_dump(exclude_none=True)
    strategy, options = (changes.pop(name, None) for name in ("strategy", "strategy_options"))
    if strategy is not None or options is not None:
        projects.choose_strategy(services, project, strategy, options)
    return decide.change_policy(services, project, **changes)


@router.post("/projects/{project}/train", status_code=202)
def train(project: ProjectId, request: Request) -> JsonObject:
    """Ask for a training now; the project's status says what comes of it."""
    return {"event": intake.request_training(services_of(request), project)}


@router.post("/projects/{project}/reconcile")
def reconcile_project(project: ProjectId, request: Request, full: bool = True) -> JsonObject:
    """Compare with Label Studio now; full: all tasks, otherwise those that changed lately."""
    services = services_of(request)
    projects.require(services, project)
    return asdict(reconcile.reconcile(services, project, full=full))


@router.get("/inbox")
def list_events(request: Request, state: str = "dead", limit: Limit = 100) -> list[InboxEvent]:
    """List events that wait (pending) or were given up (dead), without their payloads."""
    return status.events_of(services_of(request), state, limit)


@router.post("/inbox/{event}/retry", status_code=202)
def retry_event(event: EventId, request: Request) -> JsonObject:
    """Have an event that was given up tried again."""
    intake.retry(services_of(request), event)
    return {"event": event}


@router.get("/projects/{project}/versions")
def list_versions(project: ProjectId, request: Request) -> list[Version]:
    """List a project's versions with their figures and the gate's decisions, newest first."""
    return status.versions_of(services_of(request), project)


@router.post("/projects/{project}/activate")
def activate(project: ProjectId, wanted: Activation, request: Request) -> JsonObject:
    """Use another stored version; nothing is trained or predicted anew."""
    version = projects.activate(services_of(request), project, wanted.number)
    return {"champion": version.name}


@router.post("/projects/{project}/rollback")
def rollback(project: ProjectId, wanted: Rollback, request: Request) -> JsonObject:
    """Go back to the champion before the present one; nothing is trained or predicted anew."""
    version = projects.rollback(services_of(request), project, leave=wanted.leave)
    return {"champion": version.name}


@router.get("/projects/{project}/queue")
def queue(project: ProjectId, request: Request) -> list[JsonObject]:
    """List the open tasks in the order of the strategy, most urgent first."""
    return [asdict(entry) for entry in status.queue_of(services_of(request), project)]


@router.get("/projects/{project}/budget")
def budget(project: ProjectId, annotators: int, minutes: float, request: Request) -> JsonObject:
    """Choose the tasks that teach the most within so much human time, with a forecast."""
    services = services_of(request)
    return asdict(order.plan(services, project, annotators=annotators, minutes=minutes))


@router.get("/projects/{project}/review")
def review(project: ProjectId, request: Request) -> list[JsonObject]:
    """List finished tasks by how strongly their annotation contradicts what was predicted."""
    return [asdict(suspect) for suspect in order.review(services_of(request), project)]


@router.get("/projects/{project}/choices")
def choices(project: ProjectId, request: Request) -> list[JsonObject]:
    """List which strategy ordered the queue since when, and why, the newest last."""
    return [asdict(choice) for choice in order.history(services_of(request), project)]
