"""Training workers that die, clocks that jump, projects and classes that vanish: real processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from redis import Redis

from backend.processes.supervisor import free_port
from backend.queueing import locks
from backend.queueing import queues as job_queues
from backend.records import Annotation, Job, Task, WeakLabel
from backend.settings import Settings
from backend.steps import decide, projects, queues, tick
from backend.steps.listening import intake
from backend.store import annotations as annotation_rows
from backend.store import inbox, jobs, learning, tasks, versions
from backend.store import projects as project_rows
from backend.wiring import Services, build
from tests.integration.parts import Parts, alive, descendants, eventually
from tests.integration.test_faults import Served, left_over, redis_answers, shown
from tests.steps.conftest import CONFIG, NOW
from tests.steps.fake_label_studio import FakeLabelStudio

pytestmark = pytest.mark.integration

TWO = CONFIG.replace('<Label value="crack"/>', '<Label value="crack"/><Label value="rust"/>')
KILLS = 20
DAY = timedelta(days=1)
OPEN = [21, 22, 23]
MARK = uuid.uuid4().hex  # in the environment of all workers of this run

Start = Callable[[str], int]
Nursery = subprocess.Popen[str]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    """Redis, and what waits for dead workers waits for seconds instead of minutes."""
    monkeypatch.setattr(tick, "GRACE", timedelta(seconds=2))
    monkeypatch.setattr(locks, "SETTLED_S", 2)
    parts = Parts(tmp_path)
    parts.start("redis")
    eventually(lambda: redis_answers(parts), "Redis")
    yield parts
    parts.stop()


@pytest.fixture
def served(parts: Parts) -> Iterator[Served]:
    """A Label Studio with open tasks, which the workers know."""
    served = Served(FakeLabelStudio(OPEN), port=free_port(0))
    address = f"http://127.0.0.1:{served.server.server_port}"
    parts.environ |= {"LABEL_STUDIO_URL": address, "LABEL_STUDIO_API_KEY": "0" * 40}
    with served.running():
        yield served


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """A process that has imported all that a worker needs, and forks workers."""
    with (tmp_path_factory.mktemp("nursery") / "workers.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.nursery"],
            env={**os.environ, "OMP_NUM_THREADS": "1", "NURSERY": MARK},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    yield process
    process.communicate()


@pytest.fixture
def start(parts: Parts, nursery: Nursery) -> Iterator[Start]:
    """Start a worker of a queue with a brief training; it ends with the test."""

    def start(queue: str) -> int:
        assert nursery.stdin is not None and nursery.stdout is not None
        nursery.stdin.write(json.dumps([queue, parts.environ]) + "\n")
        nursery.stdin.flush()
        return int(nursery.stdout.readline())

    yield start
    for pid in below_or_orphaned(nursery):
        kill(pid)


def below_or_orphaned(nursery: Nursery) -> list[int]:
    """Return the workers and their trainings, also those whose worker is dead."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another user's
            if MARK.encode() in file.read_bytes():
                found.append(int(file.parent.name))
    return [pid for pid in found if pid != nursery.pid]


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGKILL)


def teach(services: Services, project: int) -> None:
    """Give a project labels enough for a training."""
    projects.adopt(services, project, TWO, title="bridge")
    task, now = 11, services.clock()
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(project, task, f"/data/upload/{project}/{task}.jpg", NOW)])
        annotation_rows.put(tx, Annotation(500 + project, project, task, now, ()))
        signs = ((True, 4.0), (False, 20.0))
        points = [
            WeakLabel(project, task, 500 + project, "crack", x, 6.0, is_on, "click")
            for is_on, x in signs
        ]
        learning.replace(tx, 500 + project, project, task, [], points, [])
        project_rows.update(tx, project, train_after=1, quiet_s=0.0)


def add_open_tasks(services: Services) -> None:
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, id, f"/data/upload/1/{id}.jpg", NOW) for id in OPEN])


def trainings(services: Services) -> list[Job]:
    with services.store.reading() as tx:
        return [job for job in jobs.latest(tx, 1000) if job.kind == "train"]


def states(services: Services) -> Counter[str]:
    return Counter[str](job.state for job in trainings(services))


