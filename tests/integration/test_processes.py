"""Real processes and real HTTP: whatever dies, an acknowledged event is applied, once."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from backend.processes.running import labelclimb
from backend.processes.supervisor import answers
from backend.queueing.embedded_redis import embedded_server
from backend.queueing.locks import CALL_TIMEOUT_S
from backend.settings import Settings
from backend.steps import queues
from backend.store import annotations as annotation_rows
from backend.store import inbox, learning
from backend.web_names import SECRET_HEADER
from tests.integration import parts as processes
from tests.integration.parts import PATIENCE_S, SECRET, Parts, alive, descendants, eventually
from tests.steps.conftest import CONFIG

pytestmark = pytest.mark.integration

THREADS = 4
EVENTS = 200
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc).isoformat()
Body = dict[str, Any]


@pytest.fixture(scope="module")
def all_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with processes.running(tmp_path_factory.mktemp("parts")) as parts:
        _count_taught(parts)
        yield parts


@pytest.fixture
def parts(all_parts: Parts) -> Parts:
    """Give the parts, all of them running, whatever the test before has killed."""
    all_parts.start(*processes.ALL)
    return all_parts


def _count_taught(parts: Parts) -> None:
    """Have SQLite itself note every weak label that is ever written, also the replaced ones."""
    with parts.services.store.transaction() as tx:
        tx.exec_driver_sql("CREATE TABLE taught (annotation INTEGER)")
        tx.exec_driver_sql(
            "CREATE TRIGGER note AFTER INSERT ON weak_labels "
            "BEGIN INSERT INTO taught VALUES (NEW.annotation); END"
        )


def written(project: int, annotation: int) -> Body:
    """An annotation with one click, whose place tells which annotation it was."""
    x_px = annotation % 1000
    value = {"x": x_px / 10, "y": 50.0, "width": 0.2, "keypointlabels": ["crack"]}
    click = {"id": f"c{annotation}", "type": "keypointlabels", "from_name": "point",
             "to_name": "image", "original_width": 1000, "original_height": 100,
             "image_rotation": 0, "origin": "manual", "value": value}  # fmt: skip
    image = f"/data/upload/{annotation}.jpg"
    task = {"id": annotation, "data": {"image": image}, "created_at": NOW}
    state = {"id": annotation, "task": annotation, "project": project, "result": [click],
             "created_at": NOW, "updated_at": NOW, "lead_time": 2.0,
             "was_cancelled": False}  # fmt: skip
    about = {"id": project, "title": "bridge", "label_config": CONFIG}
    return {"action": "ANNOTATION_CREATED", "annotation": state, "task": task, "project": about}


class Posting:
    """Posts one event per annotation from four threads, in the background."""

    def __init__(self, parts: Parts, project: int) -> None:
        self.parts = parts
        self.project = project
        self.annotations = [1000 * project + n for n in range(EVENTS)]
        self.seconds: list[float] = []
        self.answered = threading.Semaphore(0)

    def _post(self, annotations: list[int]) -> None:
        with self.parts.client() as client:
            for annotation in annotations:
                began = time.monotonic()
                answer = client.post("/webhook", json=written(self.project, annotation))
                self.seconds.append(time.monotonic() - began)
                assert answer.status_code == 201, answer.text
                self.answered.release()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Post while the block runs; at its end all must have been acknowledged."""
        with ThreadPoolExecutor(THREADS) as pool:
            shares = [self.annotations[n::THREADS] for n in range(THREADS)]
            posts: list[Future[None]] = [pool.submit(self._post, share) for share in shares]
            yield
        for post in posts:
            post.result()
        assert len(self.seconds) == EVENTS

    def acknowledged(self, count: int) -> None:
        """Wait until so many more have been acknowledged."""
        for _ in range(count):
            assert self.answered.acquire(timeout=PATIENCE_S), "no more acknowledgements"

    def assert_applied_once(self) -> None:
        """Everything in the store, written by exactly one application."""
        eventually(lambda: waiting(self.parts) == 0, f"{EVENTS} events to be applied")
        with self.parts.services.store.reading() as tx:
            states = annotation_rows.inventory(tx, self.project)
            labels = learning.weak_labels(tx, self.project)
            taught = tx.exec_driver_sql(
                "SELECT annotation, count(*) FROM taught WHERE annotation BETWEEN ? AND ? "
                "GROUP BY annotation",
                (self.annotations[0], self.annotations[-1]),
            ).fetchall()
            assert inbox.dead(tx) == []
        assert sorted(states) == self.annotations
        assert [(x.annotation, round(x.x_px)) for x in labels] == [
            (annotation, annotation % 1000) for annotation in self.annotations
        ]
        assert dict(map(tuple, taught)) == dict.fromkeys(self.annotations, 1)
        self.parts.assert_alive()

    def report(self, what: str) -> None:
        """Print how long acknowledgements took; only a grossly wrong one fails."""
        hundredths = statistics.quantiles(self.seconds, n=100, method="inclusive")
        p50, p99, worst = (1000 * x for x in (hundredths[49], hundredths[98], max(self.seconds)))
        print(f"\nacknowledged {what}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, worst {worst:.0f} ms")
        assert p99 < 5000


