"""What becomes of a training that takes longer than it may."""

from __future__ import annotations

from backend.steps import queues
from backend.steps.training import training_job
from backend.store import jobs
from backend.wiring import Services


def up(services: Services, project_id: int, snapshot: str) -> None:
    """End a training whose time is up; trying it again would take as long."""
    with services.store.reading() as tx:
        job = jobs.get(tx, queues.train_job_id(project_id, snapshot))
    if job is None:
        return
    reason = (
        f"it took longer than TRAIN_TIMEOUT_S={services.settings.train_timeout_s} seconds and was "
        "stopped; set that higher for all parts of labelclimb, or have it take less: by a GPU "
        "(DEVICE), by several (TRAIN_PROCESSES), by PROFILE=cpu. Then ask for the training again"
    )
    training_job.give_up(services, job, reason)