def hold(parts: Parts) -> Path:
    """Have trainings go on without end until the file that is returned is removed."""
    file = parts.services.settings.data_dir / "hold"
    file.touch()
    return file


def noted(parts: Parts, what: str) -> int:
    """Return how many trainings have `begun`, or came to their end (`trained`)."""
    file = parts.services.settings.data_dir / what
    return len(file.read_text().splitlines()) if file.exists() else 0


def works(parts: Parts, worker: int) -> int:
    """Wait until a worker's training makes steps; returns its process."""
    eventually(lambda: any(job.detail.get("step") for job in trainings(parts.services)), "steps")
    (pid,) = descendants(worker)
    return pid


def kept(services: Services, project: int) -> list[int]:
    """Return the recorded versions of a project, each of which must be whole."""
    with services.store.reading() as tx:
        recorded = [version.number for version in versions.list(tx, project)]
    for number in services.registry.list(project):
        assert services.registry.folder(project, number).is_dir()  # verified by its digests
    assert set(recorded) <= set(services.registry.list(project))
    return recorded


def kill_one(services: Services, worker: int, rng: random.Random, died_at: Counter[str]) -> None:
    """Kill a worker at a random moment of a training, with or without the training's process."""
    eventually(lambda: bool(descendants(worker)), "a training")
    threading.Event().wait(rng.uniform(0.0, 1.2))
    family = [worker, *descendants(worker)]
    at_work = [job for job in trainings(services) if job.state not in ("queued", "done")]
    died_at.update(f"{job.state} {job.detail.get('stage', '')}" for job in at_work)
    for pid in rng.choice([family, family[:1], family[::-1]]):
        kill(pid)


def test_20_trainings_whose_worker_is_killed_at_any_moment_end_in_one_version_each(
    parts: Parts, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_queues, "LOST_AFTER_S", 3)
    rng = random.Random(6)
    services, ids = parts.services, range(1, KILLS + 1)
    for project in ids:
        teach(services, project)
    died_at: Counter[str] = Counter()
    with ticking([services], every_s=1.0):
        for _ in range(KILLS):
            kill_one(services, start("train"), rng, died_at)
            assert all(len(kept(services, project)) <= 1 for project in ids)
        for _ in range(2):
            start("train")
        eventually(lambda: states(services) == {"done": KILLS}, "all trainings")
    print(f"\n{dict(died_at)}")
    for project in ids:
        assert kept(services, project) == [projects.require(services, project).champion]
    tick.tick(services)
    assert states(services) == {"done": KILLS}, "nothing is trained again"


def test_a_training_that_outlives_its_worker_is_not_begun_a_second_time(
    parts: Parts, start: Start
) -> None:
    """Its process goes on when its worker is dead and Redis has forgotten it."""
    services, held = parts.services, hold(parts)
    teach(services, 1)
    decide.next_steps(services, 1)
    worker = start("train")
    orphan = works(parts, worker)
    (job,) = trainings(services)
    kill(worker)
    with Redis.from_url(parts.environ["REDIS_URL"]) as redis:
        redis.flushall()
    second = start("train")
    eventually(lambda: services.queues.is_held(job.id), "it to show itself")
    queues.train_again(services, job)
    eventually(lambda: bool(descendants(second)), "another process to be offered it")
    eventually(lambda: not descendants(second), "that one to leave it")
    assert alive({orphan: ""}) == [orphan] and states(services) == {"running": 1}
    held.unlink()
    eventually(lambda: not alive({orphan: ""}), "it to end")
    assert (noted(parts, "begun"), noted(parts, "trained")) == (1, 1)
    assert services.registry.list(1) == kept(services, 1) == [1]
    tick.tick(services)
    assert states(services) == Counter(done=1)


def test_a_class_that_vanishes_during_the_training_is_not_published(
    parts: Parts, served: Served, start: Start
) -> None:
    services, held = parts.services, hold(parts)
    teach(services, 1)
    add_open_tasks(services)
    decide.next_steps(services, 1)
    worker = start("train")
    works(parts, worker)
    projects.adopt(services, 1, CONFIG)  # without rust
    start("publish")
    held.unlink()

    def is_done() -> bool:
        tick.tick(services)
        return states(services) == {"done": 1} and not left_over(parts)

    eventually(is_done, "the publication")
    with services.store.reading() as tx:
        (version,) = versions.list(tx, 1)
    assert version.classes == ("crack", "rust"), "it was trained for both"
    assert shown(served) == dict.fromkeys(OPEN, 1)
    regions = [region["value"] for p in served.fake.predictions for region in p["result"]]
    assert [value["brushlabels"] for value in regions] == [["crack"]] * len(OPEN)


