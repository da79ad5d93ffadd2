"""A training as a job: ended in words that a person can act on, cancelled, put off."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import structlog

from backend.errors import JobOver, QueueError, UnknownThing
from backend.records import Job
from backend.steps import queues
from backend.store import jobs, projects
from backend.wiring import Services

AGAIN_AFTER = timedelta(minutes=5)  # what is nobody's fault is tried again so much later
ELSEWHERE_AFTER = timedelta(minutes=2)  # what waits for a GPU is offered to all workers again
OUTSIDE = ("LabelStudioDown", "StorageError", "QueueError", "OperationalError", "InterfaceError")

log = structlog.get_logger(__name__)


def queue_waiting(services: Services) -> None:
    """Queue trainings that wait for a GPU again, before all others, the oldest first.

    Of those that wait for the same GPUs the oldest, once nobody holds them; each of them now and
    then, as a worker with another GPU may take it. Who holds them is not known to a Redis that was
    wiped a moment ago. Raises QueueError.
    """
    if not services.queues.settled():
        return
    with services.store.reading() as tx:
        waiting = jobs.waiting(tx)
    now, wanted, chosen = services.clock(), set[str](), []
    for job in waiting:
        lines = [set(gpus) for gpus in job.detail.get("gpus", ())]
        was_tried = job.started_at is not None and now - ELSEWHERE_AFTER < job.started_at <= now
        is_next = any(_is_free(services, gpus) for gpus in lines if wanted.isdisjoint(gpus))
        if is_next or not was_tried:
            chosen.append(job)
        wanted = wanted.union(*lines)
    for job in reversed(chosen):
        queues.train_again(services, job)


def is_lost(services: Services, job: Job) -> bool:
    """Say whether no process is at a training, and none will be: not even its queue knows it.

    One that Redis has forgotten goes on in its process, which shows itself again soon.
    """
    known = services.queues
    return not known.is_alive(job.id) and known.settled() and not known.is_held(job.id)


def _is_free(services: Services, gpus: Iterable[str]) -> bool:
    return not any(services.queues.is_held(gpu) for gpu in gpus)


def failed(services: Services, job: Job, reason: str) -> None:
    """End a training whose tries are used up; reason: begins with the name of an error's class."""
    outside = reason.partition(":")[0] in OUTSIDE
    (put_off if outside else give_up)(services, job, reason)


def put_off(services: Services, job: Job, reason: str, after: timedelta = AGAIN_AFTER) -> None:
    """End a training whose failure says nothing of the labels: it is tried again by itself."""
    log.warning("training put off", project=job.project, reason=reason)
    now = services.clock()
    with services.store.transaction() as tx:
        jobs.finish(tx, job.id, "failed", reason, now, again_at=now + after)


def give_up(services: Services, job: Job, reason: str) -> None:
    """End a training as failed; the same labels are tried again only on request."""
    log.warning("training failed", project=job.project, reason=reason)
    with services.store.transaction() as tx:
        if not jobs.finish(tx, job.id, "failed", reason, services.clock()):
            return
        project = projects.get(tx, job.project)
        asked = project.train_requested_at if project else None
        if asked is not None and job.created_at is not None and asked <= job.created_at:
            projects.update(tx, job.project, train_requested_at=None)


def killed(services: Services, job: Job, reason: str) -> None:
    """Note that a training's process was killed, most likely for memory: the next one takes less.

    Unless somebody cancelled it.
    """
    note = f"{reason} It begins again with batches of half the size"
    log.warning("training killed", job=job.id, reason=note)
    notes = [*job.detail.get("notes", ()), note]
    with services.store.transaction() as tx:
        jobs.change(
            tx,
            job.id,
            unless=jobs.TRAINED,
            state="queued",
            halvings=job.halvings + 1,
            detail={**job.detail, "notes": notes},
        )


def cancel(services: Services, job_id: str) -> Job:
    """Stop a job that waits or trains; its process ends at once and its memory is free.

    One that was put off does not begin again. The labels that it was to learn count as dealt with:
    a training on them comes on request, or with enough new ones. Raises UnknownThing, and JobOver
    for one that has made its version or ended. When Redis is down the job is cancelled all the
    same: its process notices with its next step.
    """
    now = services.clock()
    with services.store.transaction() as tx:
        job = jobs.get(tx, job_id)
        if job is None:
            raise UnknownThing(f"no job {job_id!r}; `labelclimb jobs` lists the latest ones")
        if not jobs.cancel(tx, job_id, now):
            raise JobOver(_why_over(jobs.get(tx, job_id) or job))
        project = projects.get(tx, job.project)
        if project is not None:
            since = max(filter(None, (job.created_at, project.last_snapshot_at)), default=None)
            projects.update(tx, project.id, last_snapshot_at=since, train_requested_at=None)
    try:
        services.queues.cancel(job_id)
    except QueueError as error:
        log.warning("cancelled; its process stops with its next step", reason=str(error))
    else:
        log.info("cancelled", job=job_id)
    with services.store.reading() as tx:
        return jobs.get(tx, job_id) or job


def _why_over(job: Job) -> str:
    if job.state == "publishing":
        return (
            f"job {job.id} has made its version, which is being published; "
            "`labelclimb activate` goes back to another one"
        )
    return f"job {job.id} cannot be cancelled: it is {job.state} already"
