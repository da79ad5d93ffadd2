"""Jobs in the management API: what waits, works and has ended, and how to stop it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from backend.records import Job
from backend.steps import projects, status
from backend.steps.training import training_job
from backend.web.access import services_of
from backend.web.bodies import MOST

router = APIRouter(prefix="/api")

ProjectId = Annotated[int, Path(ge=0, le=MOST)]
JobId = Annotated[str, Path(max_length=200, pattern=r"^[\w.-]+$")]
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/jobs")
def list_all(request: Request, limit: Limit = 50) -> list[Job]:
    """List the latest jobs of all projects, newest first."""
    return status.latest_jobs(services_of(request), limit)


@router.get("/projects/{project}/jobs")
def list_jobs(project: ProjectId, request: Request, limit: Limit = 50) -> list[Job]:
    """List a project's latest jobs, newest first."""
    return status.jobs_of(services_of(request), project, limit)


@router.get("/jobs/{job}")
def get_job(job: JobId, request: Request) -> Job:
    """Say where a job stands: its state, stage, loss, F-measure and seconds left."""
    return projects.job(services_of(request), job)


@router.post("/jobs/{job}/cancel")
def cancel(job: JobId, request: Request) -> Job:
    """Stop a job that waits or trains; its memory is free at once, and nothing of it is kept."""
    return training_job.cancel(services_of(request), job)
