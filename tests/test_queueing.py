from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from backend.errors import QueueError
from backend.queue_workers import BEAT_TTL_S
from backend.queueing import Queues, embedded_server, redacted

pytestmark = pytest.mark.integration

JOBS = "tests.queue_jobs"
WORKER = """
import sys
from backend.queueing import Queues
Queues(sys.argv[1]).run_worker(sys.argv[3:], fork=sys.argv[2] == "fork")
"""


def eventually(holds: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        threading.Event().wait(0.02)


class Server:
    """A Redis that a test may stop and start again; what it held is lost."""

    def __init__(self, folder: Path) -> None:
        self.command, self.url = embedded_server(folder)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        eventually(self.answers)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def answers(self) -> bool:
        try:
            Queues(self.url).ping()
        except QueueError:
            return False
        return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()
    Path(server.url.removeprefix("unix://")).parent.rmdir()


@pytest.fixture
def queues(server: Server) -> Queues:
    return Queues(server.url)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def start_worker(server: Server, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*names: str, fork: bool = False) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, server.url, "fork" if fork else "stay", *names]
        environ = {**os.environ, "QUEUE_TEST_FAILURES": str(tmp_path / "failures")}
        worker = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()
        worker.communicate()


def put(queues: Queues, name: str, job_id: str = "one", **options: Any) -> bool:
    kwargs = options.pop("kwargs")
    options.setdefault("timeout_s", 30)
    return queues.enqueue(
        options.pop("queue", "events"), f"{JOBS}.{name}", job_id=job_id, kwargs=kwargs, **options
    )


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_job_runs_with_its_arguments_and_its_end_can_be_waited_for(
    queues: Queues, out: Path
) -> None:
    assert put(queues, "note", kwargs={"path": str(out), "text": "hello"})
    assert queues.depths() == {"events": 1}
    assert queues.wait("one", 0.05) == "timeout"
    queues.run_worker(["events"], burst=True, fork=False)
    assert lines(out) == ["hello"]
    assert queues.wait("one", 5) == "finished"
    assert queues.depths() == {"events": 0}


def test_waiting_ends_when_the_job_does(
    queues: Queues, out: Path, start_worker: Callable[..., Any]
) -> None:
    released = out.with_name("released")
    put(queues, "wait_for_file", kwargs={"path": str(out), "released": str(released)})
    start_worker("events")
    eventually(lambda: lines(out) == ["started"])
    threading.Timer(0.3, released.touch).start()
    began = time.monotonic()
    assert queues.wait("one", 30) == "finished"
    assert 0.2 < time.monotonic() - began < 5
    assert lines(out) == ["started", "ended"]


def test_an_id_waits_or_runs_once_and_may_come_again_afterwards(queues: Queues, out: Path) -> None:
    def again(text: str) -> bool:
        return put(queues, "note", kwargs={"path": str(out), "text": text})

    assert again("first")
    assert queues.is_alive("one")
    assert not again("second")
    queues.run_worker(["events"], burst=True, fork=False)
    assert not queues.is_alive("one")
    assert again("third")
    assert queues.wait("one", 0.05) == "timeout"  # not the end of the first one
    queues.run_worker(["events"], burst=True, fork=False)
    assert lines(out) == ["first", "third"]


def test_a_running_id_is_not_enqueued_again(
    queues: Queues, out: Path, start_worker: Callable[..., Any]
) -> None:
    released = out.with_name("released")
    kwargs = {"path": str(out), "released": str(released)}
    put(queues, "wait_for_file", kwargs=kwargs)
    start_worker("events", fork=True)
    eventually(lambda: lines(out) == ["started"])
    assert queues.is_alive("one")
    assert not put(queues, "wait_for_file", kwargs=kwargs)
    released.touch()
    assert queues.wait("one", 20) == "finished"
    assert lines(out) == ["started", "ended"]


