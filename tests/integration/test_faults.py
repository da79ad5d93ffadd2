"""Whatever dies or is wiped in between: real processes end where an undisturbed day would."""

from __future__ import annotations

import http.server
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from redis import Redis

from backend.errors import QueueError
from backend.labelstudio import rle
from backend.processes.supervisor import free_port
from backend.records import ProposedRegion, Task, TaskEvidence, Version
from backend.settings import Settings
from backend.steps import decide, projects, queues
from backend.steps.listening import intake
from backend.store import annotations as annotation_rows
from backend.store import inbox, learning, proposals, tasks, versions
from backend.wiring import Services, build
from tests.integration import parts as processes
from tests.integration.parts import PATIENCE_S, Parts, eventually
from tests.steps.conftest import CONFIG, NOW, PlayedQueues
from tests.steps.fake_label_studio import FakeLabelStudio
from tests.steps.listening.history import history
from tests.steps.played_label_studio import Body, PlayedLabelStudio, click

pytestmark = pytest.mark.integration

SENDERS = 16
EVENTS = 2000
REPEATED = 0.05


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path)
    yield parts
    parts.stop()


def waiting(parts: Parts) -> int:
    with parts.services.store.reading() as tx:
        assert inbox.dead(tx) == []
        return len(inbox.pending_ids(tx, limit=10 * EVENTS))


def all_handled(parts: Parts) -> None:
    eventually(lambda: waiting(parts) == 0, "all events to be handled")


def truth(services: Services) -> dict[str, Any]:
    """Return all that the store knows of a project's annotations and what they taught."""
    with services.store.reading() as tx:
        known = {
            "tasks": tasks.all(tx, 1),
            "annotations": annotation_rows.live(tx, 1),
            "weak labels": learning.weak_labels(tx, 1),
            "masks": learning.masks(tx, 1),
            "interactions": learning.interactions(tx, 1),
        }
    return {name: sorted(rows, key=lambda row: repr(astuple(row))) for name, rows in known.items()}


def replayed(folder: Path, events: list[Body]) -> dict[str, Any]:
    """Return the truth after the same events in their order, each once, in this process."""
    real = build(Settings.from_env({"DATA_DIR": str(folder)}))
    played: Any = PlayedQueues()
    services = replace(real, queues=played)
    for body in events:
        intake.handle(services, intake.receive(services, body))
    found = truth(services)
    real.close()
    return found


def test_2000_events_from_16_senders_shuffled_and_repeated_end_as_replayed_in_order(
    parts: Parts, tmp_path: Path
) -> None:
    parts.start(*processes.ALL)
    began = datetime.now(timezone.utc) - timedelta(days=1)
    events = history(seed=4, events=round(EVENTS / (1 + REPEATED)), now=began).events
    rng = random.Random(4)
    sent = events + rng.sample(events, EVENTS - len(events))
    rng.shuffle(sent)

    def send(first: int) -> None:
        with parts.client() as client:
            for body in sent[first::SENDERS]:
                assert client.post("/webhook", json=body).status_code == 201

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(send, range(SENDERS)))
    all_handled(parts)
    found, expected = truth(parts.services), replayed(tmp_path / "clean", events)
    assert len(expected["weak labels"]) > 1000
    for what, rows in expected.items():
        assert found[what] == rows, what
    with parts.services.store.reading() as tx:
        assert inbox.received(tx, 1, "webhook") == EVENTS
    parts.assert_alive()


def event(annotation: int) -> Body:
    played = PlayedLabelStudio()
    played.annotate(played.import_tasks(1)[0], [click("crack")])
    body = played.events[-1]
    body["annotation"]["id"] = annotation
    return body


def test_an_event_is_kept_and_counts_once_although_its_acknowledgement_died(parts: Parts) -> None:
    """kill -9 between commit and answer; the sender, who heard nothing, says it again."""
    parts.start("redis")
    dying = [sys.executable, "-m", "tests.integration.dying", "api-after-commit"]
    with (parts.logs / "dying.log").open("ab") as log:
        api = subprocess.Popen(dying, env=parts.environ, stdout=log, stderr=log)
    eventually(lambda: answers(parts), "the API that is going to die")
    with parts.client() as client, pytest.raises(httpx.TransportError):
        client.post("/webhook", json=event(701))
    assert api.wait(PATIENCE_S) == -signal.SIGKILL
    assert waiting(parts) == 1
    parts.start("events", "scheduler")  # no new webhook wakes them
    all_handled(parts)
    before = truth(parts.services)
    assert [a.id for a in before["annotations"]] == [701]
    parts.start("api")
    with parts.client() as client:
        assert client.post("/webhook", json=event(701)).status_code == 201
    all_handled(parts)
    assert truth(parts.services) == before
    with parts.services.store.reading() as tx:
        assert inbox.counts(tx) == {("done", "webhook"): 2}


def redis_answers(parts: Parts) -> bool:
    try:
        parts.services.queues.ping()
    except QueueError:
        return False
    return True


