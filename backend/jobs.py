"""The functions that RQ workers call: plain ids in, everything else from the services."""

from __future__ import annotations

import os
from functools import lru_cache

from backend.processes import priority
from backend.queueing.jobs import TimedOut
from backend.settings import Settings
from backend.steps.listening import intake
from backend.steps.queues import PUBLISH
from backend.store import jobs
from backend.wiring import Services, build


@lru_cache(maxsize=1)
def services() -> Services:
    """Return this process's services, built from the environment on first use."""
    return build(Settings.from_env(os.environ))


def handle_event(event_id: int) -> None:
    """Apply one event of the inbox."""
    intake.handle(services(), event_id)


def publish(project: int) -> None:
    """Have a project's open tasks predicted, or show what is complete."""
    from backend.steps.proposing.publish import publish as publish_step

    publish_step(services(), project)


def predict_block(project: int, number: int, tasks: list[int]) -> None:
    """Predict a block of open tasks with a version, as far as the time allows."""
    from backend.steps.proposing.backlog import predict_block as predict_step

    predict_step(services(), project, number, tasks)


def propose(project: int, number: int, tasks: list[int]) -> None:
    """Predict single tasks with a version, before everything else."""
    from backend.steps.proposing.propose import propose_ids

    with priority.hurried(PUBLISH):
        propose_ids(services(), project, number, tasks)


def see(project: int, number: int, task: int, iterations: int | None) -> None:
    """Look at a task with a version, so that a person's click can be answered."""
    from backend.steps.proposing.seeing import see as see_step

    with priority.hurried(PUBLISH):
        see_step(services(), project, number, task, iterations)


def train(project: int, snapshot: str) -> None:
    """Train and judge one version; its fate can be watched in the store."""
    from backend.steps.training import training_time
    from backend.steps.training.training_run import run

    try:
        run(services(), project, snapshot)
    except TimedOut:
        training_time.up(services(), project, snapshot)


def mark_failed(job_id: str, reason: str) -> None:
    """Note a job's failure where people look; called by the queue when its retries are used up."""
    own = services()
    with own.store.reading() as tx:
        job = jobs.get(tx, job_id)
    if job is not None and job.kind == "train":
        from backend.steps.training.training_job import failed

        failed(own, job, reason)


def mark_killed(job_id: str, reason: str) -> None:
    """Note that a job's process was killed; called by the queue, which tries it again."""
    own = services()
    with own.store.reading() as tx:
        job = jobs.get(tx, job_id)
    if job is not None:
        from backend.steps.training.training_job import killed

        killed(own, job, reason)
