"""Redis or PostgreSQL dies while real processes train and publish; workers die under a person."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from backend.processes.supervisor import free_port
from backend.queueing import jobs as queue_jobs
from backend.queueing import locks
from backend.records import Job
from backend.steps import queues
from backend.steps.listening import intake
from backend.store import annotations as annotation_rows
from backend.store import jobs, proposals, publishing, versions
from backend.wiring import Services
from tests.integration import hurried, working
from tests.integration.parts import PATIENCE_S, Parts, descendants, eventually
from tests.integration.test_faults import (
    FLIP,
    IMPORT,
    Served,
    all_handled,
    left_over,
    make_champion,
    redis_answers,
    shown,
)
from tests.integration.whole_label_studio import WholeLabelStudio, annotate
from tests.models.small_network import write_encoder
from tests.postgresql_server import PostgresqlServer
from tests.steps.fake_label_studio import FakeLabelStudio
from tests.steps.played_label_studio import PlayedLabelStudio

pytestmark = pytest.mark.integration

LIFE = ["queued", "running", "gating", "publishing", "done"]
REMOVE = "DELETE /api/projects/1/model-versions/"


@dataclass
class Site:
    """A Label Studio and our parts, which know each other; `naked` are moments without proposals.

    Label Studio is played: a real one cannot be stopped between taking a call and answering it.
    """

    parts: Parts
    served: Served
    naked: list[str] = field(default_factory=list)

    def look(self, call: str) -> None:
        """Note it when a version is shown and an open task has none of its proposals."""
        fake = self.served.fake
        if fake.model_version and not all(fake.shown().values()):
            self.naked.append(call)

    def log(self, part: str) -> str:
        return (self.parts.logs / f"{part}.log").read_text()


Open = Callable[..., AbstractContextManager[Site]]


@pytest.fixture(scope="module")
def nursery() -> Iterator[hurried.Nursery]:
    with hurried.nursery() as nursery:
        yield nursery


@pytest.fixture
def open_site(tmp_path: Path, nursery: hurried.Nursery) -> Open:
    return partial(site, tmp_path, nursery)


@contextmanager
def site(
    folder: Path, nursery: hurried.Nursery, fake: FakeLabelStudio, **changes: str
) -> Iterator[Site]:
    """Run Label Studio and Redis; the other parts are started by the test."""
    served = Served(fake, port=free_port(0))
    address = f"http://127.0.0.1:{served.server.server_port}"
    known = {"LABEL_STUDIO_URL": address, "LABEL_STUDIO_API_KEY": "0" * 40}
    with ExitStack() as stack:
        parts = Parts(folder, {**known, **changes}, nursery)
        stack.callback(parts.stop)
        stack.enter_context(served.running())
        found = Site(parts, served)
        served.before = found.look
        parts.start("redis")
        eventually(lambda: redis_answers(parts), "Redis")
        yield found


class Watching:
    """Notes every state of the trainings that people could have seen, until the block ends."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ended = threading.Event()
        self.seen: list[Job] = []

    def __enter__(self) -> Watching:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            with self._services.store.reading() as tx:
                self.seen += [job for job in jobs.list(tx, 1) if job not in self.seen[-1:]]

    def states(self) -> list[str]:
        """Return the states one after another."""
        found = [job.state for job in self.seen]
        return [state for n, state in enumerate(found) if n == 0 or state != found[n - 1]]


def training(services: Services) -> Job:
    with services.store.reading() as tx:
        (job,) = jobs.list(tx, 1)
    return job


def beats(parts: Parts, times: int) -> None:
    """Wait until the scheduler has ended so many rounds."""
    seen: set[bytes | None] = set()
    with Redis.from_url(parts.environ["REDIS_URL"]) as redis:

        def has_ticked() -> bool:
            seen.add(redis.get("labelclimb:beat:scheduler"))
            return len(seen) > times

        eventually(has_ticked, f"{times} rounds of the scheduler")


