"""Real workers: a cancelled or killed training, and a backlog that several of them share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from backend.processes.supervisor import free_port
from backend.records import Annotation, Job, Task, Version, WeakLabel
from backend.steps import decide, projects, queues
from backend.steps.training import training_job
from backend.store import annotations as annotation_rows
from backend.store import jobs, learning, tasks, versions
from backend.store import projects as project_rows
from backend.wiring import Services
from tests.integration import working
from tests.integration.parts import Parts, alive, descendants, eventually
from tests.integration.test_faults import Served, left_over, redis_answers, shown
from tests.steps.conftest import CONFIG, NOW
from tests.steps.fake_label_studio import FakeLabelStudio

pytestmark = pytest.mark.integration

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path)
    parts.start("redis")
    eventually(lambda: redis_answers(parts), "Redis")
    yield parts
    parts.stop()


@pytest.fixture
def start(parts: Parts) -> Iterator[Start]:
    """Start workers with played networks; they end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(queue: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.integration.working", queue]
        with (parts.logs / f"{queue}.log").open("ab") as log:
            worker = subprocess.Popen(command, env=parts.environ, stdout=log, stderr=log)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        for pid in [*descendants(worker.pid), worker.pid]:
            os.kill(pid, signal.SIGKILL)
        worker.wait()


def due(services: Services) -> Job:
    """Teach a project enough for a training, and have it queued."""
    projects.adopt(services, 1, CONFIG, title="bridge")
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, 11, "/data/upload/1/11.jpg", NOW)])
        annotation_rows.put(tx, Annotation(5, 1, 11, NOW, ()))
        signs = ((True, 4.0), (False, 20.0))
        points = [WeakLabel(1, 11, 5, "crack", x, 6.0, is_on, "click") for is_on, x in signs]
        learning.replace(tx, 5, 1, 11, [], points, [])
        project_rows.update(tx, 1, train_after=1, quiet_s=0.0)
    decide.next_steps(services, 1)
    with services.store.reading() as tx:
        (job,) = jobs.running(tx, 1, "train")
    assert job.state == "queued", "it can be seen before any worker takes it"
    return job


def look(parts: Parts, job: Job) -> Job:
    with parts.services.store.reading() as tx:
        found = jobs.get(tx, job.id)
    assert found is not None
    return found


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def horse(parts: Parts, worker: subprocess.Popen[bytes], job: Job, batch: int) -> int:
    """Wait until a training with this batch has come some steps far; returns its process."""
    eventually(
        lambda: look(parts, job).detail.get("f_measure") == batch / 16, f"batches of {batch}"
    )
    (pid,) = descendants(worker.pid)
    return pid


def test_a_cancelled_training_is_gone_within_5_s_with_its_memory_and_the_next_one_works(
    parts: Parts, start: Start
) -> None:
    job, worker = due(parts.services), start("train")
    pid = horse(parts, worker, job, 16)
    running = look(parts, job)
    assert running.state == "running" and running.detail["seconds_left"] > 0
    assert resident_bytes(pid) > working.HELD_BYTES
    began = time.monotonic()
    training_job.cancel(parts.services, job.id)
    eventually(lambda: alive([pid]) == [], "the process to end")
    took_s = time.monotonic() - began
    print(f"\ncancelled in {took_s:.2f} s")
    assert took_s < 5
    eventually(lambda: not parts.services.queues.is_alive(job.id), "the queue to know")
    assert look(parts, job).state == "cancelled"
    assert not decide.next_steps(parts.services, 1).train, "not again by itself"
    with parts.services.store.transaction() as tx:
        assert versions.list(tx, 1) == [] and parts.services.registry.list(1) == []
        project_rows.update(tx, 1, train_requested_at=datetime.now(timezone.utc))
    assert decide.next_steps(parts.services, 1).train
    horse(parts, worker, job, 16)
    (parts.services.settings.data_dir / "release").touch()
    eventually(lambda: look(parts, job).state == "done", "the next training")
    with parts.services.store.reading() as tx:
        assert [v.number for v in versions.list(tx, 1)] == parts.services.registry.list(1) == [1]


def test_a_training_that_the_kernel_killed_goes_on_with_half_the_batch(
    parts: Parts, start: Start
) -> None:
    job, worker = due(parts.services), start("train")
    os.kill(horse(parts, worker, job, 16), signal.SIGKILL)
    horse(parts, worker, job, 8)
    again = look(parts, job)
    assert (again.state, again.halvings) == ("running", 1)
    (note,) = again.detail["notes"]
    assert note.startswith("its process ended by signal 9; was it out of memory? It begins again")
    (parts.services.settings.data_dir / "release").touch()
    eventually(lambda: look(parts, job).state == "done", "the training")


BACKLOG = range(1, 81)


@pytest.fixture
def served(parts: Parts) -> Iterator[Served]:
    """A Label Studio with 80 open tasks, and a champion that has seen none of them."""
    served = Served(FakeLabelStudio(list(BACKLOG)), port=free_port(0))
    address = f"http://127.0.0.1:{served.server.server_port}"
    parts.environ |= {"LABEL_STUDIO_URL": address, "LABEL_STUDIO_API_KEY": "0" * 40}
    projects.adopt(parts.services, 1, CONFIG, title="bridge")
    with parts.services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, id, f"/data/upload/1/{id}.jpg", NOW) for id in BACKLOG])
        versions.next_number(tx, 1)
        versions.add(tx, Version(1, 1, "challenger", "advcam", "s1", NOW, ("crack",)))
        project_rows.update(tx, 1, champion=1, order_wanted=1)
    with served.running():
        yield served


def all_shown(parts: Parts, served: Served) -> None:
    """Wait, with the scheduler's part played, until every task is shown once."""

    def done() -> bool:
        decide.next_steps(parts.services, 1)
        return shown(served) == dict.fromkeys(BACKLOG, 1) and not left_over(parts)

    eventually(done, "all to be shown")


def of_backlog(parts: Parts) -> list[tuple[int, int]]:
    """Return (process, task) of the predictions, without those that workers warm up with."""
    seen = working.lines(parts.services.settings.data_dir)
    return [(process, task) for process, task in seen if task in BACKLOG]


def test_two_workers_share_a_backlog_and_predict_no_task_twice(
    parts: Parts, start: Start, served: Served
) -> None:
    workers = [start("publish"), start("publish")]
    eventually(lambda: parts.services.queues.workers().get("publish") == 2, "both workers")
    queues.publish(parts.services, 1)
    all_shown(parts, served)
    predicted = of_backlog(parts)
    assert sorted(task for _, task in predicted) == list(BACKLOG)
    shares = Counter(process for process, _ in predicted)
    print(f"\nshares: {sorted(shares.values())}")
    assert set(shares) == {worker.pid for worker in workers}
    assert min(shares.values()) >= len(BACKLOG) // 5


def test_what_a_worker_that_was_killed_had_before_it_is_predicted_by_another(
    parts: Parts, start: Start, served: Served
) -> None:
    first, second = start("publish"), start("publish")
    eventually(lambda: parts.services.queues.workers().get("publish") == 2, "both workers")
    queues.publish(parts.services, 1)
    eventually(lambda: first.pid in {process for process, _ in of_backlog(parts)}, "the first")
    first.kill()
    all_shown(parts, served)
    assert {task for _, task in of_backlog(parts)} == set(BACKLOG)
    assert second.poll() is None
