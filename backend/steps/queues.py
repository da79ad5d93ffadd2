"""Which job goes to which queue, under which id: the only list of background work."""

from __future__ import annotations

import hashlib
from typing import Any

import structlog

from backend.errors import QueueError
from backend.records import Job
from backend.store import jobs
from backend.wiring import Services

EVENTS, PUBLISH, TRAIN = "events", "publish", "train"

EVENT_TIMEOUT_S = 300
PUBLISH_TIMEOUT_S = 1800

log = structlog.get_logger(__name__)


def event(services: Services, event_id: int) -> None:
    """Wake a worker for an event; it is safe in the inbox when Redis is down."""
    _try(services, EVENTS, "handle_event", f"event-{event_id}", EVENT_TIMEOUT_S, event_id=event_id)


def publish(services: Services, project: int) -> None:
    """Have a project's open tasks predicted, ranked and published."""
    _try(services, PUBLISH, "publish", f"publish-{project}", PUBLISH_TIMEOUT_S, project=project)


def predict_block(
    services: Services, project: int, number: int, block: int, tasks: list[int]
) -> None:
    """Have a block of tasks predicted with a version; a block is never in two jobs."""
    job_id = f"predict-{project}-{number}-{block}"
    given: dict[str, Any] = {"project": project, "number": number, "tasks": tasks}
    _try(services, PUBLISH, "predict_block", job_id, PUBLISH_TIMEOUT_S, **given)


def train(services: Services, project: int, snapshot: str) -> None:
    """Have a version trained from a snapshot, unless a training of the project is under way.

    The store knows of the job before a worker can: whoever decides at the same time sees it.
    """
    job_id = train_job_id(project, snapshot)
    job = Job(job_id, project, "train", "queued", created_at=services.clock())
    with services.store.transaction() as tx:
        is_new = jobs.queue(tx, job)
    if is_new:
        _train(services, job)


def train_again(services: Services, job: Job) -> None:
    """Have a training that gave its worker back taken by the next one; twice is once."""
    _train(services, job, at_front=True)


def _train(services: Services, job: Job, *, at_front: bool = False) -> None:
    given = {"project": job.project, "snapshot": job.id.rpartition("-")[2]}
    _try(
        services,
        TRAIN,
        "train",
        job.id,
        services.settings.train_timeout_s,
        on_killed="backend.jobs.mark_killed",
        at_front=at_front,
        **given,
    )


def train_job_id(project: int, snapshot: str) -> str:
    """Name the training of a snapshot."""
    return f"train-{project}-{snapshot}"


def propose_now(
    services: Services, project: int, number: int, tasks: list[int], timeout_s: float
) -> bool:
    """Have single tasks predicted before everything else; True when done in time.

    Raises QueueError when Redis is down.
    """
    digest = hashlib.sha256(repr(sorted(tasks)).encode()).hexdigest()[:16]
    job_id = f"propose-{project}-{number}-{digest}"
    services.queues.enqueue(
        PUBLISH,
        "backend.jobs.propose",
        job_id=job_id,
        kwargs={"project": project, "number": number, "tasks": tasks},
        at_front=True,
        timeout_s=PUBLISH_TIMEOUT_S,
    )
    return services.queues.wait(job_id, timeout_s) == "finished"


def see_now(
    services: Services,
    project: int,
    number: int,
    task: int,
    iterations: int | None,
    timeout_s: float,
) -> bool:
    """Have a task looked at for a person who clicked, before everything else; True when in time.

    Raises QueueError when Redis is down.
    """
    job_id = f"see-{project}-{number}-{task}-{iterations or 0}"
    services.queues.enqueue(
        PUBLISH,
        "backend.jobs.see",
        job_id=job_id,
        kwargs={"project": project, "number": number, "task": task, "iterations": iterations},
        at_front=True,
        timeout_s=PUBLISH_TIMEOUT_S,
    )
    return services.queues.wait(job_id, timeout_s) == "finished"


def _try(
    services: Services,
    queue: str,
    name: str,
    job_id: str,
    timeout_s: int,
    *,
    on_killed: str | None = None,
    at_front: bool = False,
    **kwargs: Any,
) -> None:
    """Enqueue; when Redis is down, log it: the scheduler enqueues what the store shows as due."""
    try:
        services.queues.enqueue(
            queue,
            f"backend.jobs.{name}",
            job_id=job_id,
            kwargs=kwargs,
            at_front=at_front,
            timeout_s=timeout_s,
            on_failure="backend.jobs.mark_failed",
            on_killed=on_killed,
        )
    except QueueError as error:
        log.warning("not enqueued; the scheduler will", job=job_id, reason=str(error))