def send(parts: Parts, people: PlayedLabelStudio) -> None:
    """Have the webhooks say what people did since the last time."""
    with parts.client() as client:
        while people.events:
            assert client.post("/webhook", json=people.events.pop(0)).status_code == 201


def test_a_training_outlives_a_redis_that_is_killed_and_comes_back_empty(
    open_site: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SETTLED_S", hurried.SETTLED_S)
    weights = write_encoder(tmp_path / "encoder.safetensors")
    people = PlayedLabelStudio()
    whole, ids = WholeLabelStudio(people), people.import_tasks(9)
    annotate(people, ids[:4])
    whole.note_open()
    learner = {"PIPELINE": "pixel_head", "ENCODER_WEIGHTS": weights}
    with open_site(whole, **learner) as here:
        parts, services = here.parts, here.parts.services
        held = services.settings.data_dir / "hold"
        held.touch()
        parts.start("api", "events", "train", "publish", "scheduler")
        send(parts, people)
        all_handled(parts)
        intake.request_training(services, 1)
        with Watching(services) as watching:
            eventually(lambda: _steps(services), "the training to make steps")
            (process,) = descendants(parts.pid("train"))
            parts.kill("redis")
            annotate(people, ids[4:6])
            with here.served.lock:
                whole.note_open()
            send(parts, people)
            eventually(lambda: "goes on" in here.log("train"), "the worker to miss Redis")
            parts.start("redis")
            eventually(lambda: redis_answers(parts), "the new Redis")
            eventually(services.queues.settled, "all to be known to the new Redis")
            beats(parts, 3)
            assert services.queues.workers() == {"events": 1, "publish": 1, "train": 1}
            assert list(descendants(parts.pid("train"))) == [process]
            held.unlink()
            eventually(lambda: training(services).state == "done", "the training")
            eventually(lambda: not left_over(parts), "the publication")
        all_handled(parts)
        beats(parts, 2)
        assert watching.states() == LIFE[LIFE.index(watching.states()[0]) :]
        assert len({job.started_at for job in watching.seen if job.state != "queued"}) == 1
        assert [job.error for job in watching.seen if job.error] == []
        with services.store.reading() as tx:
            assert [version.number for version in versions.list(tx, 1)] == [1]
            assert sorted(annotation_rows.inventory(tx, 1)) == sorted(people.living())
        assert services.registry.list(1) == [1]
        assert shown(here.served) == dict.fromkeys(ids[6:], 1)
        assert (whole.minted, here.naked) == (len(ids[6:]), [])
        parts.assert_alive()


def _steps(services: Services) -> bool:
    with services.store.reading() as tx:
        return any(job.detail.get("step") is not None for job in jobs.list(tx, 1))


def test_a_publication_outlives_a_postgresql_that_crashes_in_between(
    open_site: Open, postgresql: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies once after each call by which Label Studio changed, before we could note that."""
    monkeypatch.setattr(queue_jobs, "BACKOFF_S", hurried.BACKOFF_S)
    ids = [11, 12, 13, 14, 15]
    fake = FakeLabelStudio(ids)
    with open_site(fake, DATABASE_URL=postgresql.new_database()) as here:
        parts, services = here.parts, here.parts.services
        make_champion(services, ids)
        queues.publish(services, 1)
        parts.start("publish", "scheduler")
        eventually(lambda: shown(here.served) == dict.fromkeys(ids, 1), "the first version")
        eventually(lambda: not left_over(parts), "everything to be tidy")
        make_champion(services, ids, number=2)
        crashes, crashed = [IMPORT, FLIP, REMOVE], threading.Event()

        def crash(call: str) -> None:
            here.look(call)
            if call == next(iter(crashes), None):
                del crashes[0]
                postgresql.stop()
                crashed.set()

        here.served.after = crash
        queues.publish(services, 1)
        while crashes:
            failures = here.log("publish").count("OperationalError")
            assert crashed.wait(PATIENCE_S), f"{crashes[0]} was never called"
            crashed.clear()
            eventually(
                lambda failures=failures: here.log("publish").count("OperationalError") > failures,
                "the worker to miss PostgreSQL",
            )
            postgresql.start()
        eventually(lambda: not left_over(parts), "the second version to be tidy")
        beats(parts, 2)
        assert not left_over(parts)
        assert shown(here.served) == dict.fromkeys(ids, 1)
        assert [(p["task"], p["model_version"]) for p in sorted_by_task(fake)] == [
            (id, "v2") for id in ids
        ]
        with services.store.reading() as tx:
            assert publishing.names(tx, 1) == ["v2"]
            assert sorted(publishing.of(tx, 1, "v2")) == ids
        assert here.naked == [], "an annotator faced a task without proposals"
        parts.assert_alive()


def sorted_by_task(fake: FakeLabelStudio) -> list[dict[str, Any]]:
    return sorted(fake.predictions, key=lambda row: int(row["task"]))


class Person:
    """Opens tasks: Label Studio asks /predict, and keeps what it is given, as the real one does."""

    def __init__(self, here: Site) -> None:
        self.here = here

    def open(self, task: int) -> int:
        """Return how many predictions of what is shown the task has then."""
        fake = self.here.served.fake
        body = {
            "project": "1.0",
            "tasks": [{"id": task, "data": {"image": f"/data/upload/1/{task}.jpg"}}],
        }
        with self.here.parts.client() as client:
            try:
                answer = client.post("/predict", json=body, auth=USER)
            except httpx.TransportError:  # nobody answers: it goes on without
                return self._held(task)
        assert answer.status_code == 200, answer.text
        (item,) = answer.json()["results"]
        with self.here.served.lock:
            if "result" in item:
                fake.predictions.append({**item, "task": task, "id": 0, "cluster": None})
        return self._held(task)

    def _held(self, task: int) -> int:
        fake = self.here.served.fake
        with self.here.served.lock:
            rows = [p for p in fake.predictions if p["task"] == task]
        return len([p for p in rows if p["model_version"] == fake.model_version and p["result"]])


USER = ("annotator", "their password")
NEW = 16  # a task that nobody has predicted


class WithNew(FakeLabelStudio):
    """Its new task had no proposals before, and may be faced without."""

    def shown(self) -> dict[int, list[dict[str, Any]]]:
        return {task: rows for task, rows in super().shown().items() if rows or task != NEW}


@pytest.mark.parametrize("victim", ["publish", "api"])
def test_a_task_has_proposals_when_it_is_opened_again_after_a_process_died_at_the_first_time(
    open_site: Open, victim: str
) -> None:
    ids, fake = [11, 12], WithNew([11, 12])
    changes = {hurried.PLAYED: "1", "PREDICT_DEADLINE_S": "2"}
    changes |= {"BASIC_AUTH_USER": USER[0], "BASIC_AUTH_PASS": USER[1]}
    with open_site(fake, **changes) as here:
        parts, services = here.parts, here.parts.services
        make_champion(services, ids)
        queues.publish(services, 1)
        parts.start("publish", "api", "scheduler")
        eventually(lambda: shown(here.served) == dict.fromkeys(ids, 1), "the first version")
        eventually(lambda: not left_over(parts), "everything to be tidy")
        person, held = Person(here), services.settings.data_dir / "hold"
        held.touch()
        fake.tasks = [*ids, NEW]
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(person.open, NEW)
            eventually(lambda: is_begun(services, NEW), "its prediction to begin")
            parts.kill(victim)
            assert first.result() == 0
        held.unlink()
        parts.start(victim)
        eventually(lambda: has_proposals(services, NEW), "its prediction")
        assert person.open(NEW) == 1
        eventually(lambda: not left_over(parts), "everything to be tidy")
        beats(parts, 2)
        assert shown(here.served) == dict.fromkeys([*ids, NEW], 1)
        parts.assert_alive()


def is_begun(services: Services, task: int) -> bool:
    return task in [known for _, known in working.lines(services.settings.data_dir)]


def has_proposals(services: Services, task: int) -> bool:
    with services.store.reading() as tx:
        return proposals.has(tx, 1, 1, task)
