"""What the scheduler does at each tick: everything that is due and that nobody else woke up."""

from __future__ import annotations

from datetime import timedelta

import structlog

from backend.errors import LabelclimbError, QueueError
from backend.steps import decide, queues
from backend.steps.listening import reconcile
from backend.steps.training import training_job, watch
from backend.store import inbox, jobs, projects, reconciling
from backend.wiring import Services

KEEP_DONE = timedelta(days=7)
GRACE = timedelta(seconds=30)  # in which a new job need not be in the queue yet
PAUSE = timedelta(seconds=10)  # between two comparisons that events asked for
WOKEN = 200  # oldest events that workers are woken for in one tick; most have been already

log = structlog.get_logger(__name__)


def tick(services: Services) -> None:
    """Wake workers for kept events, note dead jobs, enqueue due trainings and publications."""
    try:
        services.queues.ping()
    except QueueError as error:
        log.warning("waiting for Redis; events are kept", reason=str(error))
        return
    with services.store.reading() as tx:
        waiting = inbox.pending_ids(tx, limit=WOKEN)
        states = [reconciling.get(tx, project.id) for project in projects.all(tx)]
        known = [state.project for state in states if state.gone_at is None]
    for event_id in waiting:
        queues.event(services, event_id)
    for project_id in known:
        try:
            note_dead_jobs(services, project_id)
            decide.next_steps(services, project_id)
            watch.look(services, project_id)
        except LabelclimbError as error:
            log.warning("not looked after now", project=project_id, reason=str(error))
    try:
        training_job.queue_waiting(services)
    except QueueError as error:
        log.warning("trainings wait for Redis", reason=str(error))


def reconcile_all(services: Services, *, full: bool = False) -> None:
    """Reconcile every project; one that Label Studio refuses does not hold up the others.

    Events that were handled long ago are forgotten here.
    """
    with services.store.transaction() as tx:
        inbox.forget_done(tx, services.clock() - KEEP_DONE)
        known = [project.id for project in projects.all(tx)]
    for project_id in known:
        _reconcile(services, project_id, full=full)


def reconcile_wanted(services: Services) -> None:
    """Reconcile where an event could not be understood alone; a moment's events are one."""
    latest = services.clock() - PAUSE
    with services.store.reading() as tx:
        states = [reconciling.get(tx, project.id) for project in projects.all(tx)]
    for state in states:
        if state.due and (state.tried_at is None or state.tried_at <= latest):
            _reconcile(services, state.project, full=False)


def _reconcile(services: Services, project_id: int, *, full: bool) -> None:
    try:
        found = reconcile.reconcile(services, project_id, full=full)
    except LabelclimbError as error:
        log.warning("not reconciled", project=project_id, reason=str(error))
    else:
        log.info("reconciled", project=project_id, **vars(found))


def note_dead_jobs(services: Services, project_id: int) -> None:
    """Mark as failed what the store believes to be running and the queue has lost.

    Such a training is tried again at once: nothing is wrong with it. One that waits for a GPU need
    not be in the queue (`training_job.queue_waiting`).
    """
    with services.store.reading() as tx:
        known = jobs.running(tx, project_id, "train")
    running = [job for job in known if job.state != "waiting"]
    now = services.clock()
    for job in running:
        touched_at = max(filter(None, (job.created_at, job.started_at)), default=None)
        is_young = touched_at is not None and now - GRACE < touched_at <= now
        if is_young or not training_job.is_lost(services, job):
            continue
        cause = "its queue was lost" if job.state == "queued" else "its worker died"
        reason = f"{cause}; the training starts again by itself"
        training_job.put_off(services, job, reason, after=timedelta(0))
