"""Where a training computes: alone on its GPU, and with less when memory runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import structlog

import models.base
from backend.errors import OutOfMemory, QueueError
from backend.loop import memory
from backend.steps.progress import Watch
from backend.wiring import Services
from models.base import Fitted, Profile
from models.memory import SHORTAGES, gpu_of, is_out_of_memory, release

GPU_WAIT_S = 12 * 3600.0  # for another training; then it is put off

log = structlog.get_logger(__name__)


class Fit(Protocol):
    """A pipeline's `fit` that lacks nothing but these."""

    def __call__(self, *, profile: Profile, device: str) -> Fitted:
        """Train one version."""


@contextlib.contextmanager
def alone(services: Services, watch: Watch) -> Iterator[str]:
    """Give the device, once no other training holds it; the CPU is shared."""
    device = "cpu" if watch.means.on_cpu else models.base.resolve_device(services.settings.device)
    gpu = gpu_of(device)
    with contextlib.ExitStack() as held:
        if gpu is not None:
            _wait(services, watch, gpu, held)
        watch.begin("running", "starting")
        yield device


def _wait(services: Services, watch: Watch, gpu: str, held: contextlib.ExitStack) -> None:
    try:
        held.enter_context(services.queues.lock(gpu, wait_s=0))
    except QueueError:
        watch.begin("waiting", "waiting for GPU")
        held.enter_context(services.queues.lock(gpu, wait_s=GPU_WAIT_S))


def fit(attempt: Fit, profile: Profile, device: str, watch: Watch) -> Fitted:
    """Train; when memory runs out with smaller batches, then on the CPU, and say so.

    Raises OutOfMemory when even that does not help.
    """
    while True:
        profile_now = memory.sized(profile, watch.means.halvings)
        device_now = "cpu" if watch.means.on_cpu else device
        try:
            return attempt(profile=profile_now, device=device_now)
        except SHORTAGES as error:
            if not is_out_of_memory(error):
                raise
            _take_less(profile, device_now, watch, error)
        release()  # here, where nothing refers to what the attempt held


def _take_less(profile: Profile, device: str, watch: Watch, error: BaseException) -> None:
    found = memory.less(profile, device, watch.means)
    why = (str(error).splitlines() or [type(error).__name__])[0]
    if found is None:
        raise OutOfMemory(
            f"the memory is too small even for batches of {memory.LEAST_BATCH} ({why}); "
            "free some, run fewer workers on this machine, or give it more"
        ) from error
    means, change = found
    log.warning("out of memory", goes_on_with=change, reason=why)
    watch.note(f"out of memory: goes on with {change}", means)