def deleted(project: int) -> dict[str, object]:
    return {"action": "PROJECT_DELETED", "project": {"id": project}}


def test_the_training_of_a_deleted_project_ends_quietly(
    parts: Parts, served: Served, start: Start
) -> None:
    services = parts.services
    held = hold(parts)
    teach(services, 1)
    add_open_tasks(services)
    decide.next_steps(services, 1)
    worker = start("train")
    pid = works(parts, worker)
    intake.handle(services, intake.receive(services, deleted(1)))
    eventually(lambda: alive([pid]) == [], "the training to end", timeout_s=10)
    assert states(services) == {"cancelled": 1}
    assert trainings(services)[0].error == "Label Studio no longer has the project"
    for _ in range(3):
        tick.tick(services)
    assert states(services) == {"cancelled": 1}, "nothing begins again"
    assert (kept(services, 1), services.registry.list(1)) == ([], [])
    assert services.queues.failures() == {} and served.fake.calls == []
    held.unlink()
    teach(services, 2)
    decide.next_steps(services, 2)
    eventually(lambda: kept(services, 2) == [1], "the same worker's next training")
    with services.store.reading() as tx:
        assert inbox.dead(tx) == []


@contextmanager
def ticking(schedulers: list[Services], every_s: float = 0.01) -> Iterator[None]:
    """Have schedulers tick, each in a thread."""
    stop, failures = threading.Event(), []

    def run(services: Services) -> None:
        try:
            while not stop.wait(every_s):
                tick.tick(services)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(services,)) for services in schedulers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_two_schedulers_at_once_make_one_training_and_one_publication(
    parts: Parts, served: Served, start: Start
) -> None:
    schedulers = [build(Settings.from_env(parts.environ)) for _ in range(2)]
    for _ in range(2):
        start("train")
    start("publish")
    with ticking(schedulers):
        teach(parts.services, 1)
        add_open_tasks(parts.services)
        eventually(lambda: states(parts.services)["done"] == 1, "the training")
        eventually(lambda: not left_over(parts), "the publication")
        eventually(lambda: sum(parts.services.queues.depths().values()) == 0, "empty queues")
    for services in schedulers:
        services.close()
    assert states(parts.services) == {"done": 1} and noted(parts, "trained") == 1
    assert kept(parts.services, 1) == [1]
    assert served.fake.minted == len(OPEN), "each prediction is pushed once"
    assert {p["model_version"] for p in served.fake.predictions} == {"v1"}


@pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forwards", "backwards"])
def test_when_the_clock_jumps_by_a_day_a_training_goes_on_and_none_is_added(
    parts: Parts, served: Served, start: Start, jump: timedelta
) -> None:
    """Both the scheduler's clock and the worker's own, while it trains and while it publishes."""
    services, held = parts.services, hold(parts)
    teach(services, 1)
    add_open_tasks(services)
    decide.next_steps(services, 1)
    worker, publisher = start("train"), start("publish")
    pid = works(parts, worker)
    (services.settings.data_dir / "clock").write_text(str(jump.total_seconds()))
    jumped = replace(services, clock=lambda: datetime.now(timezone.utc) + jump)
    for _ in range(5):
        tick.tick(jumped)
    assert alive([pid]) == [pid] and states(services) == {"running": 1}
    held.unlink()

    def is_done() -> bool:
        tick.tick(jumped)
        return states(services) == {"done": 1} and not left_over(parts)

    eventually(is_done, "the training and its publication")
    for _ in range(3):
        tick.tick(jumped)
        tick.tick(services)
    assert noted(parts, "trained") == 1 and kept(services, 1) == [1]
    assert states(services) == {"done": 1}, "no further training"
    assert shown(served) == dict.fromkeys(OPEN, 1)
    assert alive([worker, publisher]) == [worker, publisher]
