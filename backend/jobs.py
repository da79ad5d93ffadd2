"""The functions that RQ workers call: plain ids in, everything else from the services."""

from __future__ import annotations

import os
from functools import lru_cache

from backend.settings import Settings
from backend.steps import intake
from backend.store import jobs
from backend.wiring import Services, build


@lru_cache(maxsize=1)
def services() -> Services:
    """Return this process's services, built from the environment on first use."""
    return build(Settings.from_env(os.environ))


def handle_event(event_id: int) -> None:
    """Apply one event of the inbox."""
    intake.handle(services(), event_id)


def publish(project: int, step: int) -> None:
    """Predict one chunk of a project's open tasks, or show what is complete."""
    from backend.steps.publish import publish as publish_step

    publish_step(services(), project, step=step)


def propose(project: int, number: int, tasks: list[int]) -> None:
    """Predict single tasks with a version, before everything else."""
    from backend.steps.propose import propose_ids

    propose_ids(services(), project, number, tasks)


def see(project: int, number: int, task: int, iterations: int | None) -> None:
    """Look at a task with a version, so that a person's click can be answered."""
    from backend.steps.seeing import see as see_step

    see_step(services(), project, number, task, iterations)


def train(project: int, snapshot: str) -> None:
    """Train and judge one version; its fate can be watched in the store."""
    from backend.steps.train import run

    run(services(), project, snapshot)


def mark_failed(job_id: str, reason: str) -> None:
    """Note a job's failure where people look; called by the queue when its retries are used up."""
    own = services()
    with own.store.reading() as tx:
        job = jobs.get(tx, job_id)
    if job is not None and job.kind == "train":
        from backend.steps.train import give_up

        give_up(own, job, reason)
