"""A training whose memory runs out, or that is killed for it, goes on with less."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from backend.steps import decide
from backend.steps.training import training_job
from backend.store import jobs
from backend.wiring import Services
from models.base import Profile, Report
from tests.steps.conftest import NOW
from tests.steps.training.test_train import taught
from tests.steps.training.training_jobs import (
    Fit,
    begun,
    clock,
    look,
    pipeline,
    services,
    why,
    work,
)

__all__ = ["clock", "pipeline", "services", "taught"]  # fixtures

SHORTAGES = [
    MemoryError("Unable to allocate 3 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
]


@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda error: type(error).__name__)
def test_out_of_memory_the_batch_is_halved_and_the_job_says_so(
    services: Services, pipeline: Fit, shortage: Exception
) -> None:
    def act(profile: Profile, report: Report) -> None:
        if profile.batch > 4:
            raise shortage

    pipeline.act = act
    job = work(services, begun(services))
    assert pipeline.given == [("cpu", 16), ("cpu", 8), ("cpu", 4)]
    assert (job.state, job.halvings, job.on_cpu) == ("publishing", 2, False)
    assert job.detail["notes"] == [
        "out of memory: goes on with batches of 8 instead of 16",
        "out of memory: goes on with batches of 4 instead of 8",
    ]


def test_when_no_batch_is_small_enough_the_training_fails_with_what_to_do(
    services: Services, pipeline: Fit
) -> None:
    def act(profile: Profile, report: Report) -> None:
        raise MemoryError("Unable to allocate 3 GiB")

    pipeline.act = act
    job = work(services, begun(services))
    assert job.state == "failed" and job.again_at is None
    assert job.error is not None
    assert job.error.startswith("the memory is too small even for batches of 2 (Unable to alloc")
    assert "Start Training tries these labels again" in why(services)
    assert not decide.next_steps(services, 1).train


def test_another_error_is_not_taken_for_a_lack_of_memory(services: Services, pipeline: Fit) -> None:
    def act(profile: Profile, report: Report) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    pipeline.act = act
    with pytest.raises(RuntimeError, match="mat1"):
        work(services, begun(services))
    assert len(pipeline.given) == 1


REAL_SHORTAGE = """
import resource, torch, numpy as np
from models.memory import is_out_of_memory
torch.zeros(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
caught = []
for ask in (lambda: torch.empty(2**32), lambda: np.ones(2**32), lambda: bytearray(2**33)):
    try:
        ask()
    except Exception as error:
        caught.append(is_out_of_memory(error))
print(caught)
"""


@pytest.mark.integration
def test_a_process_that_really_has_no_memory_knows_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", REAL_SHORTAGE],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.stdout.strip() == "[True, True, True]", ran.stderr


def test_a_killed_training_begins_again_with_half_the_batch(
    services: Services, pipeline: Fit
) -> None:
    job = begun(services)
    with services.store.transaction() as tx:
        jobs.begin(tx, job.id, NOW)
    training_job.killed(services, look(services, job), "its process ended by signal 9;")
    assert look(services, job).state == "queued"
    ended = work(services, job)
    assert pipeline.given == [("cpu", 8)]
    assert ended.detail["notes"] == [
        "its process ended by signal 9; It begins again with batches of half the size"
    ]


def test_a_cancelled_training_is_not_revived_by_the_news_of_its_death(
    services: Services, pipeline: Fit
) -> None:
    job = begun(services)
    training_job.cancel(services, job.id)
    training_job.killed(services, job, "its process ended by signal 9;")
    training_job.failed(services, job, "its process ended by signal 9;")
    assert look(services, job).state == "cancelled"