def waiting(parts: Parts) -> int:
    with parts.services.store.reading() as tx:
        return len(inbox.pending(tx, limit=10 * EVENTS))


def test_events_from_many_threads_are_acknowledged_at_once_and_applied(parts: Parts) -> None:
    posting = Posting(parts, project=1)
    with posting.under_way():
        pass
    posting.assert_applied_once()
    posting.report("with everything up")
    _handle_again(parts, posting)
    posting.assert_applied_once()


def _handle_again(parts: Parts, posting: Posting) -> None:
    """Have a worker handle all these events once more, as after a crash behind the commit."""
    with parts.services.store.reading() as tx:
        newest = inbox.counts(tx)["done", "webhook"]
    again = range(newest - EVENTS + 1, newest + 1)
    for event in again:
        queues.event(parts.services, event)
    assert {parts.services.queues.wait(f"event-{event}", PATIENCE_S) for event in again} == {
        "finished"
    }


def test_a_worker_killed_during_an_event_loses_nothing(parts: Parts) -> None:
    posting = Posting(parts, project=2)
    with posting.under_way():
        posting.acknowledged(EVENTS // 4)
        _kill_worker_in_the_middle_of_a_job(parts)
        posting.acknowledged(EVENTS // 4)  # nobody works
        parts.start("events")
    posting.assert_applied_once()
    posting.report("while the worker was killed")


def _kill_worker_in_the_middle_of_a_job(parts: Parts) -> None:
    """Hold the store's one write lock, so that an event that has begun cannot be done."""
    with (
        Redis.from_url(parts.environ["REDIS_URL"]) as redis,
        parts.services.store.transaction() as tx,
    ):

        def has_begun() -> bool:
            started = [entry.decode() for entry in redis.zrange("rq:wip:events", 0, -1)]
            events = [int(re.findall(r"event-(\d+)", entry)[0]) for entry in started]
            return [inbox.state(tx, event) for event in events] == ["pending"]

        eventually(has_begun, "a job to begin")
        parts.kill("events")
        assert has_begun()


def test_redis_may_die_and_come_back_empty(parts: Parts) -> None:
    posting = Posting(parts, project=3)
    with posting.under_way():
        posting.acknowledged(EVENTS // 4)
        parts.kill("redis")
        posting.acknowledged(EVENTS // 2)  # without any Redis
        parts.start("redis")
    posting.assert_applied_once()
    posting.report("while Redis was gone")


def test_a_hanging_redis_delays_no_acknowledgement(parts: Parts) -> None:
    with parts.hanging("redis"):
        for annotation in range(5000, 5003):
            with parts.client() as client:  # each on a connection of its own, as Label Studio does
                began = time.monotonic()
                assert client.post("/webhook", json=written(5, annotation)).status_code == 201
                assert time.monotonic() - began < CALL_TIMEOUT_S
    eventually(lambda: waiting(parts) == 0, "the events to be applied")


def _post_raw(parts: Parts, content: bytes, secret: str = SECRET, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", int(parts.environ["PORT"]), timeout=30)
    sent = {SECRET_HEADER: secret, "Content-Type": "application/json", **headers}
    try:
        connection.request("POST", "/webhook", body=content, headers=sent)
        return connection.getresponse().status
    finally:
        connection.close()


EVENT = json.dumps(written(4, 4000)).encode()
REFUSED: dict[str, tuple[int, Callable[[Parts], int]]] = {
    "no secret": (401, lambda parts: _post_raw(parts, EVENT, "")),
    "wrong secret": (401, lambda parts: _post_raw(parts, EVENT, SECRET + "!")),
    "half an event": (400, lambda parts: _post_raw(parts, EVENT[:-1])),
    "not UTF-8": (400, lambda parts: _post_raw(parts, b'{"action": "\xff"}')),
    "nested too deeply": (400, lambda parts: _post_raw(parts, b"[" * 100_000)),
    "a list": (400, lambda parts: _post_raw(parts, b"[" + EVENT + b"]")),
    "no action": (400, lambda parts: _post_raw(parts, b'{"annotation": {}}')),
    "300 MB announced": (
        413,
        lambda parts: _post_raw(parts, b"", **{"Content-Length": str(300 * 1024**2)}),
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_refused_never_reaches_the_inbox(parts: Parts, fault: str) -> None:
    def kept() -> int:
        with parts.services.store.reading() as tx:
            return sum(inbox.counts(tx).values())

    before = kept()
    status, post = REFUSED[fault]
    assert post(parts) == status
    assert kept() == before
    parts.assert_alive()


class Up:
    """`labelclimb up` in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.environ = processes.environment(folder)
        _, self.redis_url = embedded_server(Settings.from_env(self.environ).data_dir)
        self.errors = folder / "errors"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*labelclimb(), "up"], env=self.environ, stderr=errors, start_new_session=True
            )

    def is_complete(self) -> bool:
        """All have begun their work: the API answers, three workers have registered."""
        socket = Path(self.redis_url.removeprefix("unix://"))
        if not socket.exists() or not answers(f"http://127.0.0.1:{self.environ['PORT']}/health")():
            return False
        with Redis.from_url(self.redis_url) as redis:
            return redis.scard("rq:workers") == 3

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)

    def said(self) -> str:
        return " ".join(self.errors.read_text().split())


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path)
    yield up
    if up.process.poll() is None:
        os.killpg(up.process.pid, signal.SIGKILL)  # its watchdog ends the rest
        up.process.wait()
    shutil.rmtree(Path(up.redis_url.removeprefix("unix://")).parent)


def test_sigterm_ends_up_and_everything_that_it_started(up: Up) -> None:
    eventually(up.is_complete, "everything to be up")
    family = descendants(up.process.pid)
    assert len(family) == 7, family  # six parts and the watchdog
    up.process.terminate()
    assert up.ended() == 0, up.said()
    assert alive(family) == []


@pytest.mark.parametrize(
    ("part", "command"), [("redis", "redis-server"), ("events", "worker events")]
)
def test_the_death_of_one_part_ends_all_and_is_named(up: Up, part: str, command: str) -> None:
    eventually(up.is_complete, "everything to be up")
    family = descendants(up.process.pid)
    (pid,) = [pid for pid, line in family.items() if command in line]
    os.kill(pid, signal.SIGKILL)
    assert up.ended() == 2
    assert alive(family) == []
    assert f"error: {part} was killed by SIGKILL" in up.said()
