"""Workers: failing jobs, killed processes, signals, a Redis that goes and comes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from backend.queueing.queues import Queues
from backend.queueing.workers import BEAT_TTL_S, ForkingWorker
from tests.queueing.making import JOBS, Server, eventually, lines, put

pytestmark = pytest.mark.integration


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


def test_a_killed_job_is_told_of_before_it_is_tried_again(
    queues: Queues, out: Path, start_worker: Callable[..., Any]
) -> None:
    told = {"on_killed": f"{JOBS}.mark_killed", "on_failure": f"{JOBS}.mark_failed"}
    put(queues, "die", kwargs={"path": str(out)}, retries=1, **told)
    start_worker("events", fork=True)
    assert queues.wait("one", 20) == "failed"
    reason = "its process ended by signal 9; was it out of memory?"
    assert lines(out.with_name("failures")) == [f"one killed: {reason}", f"one: {reason}"]
    assert lines(out) == ["tried", "tried"]


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
    assert queues.workers() == {"events": 1}, "the new Redis knows it too"


def test_a_worker_stays_with_its_job_s_process_while_redis_is_away(
    server: Server, out: Path
) -> None:
    """Otherwise it would begin the next job beside the one that still runs."""
    queues = Queues(server.url)
    put(queues, "note", kwargs={"path": str(out), "text": ""})
    with Redis.from_url(server.url) as redis:
        job = Job.fetch("one", connection=redis, serializer=JSONSerializer)
        worker = ForkingWorker(["events"], connection=redis, serializer=JSONSerializer)
        worker.register_birth()
        worker.prepare_execution(job)
        server.stop()
        worker.set_current_job_working_time(5.0)
        worker.maintain_heartbeats(job)
        server.start()
        assert queues.workers() == {}
        worker.maintain_heartbeats(job)
        assert queues.workers() == {"events": 1}
