"""Predict an image with less when memory runs out: smaller tiles, then the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from backend.records import Task
from backend.steps import progress
from backend.wiring import Services
from models.base import ClassSpec, Fitted, Image, TaskProposal
from models.memory import SHORTAGES, is_out_of_memory, release

log = structlog.get_logger(__name__)


def propose(
    services: Services,
    task: Task,
    number: int,
    fitted: Fitted,
    image: Image,
    specs: Sequence[ClassSpec],
) -> TaskProposal:
    """Propose for a task with version `number`; tasks after it are spared the same failure.

    Raises what the version raises, also when memory runs out with the least that can be tried.
    """
    while True:
        try:
            return fitted.propose(image, specs=specs, heat=True)
        except SHORTAGES as error:
            if not is_out_of_memory(error):
                raise
            found = services.residents.smaller(task.project, number, than=fitted)
            if found is None:
                raise
        release()
        fitted, change = found
        sentence = f"out of memory at task {task.id}: predicts with {change}"
        log.warning("out of memory", task=task.id, version=number, goes_on_with=change)
        progress.note_published(services, task.project, sentence)