def answers(parts: Parts) -> bool:
    try:
        return httpx.get(f"{parts.url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_after_a_crash_of_everything_kept_events_are_handled_without_new_ones(
    parts: Parts,
) -> None:
    parts.start("redis", "api")
    with parts.client() as client:
        for annotation in range(710, 720):
            assert client.post("/webhook", json=event(annotation)).status_code == 201
    for name in ("api", "redis"):
        parts.kill(name)
    assert waiting(parts) == 10
    parts.start(*processes.ALL)
    all_handled(parts)
    with parts.services.store.reading() as tx:
        assert sorted(annotation_rows.inventory(tx, 1)) == list(range(710, 720))


def test_a_wiped_redis_costs_no_event(parts: Parts) -> None:
    """Its memory is gone while jobs wait: the scheduler finds the events in the store."""
    parts.start("redis", "api")
    with parts.client() as client:
        for annotation in range(720, 740):
            assert client.post("/webhook", json=event(annotation)).status_code == 201
    with Redis.from_url(parts.environ["REDIS_URL"]) as redis:
        eventually(lambda: redis.llen("rq:queue:events") == 20, "20 jobs to wait")
        redis.flushall()
        parts.start("events", "scheduler")
        all_handled(parts)
        with parts.client() as client:
            client.post("/webhook", json=event(740))
            redis.flushall()
        all_handled(parts)
    with parts.services.store.reading() as tx:
        assert sorted(annotation_rows.inventory(tx, 1)) == list(range(720, 741))
    parts.assert_alive()


class Served:
    """A fake Label Studio behind a real address; `before` and `after` each call it notifies."""

    def __init__(self, fake: FakeLabelStudio, port: int) -> None:
        self.fake = fake
        self.before: Callable[[str], None] = lambda call: None
        self.after: Callable[[str], None] = lambda call: None
        self.lock = threading.Lock()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), self._handler())

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                url = f"http://ls.test{self.path}"
                request = httpx.Request(self.command, url, content=self.rfile.read(length))
                call = f"{self.command} {request.url.path}"
                with served.lock:
                    served.before(call)
                    response = served.fake.transport().handle_request(request)
                    served.after(call)
                self.send_response(response.status_code)
                self.send_header("content-length", str(len(response.content)))
                self.end_headers()
                self.wfile.write(response.content)

            do_GET = do_POST = do_PATCH = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()


def make_champion(services: Services, task_ids: list[int], number: int = 1) -> None:
    """A version whose proposals are all computed: only publishing is left to do."""
    projects.adopt(services, 1, CONFIG, title="bridge")
    outline = rle.to_bytes(rle.encode(np.ones((4, 6), dtype=np.bool_)))
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, id, f"/data/upload/1/{id}.jpg", NOW) for id in task_ids])
        assert versions.next_number(tx, 1) == number
        snapshot = f"s{number}"
        versions.add(tx, Version(1, number, "challenger", "advcam", snapshot, NOW, ("crack",)))
        for id in task_ids:
            evidence = TaskEvidence(1, id, number, ("crack",), ((0.5 + id / 100,),), (0.0, 1.0), {})
            region = ProposedRegion(f"v{number}-{id}-1", 1, id, number, "crack", 4, 6, outline, 0.9)
            assert proposals.save(tx, 1, id, number, [region], evidence)
        projects.promote(tx, 1, number)
        projects.want_order(tx, 1)


IMPORT = "POST /api/projects/1/import/predictions"
FLIP = "PATCH /api/projects/1/"


@pytest.mark.parametrize(
    ("call", "moment"), [(IMPORT, "before"), (IMPORT, "after"), (FLIP, "before"), (FLIP, "after")]
)
def test_publishing_that_was_killed_is_complete_and_not_doubled_after_a_restart(
    parts: Parts, call: str, moment: str
) -> None:
    task_ids = [11, 12, 13, 14]
    make_champion(parts.services, task_ids)
    served = Served(FakeLabelStudio(task_ids), port=free_port(0))
    address = f"http://127.0.0.1:{served.server.server_port}"
    parts.environ |= {"LABEL_STUDIO_URL": address, "LABEL_STUDIO_API_KEY": "0" * 40}
    killed = threading.Event()

    def kill(seen: str) -> None:
        if seen == call and not killed.is_set():
            killed.set()
            parts.kill("publish")

    setattr(served, moment, kill)
    with served.running():
        parts.start("redis", "publish")
        eventually(lambda: redis_answers(parts), "Redis")
        queues.publish(parts.services, 1)
        assert killed.wait(PATIENCE_S), "publishing never came so far"
        parts.kill("redis")  # `labelclimb up` starts again with an empty one
        parts.start("redis", "publish", "scheduler")
        eventually(lambda: shown(served) == dict.fromkeys(task_ids, 1), "all to be shown")
        eventually(lambda: not left_over(parts), "everything to be tidy")
    names = {p["model_version"] for p in served.fake.predictions}
    assert names == {served.fake.model_version}
    assert shown(served) == dict.fromkeys(task_ids, 1)


def shown(served: Served) -> dict[int, int]:
    with served.lock:
        return {task: len(rows) for task, rows in served.fake.shown().items()}


def left_over(parts: Parts) -> bool:
    """Say whether the store believes that something is still to be done."""
    project = projects.require(parts.services, 1)
    return bool(project.pushing) or decide.publication_due(parts.services, 1)
