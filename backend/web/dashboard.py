"""The dashboard: pages on which a project manager sees where a project stands and steers it.

Everything on them is in the management API too. Pages are made here, from templates that escape;
the few lines of script only keep them fresh.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError

from backend.errors import InvalidPayload, UnknownThing
from backend.loop.budget import Plan
from backend.records import RollbackChoice, Weighting
from backend.steps import decide, projects, status
from backend.steps.listening import intake
from backend.steps.proposing import order
from backend.steps.training import training_job
from backend.store.jobs import ENDED, is_cancellable
from backend.web import forms
from backend.web.access import services_of
from backend.web.forms import Fields
from backend.web.manage import ProjectChange, ProjectId, list_strategies

PREFIX = "/dashboard"
PROJECT = "/projects/{project}"
STATIC = pathlib.Path(__file__).with_name("static")
STATIC_TYPES = {"dashboard.css": "text/css", "dashboard.js": "text/javascript"}
CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SHOWN_TASKS, SHOWN_JOBS = 100, 5
DONE = {  # what a page says after a change
    "strategy": "The strategy is changed; the queue is being ordered anew.",
    "settings": "Saved.",
    "train": "A training was asked for.",
    "activate": "The version is in use; its proposals are being published.",
    "cancel": "The job is cancelled.",
}
OPTION = "option."  # before the name of a strategy's option, in the form

router = APIRouter(prefix=PREFIX)
Posted = Annotated[Fields, Depends(forms.posted)]
FileName = Annotated[str, Path(max_length=40, pattern=r"^[a-z.]+$")]


@router.get("", response_class=HTMLResponse)
def all_projects(request: Request) -> HTMLResponse:
    """Show every connected project on a line."""
    return _page("projects.html", projects=status.all_projects(services_of(request)))


@router.get("/static/{name}")
def static(name: FileName) -> FileResponse:
    """Serve the style sheet and the script."""
    if name not in STATIC_TYPES:
        raise UnknownThing(f"no file {name!r}")
    return FileResponse(STATIC / name, media_type=STATIC_TYPES[name])


@router.get(PROJECT, response_class=HTMLResponse)
def overview(project: ProjectId, request: Request, done: str = "") -> HTMLResponse:
    """Show counts, trainings, and when to train."""
    found = projects.require(services_of(request), project)
    live = _live(request, project)
    return _page(
        "overview.html",
        done=done,
        page="Overview",
        project=found,
        weightings=get_args(Weighting),
        rollbacks=get_args(RollbackChoice),
        **live,
    )


@router.get(f"{PROJECT}/live", response_class=HTMLResponse)
def live_part(project: ProjectId, request: Request) -> HTMLResponse:
    """Give the part of the overview that changes by itself."""
    return _page("live.html", **_live(request, project))


@router.get(f"{PROJECT}/queue", response_class=HTMLResponse)
def queue(
    project: ProjectId, request: Request, done: str = "", annotators: str = "", minutes: str = ""
) -> HTMLResponse:
    """Show strategy and queue; with annotators and minutes, the batch for that time as well."""
    services = services_of(request)
    standing = status.of_project(services, project)
    entries = status.queue_of(services, project)
    known = list_strategies()
    return _page(
        "queue.html",
        done=done,
        page="Queue",
        status=standing,
        token=_token(request),
        strategies=known,
        chosen=next((one for one in known if one["name"] == standing.strategy), {"summary": ""}),
        history=order.history(services, project)[::-1],
        label_studio=services.settings.label_studio_url.rstrip("/"),
        annotators=annotators or "1",
        minutes=minutes or "60",
        plan=_plan(request, project, annotators, minutes) if annotators or minutes else None,
        entries=entries[:SHOWN_TASKS],
        total=len(entries),
    )


@router.get(f"{PROJECT}/versions", response_class=HTMLResponse)
def versions(project: ProjectId, request: Request, done: str = "") -> HTMLResponse:
    """Show the versions with what the gate decided."""
    services = services_of(request)
    return _page(
        "versions.html",
        done=done,
        page="Versions",
        status=status.of_project(services, project),
        token=_token(request),
        versions=status.versions_of(services, project),
    )


@router.post(f"{PROJECT}/strategy")
def choose_strategy(project: ProjectId, fields: Posted, request: Request) -> RedirectResponse:
    """Change the strategy and its options."""
    given = {n.removeprefix(OPTION): v for n, v in fields.items() if n.startswith(OPTION)}
    options = {name: _number_or_word(value) for name, value in given.items()}
    projects.choose_strategy(services_of(request), project, fields.get("strategy"), options)
    return _back(project, "/queue", "strategy")


@router.post(f"{PROJECT}/settings")
def change_settings(project: ProjectId, fields: Posted, request: Request) -> RedirectResponse:
    """Change when to train; the limits are those of the API."""
    try:
        change = ProjectChange.model_validate(dict(fields))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise InvalidPayload(f"{where}: {fault['msg']}") from error
    decide.change_policy(services_of(request), project, **change.model_dump(exclude_none=True))
    return _back(project, "", "settings")


@router.post(f"{PROJECT}/train")
def train(project: ProjectId, fields: Posted, request: Request) -> RedirectResponse:  # noqa: ARG001
    """Ask for a training now."""
    intake.request_training(services_of(request), project)
    return _back(project, "", "train")


@router.post(f"{PROJECT}/cancel")
def cancel(project: ProjectId, fields: Posted, request: Request) -> RedirectResponse:
    """Stop a job of this project."""
    services, job = services_of(request), fields.get("job", "")
    if projects.job(services, job).project != project:
        raise UnknownThing(f"project {project} has no job {job!r}")
    training_job.cancel(services, job)
    return _back(project, "", "cancel")


@router.post(f"{PROJECT}/rollback")
def rollback(project: ProjectId, fields: Posted, request: Request) -> RedirectResponse:
    """Go back to the former champion, unless somebody else was quicker."""
    projects.rollback(services_of(request), project, leave=forms.whole(fields, "leave"))
    return _back(project, "", "activate")


@router.post(f"{PROJECT}/activate")
def activate(project: ProjectId, fields: Posted, request: Request) -> RedirectResponse:
    """Use another stored version."""
    projects.activate(services_of(request), project, forms.whole(fields, "number"))
    return _back(project, "/versions", "activate")


def error_page(error: str, status_code: int) -> HTMLResponse:
    """Say on a page what went wrong."""
    return _page("error.html", status_code, error=error)


def _live(request: Request, project: int) -> dict[str, Any]:
    services = services_of(request)
    return {
        "status": status.of_project(services, project),
        "jobs": status.jobs_of(services, project, SHOWN_JOBS),
        "ended": ENDED,
        "is_cancellable": is_cancellable,
        "token": _token(request),
    }


def _plan(request: Request, project: int, annotators: str, minutes: str) -> Plan:
    given = {"annotators": annotators, "minutes": minutes}
    people, each = forms.whole(given, "annotators"), forms.number(given, "minutes")
    return order.plan(services_of(request), project, annotators=people, minutes=each)


def _token(request: Request) -> str:
    services = services_of(request)
    return forms.token(services.credentials, services.clock())


def _back(project: int, page: str, done: str) -> RedirectResponse:
    """Send the browser to a page anew, so that reloading it repeats no change."""
    return RedirectResponse(f"{PREFIX}/projects/{project}{page}?done={done}", status_code=303)


def _page(template: str, status_code: int = 200, *, done: str = "", **values: Any) -> HTMLResponse:
    text = _templates().get_template(template).render(said=DONE.get(done), **values)
    return HTMLResponse(text, status_code, {"Content-Security-Policy": CONTENT_POLICY})


@lru_cache(maxsize=1)
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("backend.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["moment"] = _moment
    made.filters["standing"] = _standing
    return made


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _standing(detail: Mapping[str, Any]) -> str:
    """Say in one line where a job stands."""
    parts = [str(detail.get("stage", ""))]
    if detail.get("class_name"):
        parts.append(str(detail["class_name"]))
    if detail.get("steps"):
        parts.append(f"step {detail.get('step', 0)} of {detail['steps']}")
    for name, label in (("loss", "loss"), ("f_measure", "F")):
        if detail.get(name) is not None:
            parts.append(f"{label} {detail[name]:.3f}")
    if detail.get("seconds_left") is not None:
        parts.append(f"{detail['seconds_left']:.0f} s left")
    return ", ".join(part for part in parts if part)


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
