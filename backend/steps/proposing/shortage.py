"""Predict an image with less when memory runs out: smaller tiles, then the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from backend.errors import OutOfMemory
from backend.records import Task
from backend.steps.training import progress
from backend.wiring import Services
from models.base import ClassSpec, Fitted, Image, TaskProposal
from models.memory import SHORTAGES, is_out_of_memory, release

Less = Callable[[Fitted], tuple[Fitted, str] | None]  # None: nothing is left to be tried

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

    def less(than: Fitted) -> tuple[Fitted, str] | None:
        return services.residents.smaller(task.project, number, than)

    def say(change: str) -> None:
        log.warning("out of memory", task=task.id, version=number, goes_on_with=change)
        sentence = f"out of memory at task {task.id}: predicts with {change}"
        progress.note_published(services, task.project, sentence)

    return proposed(fitted, image, specs, less, say, heat=True)[1]


def proposed(
    fitted: Fitted,
    image: Image,
    specs: Sequence[ClassSpec],
    less: Less,
    say: Callable[[str], None],
    *,
    heat: bool = False,
) -> tuple[Fitted, TaskProposal]:
    """Propose, with less as often as memory runs out; returns also what did it in the end."""
    while True:
        try:
            return fitted, fitted.propose(image, specs=specs, heat=heat)
        except SHORTAGES as error:
            if not is_out_of_memory(error):
                raise
            found = less(fitted)
            if found is None:
                raise
        release()
        fitted, change = found
        say(change)


def too_little(what: str, error: BaseException) -> OutOfMemory:
    """Return the error for what the memory does not do for: "to judge v3 ..."."""
    return OutOfMemory(
        f"the memory is too small {what} ({reason(error)}); "
        "free some, run fewer workers on this machine, or give it more"
    )


def reason(error: BaseException) -> str:
    """Return the first line of an error, or its kind if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
