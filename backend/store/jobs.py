"""Background work as people see it; Redis may forget it, these rows do not."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from backend.records import Job, JobState
from backend.store import statements
from backend.store.schema import jobs

ENDED: tuple[JobState, ...] = ("done", "failed", "cancelled")


def put(tx: Connection, job: Job) -> None:
    """Insert a job, or replace the one with its id."""
    statements.upsert(tx, jobs, [{**statements.values(job), "detail": dict(job.detail)}])


def get(tx: Connection, id: str) -> Job | None:
    """Return a job."""
    row = tx.execute(select(jobs).where(jobs.c.id == id)).one_or_none()
    return None if row is None else statements.record(Job, row)


def list(tx: Connection, project: int, limit: int = 20) -> builtins.list[Job]:
    """Return a project's latest jobs, newest first."""
    found = select(jobs).where(jobs.c.project == project)
    found = found.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
    return [statements.record(Job, row) for row in tx.execute(found)]


def running(tx: Connection, project: int, kind: str) -> builtins.list[Job]:
    """Return a project's jobs of a kind that have not ended, queued ones included, oldest first."""
    found = select(jobs).where(
        jobs.c.project == project, jobs.c.kind == kind, jobs.c.state.not_in(ENDED)
    )
    found = found.order_by(jobs.c.created_at, jobs.c.id)
    return [statements.record(Job, row) for row in tx.execute(found)]


def finish(tx: Connection, id: str, state: JobState, error: str | None, at: datetime) -> None:
    """End a job; one that has ended already keeps its first end."""
    chosen = jobs.update().where(jobs.c.id == id, jobs.c.state.not_in(ENDED))
    tx.execute(chosen.values(state=state, error=error, finished_at=at))


def progress(
    tx: Connection, id: str, detail: Mapping[str, Any], state: JobState | None = None
) -> None:
    """Replace a job's detail, and its state when given, unless it has ended."""
    change = {} if state is None else {"state": state}
    chosen = jobs.update().where(jobs.c.id == id, jobs.c.state.not_in(ENDED))
    tx.execute(chosen.values(detail=dict(detail), **change))