def test_many_processes_enqueue_one_id_once(queues: Queues, out: Path) -> None:
    taken: list[bool] = []
    kwargs = {"path": str(out), "text": "x"}
    threads = [
        threading.Thread(target=lambda: taken.append(put(queues, "note", kwargs=kwargs)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]
    assert queues.depths() == {"events": 1}


def test_urgent_jobs_and_the_first_named_queue_come_first(queues: Queues, out: Path) -> None:
    wanted: dict[str, dict[str, Any]] = {
        "late": {"queue": "publish"},
        "first": {"queue": "events"},
        "urgent": {"queue": "publish", "at_front": True},
    }
    for job_id, options in wanted.items():
        kwargs = {"path": str(out), "text": job_id}
        put(queues, "note", job_id, kwargs=kwargs, **options)
    queues.run_worker(["events", "publish"], burst=True, fork=False)
    assert lines(out) == ["first", "urgent", "late"]


def test_a_resident_worker_keeps_its_process_a_forking_one_does_not(
    queues: Queues, out: Path
) -> None:
    for fork in (False, True):
        for job_id in ("one", "two"):
            put(queues, "note_pid", job_id, kwargs={"path": str(out)})
        queues.run_worker(["events"], burst=True, fork=fork)
    here = str(os.getpid())
    first, second, third, fourth = lines(out)
    assert first == second == here
    assert len({here, third, fourth}) == 3


@pytest.mark.parametrize("fork", [False, True])
def test_a_poison_job_ends_failed_and_is_reported_once(
    queues: Queues, out: Path, start_worker: Callable[..., Any], fork: bool
) -> None:
    failures = out.with_name("failures")
    options: dict[str, Any] = {"on_failure": f"{JOBS}.mark_failed"}
    put(queues, "fail", "poison", kwargs={"path": str(out)}, retries=1, **options)
    start_worker("events", fork=fork)
    assert queues.wait("poison", 20) == "failed"
    assert lines(out) == ["tried", "tried"]
    assert lines(failures) == ["poison: RuntimeError: poison"]
    assert queues.failures() == {"poison": "RuntimeError: poison"}
    put(queues, "note", "next", kwargs={"path": str(out), "text": "next"})
    assert queues.wait("next", 20) == "finished"


def test_a_job_that_kills_its_process_is_reported_and_the_worker_lives(
    queues: Queues, out: Path, start_worker: Callable[..., Any]
) -> None:
    put(
        queues,
        "die",
        kwargs={"path": str(out)},
        retries=0,
        on_failure=f"{JOBS}.mark_failed",
    )
    worker = start_worker("events", fork=True)
    assert queues.wait("one", 20) == "failed"
    assert lines(out.with_name("failures")) == [
        "one: its process ended by signal 9; was it out of memory?"
    ]
    assert worker.poll() is None


def test_a_job_whose_worker_was_killed_may_come_again(
    queues: Queues, server: Server, out: Path, start_worker: Callable[..., Any]
) -> None:
    call = {"kwargs": {"path": str(out), "released": str(out) + "-go"}, "timeout_s": 3600}
    put(queues, "wait_for_file", **call)
    worker = start_worker("events")
    eventually(lambda: lines(out) == ["started"])
    with Redis.from_url(server.url) as redis:
        ((entry, dead_at),) = redis.zrange("rq:wip:events", 0, -1, withscores=True)
        assert dead_at <= time.time() + BEAT_TTL_S
        eventually(lambda: redis.zscore("rq:wip:events", entry) > dead_at)  # it beats
        worker.kill()
        worker.wait()
        assert not put(queues, "wait_for_file", **call)
        redis.zadd("rq:wip:events", {entry: time.time() - 5})  # as it is after BEAT_TTL_S
        redis.delete(b"rq:execution:" + entry)
        assert put(queues, "wait_for_file", **call)
        assert redis.zcard("rq:wip:events") == 0


def test_a_job_that_failed_is_tried_again_after_a_while(
    queues: Queues, out: Path, start_worker: Callable[..., Any]
) -> None:
    put(queues, "fail_first", kwargs={"path": str(out)}, on_failure=f"{JOBS}.mark_failed")
    start_worker("events")
    began = time.monotonic()
    assert queues.wait("one", 20) == "finished"
    assert time.monotonic() - began >= 1.5
    assert lines(out) == ["tried", "tried"]
    assert lines(out.with_name("failures")) == []


def test_a_job_that_takes_too_long_fails(queues: Queues, out: Path) -> None:
    kwargs = {"path": str(out), "released": "/no/such/file"}
    put(queues, "wait_for_file", kwargs=kwargs, timeout_s=1, retries=0)
    queues.run_worker(["events"], burst=True, fork=False)
    assert queues.wait("one", 1) == "failed"
    assert "maximum timeout value (1 seconds)" in queues.failures()["one"]


def test_a_function_that_does_not_exist_fails_visibly(queues: Queues) -> None:
    put(queues, "no_such_function", kwargs={}, retries=0)
    queues.run_worker(["events"], burst=True, fork=False)
    assert queues.wait("one", 1) == "failed"
    assert list(queues.failures()) == ["one"]


def test_a_delayed_job_runs_later(
    queues: Queues, out: Path, start_worker: Callable[..., Any]
) -> None:
    kwargs = {"path": str(out), "text": "x"}
    assert put(queues, "note", kwargs=kwargs, delay_s=1.5)
    assert not put(queues, "note", kwargs=kwargs)
    assert queues.depths() == {"events": 1}
    queues.run_worker(["events"], burst=True, fork=False)
    assert lines(out) == []
    start_worker("events")
    assert queues.wait("one", 20) == "finished"


def test_a_waiting_job_can_be_cancelled(queues: Queues, out: Path) -> None:
    put(queues, "note", kwargs={"path": str(out), "text": "x"})
    assert queues.cancel("one")
    assert not queues.cancel("one")
    assert not queues.cancel("unknown")
    assert queues.wait("one", 5) == "failed"
    queues.run_worker(["events"], burst=True, fork=False)
    assert lines(out) == []
    assert put(queues, "note", kwargs={"path": str(out), "text": "x"})


def test_a_running_job_can_be_stopped(
    queues: Queues, out: Path, start_worker: Callable[..., Any]
) -> None:
    kwargs = {"path": str(out), "released": "/no/such/file"}
    put(queues, "wait_for_file", kwargs=kwargs)
    start_worker("events", fork=True)
    eventually(lambda: lines(out) == ["started"])
    assert queues.cancel("one")
    assert queues.wait("one", 20) == "failed"
    assert lines(out) == ["started"]


@pytest.mark.parametrize("fork", [False, True])
def test_the_first_sigterm_lets_the_running_job_end(
    queues: Queues, out: Path, start_worker: Callable[..., Any], fork: bool
) -> None:
    released = out.with_name("released")
    put(queues, "wait_for_file", kwargs={"path": str(out), "released": str(released)})
    put(queues, "note", "two", kwargs={"path": str(out), "text": "two"})
    worker = start_worker("events", fork=fork)
    eventually(lambda: lines(out) == ["started"])
    worker.send_signal(signal.SIGTERM)
    released.touch()
    assert worker.wait(20) == 0
    assert lines(out) == ["started", "ended"]
    assert queues.is_alive("two")


def test_an_idle_worker_stops_at_once(queues: Queues, start_worker: Callable[..., Any]) -> None:
    worker = start_worker("events")
    put(queues, "note", kwargs={"path": "/dev/null", "text": ""})
    assert queues.wait("one", 20) == "finished"
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(5) == 0


@pytest.mark.parametrize("fork", [False, True])
def test_a_worker_survives_the_loss_of_redis_even_during_a_job(
    server: Server, out: Path, start_worker: Callable[..., Any], fork: bool
) -> None:
    queues = Queues(server.url)
    worker = start_worker("events", fork=fork)
    put(queues, "note", kwargs={"path": str(out), "text": "before"})
    assert queues.wait("one", 20) == "finished"
    server.stop()
    server.start()
    put(queues, "note", kwargs={"path": str(out), "text": "after"})
    assert queues.wait("one", 20) == "finished"
    released = out.with_name("released")
    kwargs = {"path": str(out), "released": str(released)}
    put(queues, "wait_for_file", "long", kwargs=kwargs)
    eventually(lambda: lines(out)[-1] == "started")
    server.stop()
    released.touch()
    eventually(lambda: lines(out)[-1] == "ended")
    server.start()
    put(queues, "note", kwargs={"path": str(out), "text": "again"})
    assert queues.wait("one", 30) == "finished"
    assert lines(out) == ["before", "after", "started", "ended", "again"]
    assert worker.poll() is None


def test_without_redis_everything_says_so_soon_and_without_the_password(tmp_path: Path) -> None:
    queues = Queues("redis://me:hunter2@127.0.0.1:1/0?client_name=hunter2")
    calls: list[Callable[[], object]] = [
        queues.ping,
        queues.depths,
        queues.failures,
        lambda: queues.wait("one", 5),
        lambda: queues.cancel("one"),
        lambda: queues.is_alive("one"),
        lambda: put(queues, "note", kwargs={}),
        lambda: queues.run_worker(["events"], burst=True, fork=False),
    ]
    began = time.monotonic()
    for call in calls:
        with pytest.raises(QueueError, match=r"Redis at redis://127.0.0.1:1/0 cannot") as raised:
            call()
        assert "hunter2" not in str(raised.value)
    with pytest.raises(QueueError), queues.lock("x", timeout_s=1, wait_s=1):
        raise AssertionError("entered")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("wrong", [{"x": (1, 2)}, {"x": {1: 2}}, {"x": object()}, {"x": 1e999}])
def test_arguments_that_json_does_not_give_back_are_refused(
    queues: Queues, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        put(queues, "note", kwargs=wrong)
    assert queues.depths() == {}


def test_what_lies_in_redis_is_json(queues: Queues, server: Server) -> None:
    import zlib

    from redis import Redis

    put(queues, "note", kwargs={"path": "p", "text": "t"}, on_failure=f"{JOBS}.mark_failed")
    with Redis.from_url(server.url) as redis:
        data = zlib.decompress(redis.hget("rq:job:one", "data"))  # type: ignore[arg-type]
    assert data == b'["tests.queue_jobs.note", null, [], {"path": "p", "text": "t"}]'


def test_a_lock_lets_one_in_at_a_time(queues: Queues) -> None:
    inside: list[str] = []

    def enter(name: str) -> None:
        with queues.lock("publish-7", timeout_s=20, wait_s=20):
            inside.append(f"{name} in")
            threading.Event().wait(0.1)
            inside.append(f"{name} out")

    threads = [threading.Thread(target=enter, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    order = [entry.split()[0] for entry in inside]
    assert order[0::2] == order[1::2]
    assert sorted(order[0::2]) == ["a", "b", "c"]


def test_a_lock_that_another_keeps_is_not_waited_for_for_ever(queues: Queues) -> None:
    with queues.lock("x", timeout_s=30, wait_s=1):
        with (
            pytest.raises(QueueError, match="held by another"),
            queues.lock("x", timeout_s=5, wait_s=0.2),
        ):
            raise AssertionError("entered")
        with queues.lock("y", timeout_s=5, wait_s=0.2):
            pass


def test_the_embedded_server_keeps_to_itself_and_to_nobody_s_disk(
    server: Server, tmp_path: Path
) -> None:
    socket = Path(server.url.removeprefix("unix://"))
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert embedded_server(tmp_path) == (server.command, server.url)
    assert embedded_server(tmp_path / "other")[1] != server.url
    Path(embedded_server(tmp_path / "other")[1].removeprefix("unix://")).parent.rmdir()
    server.stop()
    assert list(socket.parent.iterdir()) == []
    server.start()


def test_a_long_data_folder_still_gives_a_short_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    socket = Path(embedded_server(long)[1].removeprefix("unix://"))
    socket.parent.rmdir()
    assert len(os.fsencode(socket)) <= 107


def test_a_socket_folder_that_others_can_enter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = Path(embedded_server(tmp_path)[1].removeprefix("unix://")).parent
    folder.chmod(0o755)
    with pytest.raises(QueueError, match="not a private folder"):
        embedded_server(tmp_path)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(QueueError, match="not a private folder"):
        embedded_server(tmp_path)


def test_an_address_that_cannot_be_one_is_refused_at_once() -> None:
    with pytest.raises(QueueError, match="redis://host:port is not an address"):
        Queues("redis://:hunter2@host:port")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:6380/2", "redis://host:6380/2"),
        ("rediss://me:se%40cret@host", "rediss://host"),
        ("unix:///tmp/r.sock?password=secret", "unix:///tmp/r.sock"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown
