"""A training in its worker's process, from its beginning to the end of its job."""

from __future__ import annotations

from functools import partial

import structlog

from backend.errors import (
    JobOver,
    LabelclimbError,
    LabelStudioDown,
    LockHeld,
    QueueError,
    StorageError,
)
from backend.steps import decide, queues
from backend.steps.training import prune
from backend.steps.training.train import train
from backend.steps.training.training_job import give_up, put_off
from backend.store import jobs
from backend.wiring import Services
from models.learning.training import TrainingDiverged

LEASE_S = 20.0  # after which a job whose process was killed can begin anew
WAIT_S = LEASE_S + 1.0

log = structlog.get_logger(__name__)


def run(services: Services, project_id: int, snapshot: str) -> None:
    """Train as a job that people can watch, unless another process is at it already.

    That is so when its worker was lost, or Redis has forgotten it, but it goes on. A dead one's
    lease ends while this one waits.
    """
    job_id = queues.train_job_id(project_id, snapshot)
    both = partial(log.warning, "two processes are at it; the first to end counts", job=job_id)
    try:
        with services.queues.lock(job_id, wait_s=WAIT_S, ttl_s=LEASE_S, taken=both):
            _run(services, project_id, job_id)
    except LockHeld as held:
        log.info("left to the process that is at it", job=job_id, reason=str(held))


def _run(services: Services, project_id: int, job_id: str) -> None:
    """Train; a reason that a person can act on ends the job for good.

    Such a failure counts as an answer: the same labels are tried again only on request. What says
    nothing of the labels (a full disk, an unreachable Label Studio) is tried again by itself.
    """
    with services.store.transaction() as tx:
        job = jobs.begin(tx, job_id, services.clock())
    if job is None:
        log.info("not begun: it was cancelled, or the store does not know it", job=job_id)
        return
    try:
        version = train(services, project_id, job_id)
    except JobOver as over:
        log.info("stopped", job=job_id, reason=str(over))
        return
    except LockHeld as held:
        log.info("waits for a GPU", job=job_id, reason=str(held))
        return
    except LabelStudioDown as error:
        _back_to_queue(services, job_id, str(error))
        raise  # the queue tries again, and the scheduler after it
    except (StorageError, QueueError) as error:
        put_off(services, job, str(error))
        return
    except (LabelclimbError, ValueError, TrainingDiverged) as error:
        give_up(services, job, str(error))
        return
    _end(services, project_id, job_id)
    prune.after_training(services, project_id)
    log.info("trained", project=project_id, version=version.name if version else "nothing new")


def _back_to_queue(services: Services, job_id: str, reason: str) -> None:
    with services.store.transaction() as tx:
        jobs.change(tx, job_id, unless=jobs.TRAINED, state="queued", error=reason)


def _end(services: Services, project_id: int, job_id: str) -> None:
    """End the job, or leave it publishing while its version is not shown yet."""
    if not decide.publication_due(services, project_id):
        with services.store.transaction() as tx:
            jobs.finish(tx, job_id, "done", None, services.clock())
