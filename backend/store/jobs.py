"""Background work as people see it; Redis may forget it, these rows do not."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from backend.records import Job, JobState
from backend.store import statements
from backend.store.schema import jobs

ENDED: tuple[JobState, ...] = ("done", "failed", "cancelled")
TRAINED: tuple[JobState, ...] = ("publishing", *ENDED)  # nothing of it is at work in a trainer


def put(tx: Connection, job: Job) -> None:
    """Insert a job, or replace the one with its id."""
    statements.upsert(tx, jobs, [{**statements.values(job), "detail": dict(job.detail)}])


def get(tx: Connection, id: str) -> Job | None:
    """Return a job."""
    row = tx.execute(select(jobs).where(jobs.c.id == id)).one_or_none()
    return None if row is None else statements.record(Job, row)


def list(tx: Connection, project: int, limit: int = 20) -> builtins.list[Job]:
    """Return a project's latest jobs, newest first."""
    return _listed(tx, jobs.c.project == project, limit)


def latest(tx: Connection, limit: int = 20) -> builtins.list[Job]:
    """Return the latest jobs of all projects, newest first."""
    return _listed(tx, jobs.c.id.is_not(None), limit)


def running(tx: Connection, project: int, kind: str) -> builtins.list[Job]:
    """Return a project's jobs of a kind that wait or are at work, oldest first.

    One that is publishing has done its own work.
    """
    found = select(jobs).where(
        jobs.c.project == project, jobs.c.kind == kind, jobs.c.state.not_in(TRAINED)
    )
    found = found.order_by(jobs.c.created_at, jobs.c.id)
    return [statements.record(Job, row) for row in tx.execute(found)]


def waiting(tx: Connection, before: datetime | None = None) -> builtins.list[Job]:
    """Return the jobs of all projects that wait for a GPU, oldest first.

    before: only those that were queued earlier; None: all.
    """
    found = _listed(tx, jobs.c.state == "waiting", None)[::-1]
    return [job for job in found if before is None or (job.created_at or before) < before]


def queue(tx: Connection, job: Job) -> bool:
    """Note a job that is to be enqueued; False when one of its project and kind is under way.

    A job that is tried again by itself still knows which batches were too large for the memory.
    """
    if running(tx, job.project, job.kind):
        return False
    former = get(tx, job.id)
    if former is not None and former.again_at is not None:
        job = replace(job, halvings=former.halvings, on_cpu=former.on_cpu)
    put(tx, job)
    return True


def begin(tx: Connection, id: str, at: datetime) -> Job | None:
    """Note that a worker has taken a job; None when it is unknown or was cancelled."""
    chosen = jobs.update().where(jobs.c.id == id, jobs.c.state != "cancelled")
    begun = {"state": "running", "started_at": at, "finished_at": None, "error": None}
    found = tx.execute(chosen.values(**begun, again_at=None))
    return get(tx, id) if found.rowcount else None


def change(
    tx: Connection, id: str, *, unless: Collection[JobState] = ENDED, **changes: Any
) -> bool:
    """Change fields of a job; False when it is in one of the states `unless`, or unknown."""
    chosen = jobs.update().where(jobs.c.id == id, jobs.c.state.not_in(unless))
    return bool(tx.execute(chosen.values(**changes)).rowcount)


def finish(
    tx: Connection,
    id: str,
    state: JobState,
    error: str | None,
    at: datetime,
    again_at: datetime | None = None,
) -> bool:
    """End a job; one that has ended already keeps its first end, and gives False.

    So does one that fails after its version was made: by another process, its own being outrun.
    """
    unless = TRAINED if state == "failed" else ENDED
    ended = {"state": state, "error": error, "finished_at": at, "again_at": again_at}
    return change(tx, id, unless=unless, **ended)


def is_cancellable(job: Job) -> bool:
    """Say whether a job waits, works, or was put off, so that it would begin again by itself."""
    return job.state not in TRAINED or job.again_at is not None


def cancel(tx: Connection, id: str, at: datetime) -> bool:
    """End a job on request; False when that cannot be done any more (`is_cancellable`)."""
    chosen = jobs.update().where(
        jobs.c.id == id, jobs.c.state.not_in(TRAINED) | jobs.c.again_at.is_not(None)
    )
    ended = {"state": "cancelled", "error": None, "finished_at": at, "again_at": None}
    return bool(tx.execute(chosen.values(**ended)).rowcount)


def cancel_all(tx: Connection, project: int, why: str, at: datetime) -> None:
    """End all of a project's jobs; a process at work on one stops with its next step."""
    chosen = jobs.update().where(jobs.c.project == project, jobs.c.state.not_in(ENDED))
    tx.execute(chosen.values(state="cancelled", error=why, finished_at=at, again_at=None))


def progress(
    tx: Connection, id: str, detail: Mapping[str, Any], state: JobState | None = None
) -> bool:
    """Replace a job's detail, and its state when given; False when it has ended."""
    changes: dict[str, Any] = {} if state is None else {"state": state}
    return change(tx, id, detail=dict(detail), **changes)


def publishing(tx: Connection, project: int) -> builtins.list[Job]:
    """Return a project's jobs whose version is being published, oldest first."""
    found = _listed(tx, (jobs.c.project == project) & (jobs.c.state == "publishing"), None)
    return found[::-1]


def _listed(tx: Connection, wanted: ColumnElement[bool], limit: int | None) -> builtins.list[Job]:
    found = select(jobs).where(wanted)
    found = found.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
    return [statements.record(Job, row) for row in tx.execute(found)]
