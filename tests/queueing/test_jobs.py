"""Jobs: once per id, in order, delayed, cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from backend.queueing.queues import BEGUN, BEGUN_TTL_S, Queues
from tests.queueing.making import Server, eventually, lines, put

pytestmark = pytest.mark.integration


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


@pytest.mark.parametrize("wrong", [{"x": (1, 2)}, {"x": {1: 2}}, {"x": object()}, {"x": 1e999}])
def test_arguments_that_json_does_not_give_back_are_refused(
    queues: Queues, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        put(queues, "note", kwargs=wrong)
    assert queues.depths() == {}


def test_a_job_between_queue_and_worker_lives_until_it_has_been_there_for_long(
    server: Server, queues: Queues, out: Path
) -> None:
    put(queues, "note", kwargs={"path": str(out), "text": "hello"})
    redis, on_the_way = Redis.from_url(server.url), "rq:queue:events:intermediate"
    redis.hset("rq:job:one", "enqueued_at", "2026-01-01T00:00:00.000000Z")  # it waited for long
    redis.lmove("rq:queue:events", on_the_way)  # a worker took it and is about to begin
    assert queues.is_alive("one")
    redis.set(f"{on_the_way}:first_seen:one", 1.0)  # the worker died before it began
    assert not queues.is_alive("one")
    assert put(queues, "note", kwargs={"path": str(out), "text": "again"})
    assert redis.lrange(on_the_way, 0, -1) == [], "rq would fail the new job of this id"
    queues.run_worker(["events"], burst=True, fork=False)
    assert lines(out) == ["again"]


def test_beginnings_are_counted_until_the_end_also_those_of_dead_processes(
    queues: Queues, server: Server
) -> None:
    assert [queues.begun("task-1"), queues.begun("task-1"), queues.begun("task-2")] == [1, 2, 1]
    with Redis.from_url(server.url) as redis:
        assert 0 < redis.ttl(BEGUN + "task-1") <= BEGUN_TTL_S
    queues.ended("task-1")
    queues.ended("task-1")
    assert [queues.begun("task-1"), queues.begun("task-2")] == [1, 2]
