"""A real worker, a real queue, one GPU: whoever waits for it holds up nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from backend.queueing import locks
from backend.records import Annotation, Job, JobState, Task, WeakLabel
from backend.steps import decide, projects, tick
from backend.steps.training import training_job
from backend.store import annotations, jobs, learning, tasks
from backend.store import projects as project_rows
from backend.wiring import Services
from tests.integration.parts import Parts, descendants, eventually
from tests.integration.test_faults import redis_answers
from tests.integration.with_gpu import GPU
from tests.steps.conftest import CONFIG, NOW

pytestmark = pytest.mark.integration


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    monkeypatch.setattr(locks, "SETTLED_S", 1)
    parts = Parts(tmp_path)
    parts.start("redis")
    eventually(lambda: redis_answers(parts), "Redis")
    yield parts
    parts.stop()


@pytest.fixture
def worker(parts: Parts) -> Iterator[subprocess.Popen[bytes]]:
    """One worker, for all trainings."""
    command = [sys.executable, "-m", "tests.integration.with_gpu", "train"]
    with (parts.logs / "train.log").open("ab") as log:
        worker = subprocess.Popen(command, env=parts.environ, stdout=log, stderr=log)
    yield worker
    for pid in [*descendants(worker.pid), worker.pid]:
        os.kill(pid, signal.SIGKILL)
    worker.wait()


def due(services: Services, project: int) -> Job:
    """Teach a project enough for a training, and have it queued."""
    projects.adopt(services, project, CONFIG, title="bridge")
    task, own = 10 + project, 500 + project
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(project, task, f"/data/upload/{project}/{task}.jpg", NOW)])
        annotations.put(tx, Annotation(own, project, task, NOW, ()))
        points = [
            WeakLabel(project, task, own, "crack", x, 6.0, is_on, "click")
            for is_on, x in ((True, 4.0), (False, 20.0))
        ]
        learning.replace(tx, own, project, task, [], points, [])
        project_rows.update(tx, project, train_after=1, quiet_s=0.0)
    assert decide.next_steps(services, project).train
    with services.store.reading() as tx:
        (job,) = jobs.running(tx, project, "train")
    return job


def come_to(services: Services, job: Job, state: JobState) -> Job:
    def look() -> Job:
        with services.store.reading() as tx:
            found = jobs.get(tx, job.id)
        assert found is not None
        return found

    eventually(lambda: look().state == state, f"{job.id} to be {state}")
    return look()


def test_trainings_that_wait_for_a_gpu_leave_the_worker_and_come_in_their_order(
    parts: Parts, worker: subprocess.Popen[bytes]
) -> None:
    services = parts.services
    with services.queues.lock(GPU, wait_s=0):
        first = come_to(services, due(services, 1), "waiting")
        second = come_to(services, due(services, 2), "waiting")  # by the same worker
        for job in (first, second):
            eventually(lambda job=job: not services.queues.is_alive(job.id), "the worker's rest")
        now = services.clock() + tick.GRACE
        tick.tick(replace(services, clock=lambda: now))
        assert services.queues.depths()["train"] == 0, "neither lost nor tried in vain"
        assert [job.state for job in (first, second)] == ["waiting", "waiting"]
    eventually(services.queues.settled, "all to be known to Redis")
    training_job.queue_waiting(services)
    assert services.queues.depths()["train"] <= 1 and not services.queues.is_alive(second.id)
    come_to(services, first, "running")
    with Redis.from_url(parts.environ["REDIS_URL"]) as redis:
        redis.flushall()
    eventually(lambda: services.queues.is_held(GPU), "the first one to take its GPU again")
    tick.tick(replace(services, clock=lambda: now))
    come_to(services, first, "running")
    come_to(services, second, "waiting")
    (services.settings.data_dir / "release").touch()
    ended = come_to(services, first, "done")
    assert (ended.detail["notes"], ended.halvings) == ([], 0)
    eventually(lambda: not services.queues.is_held(GPU), "the GPU")
    eventually(services.queues.settled, "all to be known to Redis")
    training_job.queue_waiting(services)
    come_to(services, second, "done")
