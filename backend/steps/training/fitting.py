"""Where a training computes: alone on its GPU, and with less when memory runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

import models.base
from backend.errors import LockHeld, SettingsError
from backend.loop import memory
from backend.steps.proposing import shortage
from backend.steps.training.progress import Watch
from backend.store import jobs
from backend.wiring import Services
from models.base import Fitted, Profile
from models.memory import SHORTAGES, gpu_of, is_out_of_memory, release

SHARED = "Redis lost track of it, and another training took {gpu} as well: both go on, more slowly"

log = structlog.get_logger(__name__)


class Fit(Protocol):
    """A pipeline's `fit` that lacks nothing but these."""

    def __call__(self, *, profile: Profile, device: str) -> Fitted:
        """Train one version."""


@dataclass(frozen=True)
class Place:
    """The device that a training computes on; leave: lets others have its GPUs, once or more."""

    device: str
    leave: Callable[[], None]


@contextlib.contextmanager
def alone(services: Services, watch: Watch) -> Iterator[Place]:
    """Give the device once its GPUs are ours, all that the training uses; the CPU is shared.

    Raises LockHeld when another training holds one of them, or has waited longer for it: the job
    is `waiting` then, and gives its worker back. When Redis is wiped meanwhile the GPUs are taken
    again; if another training was faster, both go on, and this one says so: to give way would
    lose all that it has learned, while a memory too small for two costs smaller batches (`fit`).
    """
    settings = services.settings
    device = "cpu" if watch.means.on_cpu else models.base.resolve_device(settings.device)
    found = {gpu_of(name) for name in devices(device, settings.train_processes)}
    gpus = sorted(gpu for gpu in found if gpu is not None)
    with contextlib.ExitStack() as held:
        try:
            _require_turn(services, watch, gpus)
            for gpu in gpus:  # all of them or none, so that no two trainings block each other
                taken = partial(watch.hear, SHARED.format(gpu=gpu))
                held.enter_context(services.queues.lock(gpu, wait_s=0, taken=taken))
        except LockHeld:
            watch.wait(gpus)
            raise
        watch.begin("running", "reading images")
        yield Place(device, held.close)


def _require_turn(services: Services, watch: Watch, gpus: Sequence[str]) -> None:
    """Raise LockHeld while an older training waits for one of these GPUs."""
    with services.store.reading() as tx:
        older = jobs.waiting(tx, before=watch.queued_at)
    for job in older:
        if any(not set(gpus).isdisjoint(wanted) for wanted in job.detail.get("gpus", ())):
            raise LockHeld(f"{job.id} has waited longer for {' and '.join(gpus)}")


def devices(device: str, processes: int) -> tuple[str, ...]:
    """Return the device of each process of a training: GPUs are taken in their order.

    Raises SettingsError when there are fewer of them.
    """
    if not device.startswith("cuda") or processes == 1:
        return (device,) * processes
    import torch

    if processes > torch.cuda.device_count():
        raise SettingsError(
            f"TRAIN_PROCESSES={processes}, but this machine has {torch.cuda.device_count()} "
            "GPUs; set it to as many at most"
        )
    return tuple(f"cuda:{rank}" for rank in range(processes))


def fit(attempt: Fit, profile: Profile, place: Place, watch: Watch) -> Fitted:
    """Train; when memory runs out with smaller batches, then on the CPU, and say so.

    Raises OutOfMemory when even that does not help.
    """
    while True:
        profile_now = memory.sized(profile, watch.means.halvings)
        device_now = "cpu" if watch.means.on_cpu else place.device
        try:
            return attempt(profile=profile_now, device=device_now)
        except SHORTAGES as error:
            if not is_out_of_memory(error):
                raise
            _take_less(profile, device_now, watch, error)
        release()  # here, where nothing refers to what the attempt held
        if watch.means.on_cpu:
            place.leave()


def _take_less(profile: Profile, device: str, watch: Watch, error: BaseException) -> None:
    found = memory.less(profile, device, watch.means)
    if found is None:
        what = f"even for batches of {memory.LEAST_BATCH}"
        raise shortage.too_little(what, error) from error
    means, change = found
    log.warning("out of memory", goes_on_with=change, reason=shortage.reason(error))
    watch.note(f"out of memory: goes on with {change}", means)
