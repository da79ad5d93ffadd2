"""Leases: renewed while their holder lives, free soon after it died, and known to be lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from backend.errors import LockHeld, QueueError
from backend.queueing import locks
from backend.queueing.leases import Lease
from backend.queueing.queues import Queues
from tests.queueing.making import Server, eventually

TTL_S = 1.0
HOLDER = """
import sys, threading
from backend.queueing.queues import Queues
with Queues(sys.argv[1]).lock("x", wait_s=5, ttl_s=float(sys.argv[2])):
    print("held", flush=True)
    threading.Event().wait()
"""


@contextmanager
def holder(server: Server, ttl_s: float) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds the lease as long as it lives."""
    command = [sys.executable, "-c", HOLDER, server.url, str(ttl_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def taken(queues: Queues, wait_s: float) -> bool:
    try:
        with queues.lock("x", wait_s=wait_s):
            return True
    except QueueError:
        return False


def is_lost(lease: Lease) -> bool:
    try:
        lease.check()
    except QueueError as error:
        return "the lease of 'x' was lost" in str(error)
    return False


@pytest.mark.integration
def test_when_a_holder_is_killed_another_goes_on_soon_and_not_before(
    server: Server, queues: Queues
) -> None:
    with holder(server, TTL_S) as process:
        assert not taken(queues, wait_s=3 * TTL_S), "it is renewed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed = time.monotonic()
        assert taken(queues, wait_s=10)
        assert time.monotonic() - killed < TTL_S + 1


@pytest.mark.integration
def test_that_somebody_else_is_at_it_is_told_from_redis_being_down(
    server: Server, queues: Queues
) -> None:
    assert not queues.is_held("x")
    with queues.lock("x", wait_s=0):
        assert queues.is_held("x") and not queues.is_held("y")
        with pytest.raises(LockHeld, match="'x' is held"), queues.lock("x", wait_s=0):
            raise AssertionError("two are in it")
    assert not queues.is_held("x")
    server.stop()
    with pytest.raises(QueueError) as down, queues.lock("x", wait_s=0):
        raise AssertionError("nobody knows")
    assert not isinstance(down.value, LockHeld)
    server.start()


@pytest.mark.integration
def test_a_lease_that_redis_forgot_or_another_took_is_lost(server: Server, queues: Queues) -> None:
    with queues.lock("x", wait_s=0, ttl_s=TTL_S) as lease:
        lease.check()
        with Redis.from_url(server.url) as redis:
            redis.set("labelclimb:lock:x", "another's")

        eventually(lambda: is_lost(lease))
    with Redis.from_url(server.url) as redis:
        assert redis.get("labelclimb:lock:x") == b"another's", "it is not taken from the other"


class Taken:
    """Counts how often another was found to have the lease."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.mark.integration
@pytest.mark.parametrize("how", ["FLUSHALL", "kill -9"])
def test_who_does_not_give_way_takes_a_lease_again_that_redis_forgot(
    server: Server, queues: Queues, how: str
) -> None:
    taken = Taken()
    with queues.lock("x", wait_s=0, ttl_s=TTL_S, taken=taken) as lease:
        if how == "FLUSHALL":
            with Redis.from_url(server.url) as redis:
                redis.flushall()
        else:
            server.process.kill()
            server.process.wait()
            server.start()
        eventually(lambda: queues.is_held("x"))
        with pytest.raises(LockHeld), Queues(server.url).lock("x", wait_s=0):
            raise AssertionError("two are in it")
        lease.check()
    assert taken.times == 0
    assert not queues.is_held("x"), "it is given back"


@pytest.mark.integration
def test_who_does_not_give_way_hears_once_that_another_was_faster_and_has_it_after_him(
    server: Server, queues: Queues
) -> None:
    taken = Taken()
    with queues.lock("x", wait_s=0, ttl_s=TTL_S, taken=taken):
        with Redis.from_url(server.url) as redis:
            own = redis.get("labelclimb:lock:x")
            redis.set("labelclimb:lock:x", "another's", px=round(2000 * TTL_S))
            eventually(lambda: taken.times == 1)
            assert redis.get("labelclimb:lock:x") == b"another's"
            eventually(lambda: redis.get("labelclimb:lock:x") == own)
        assert taken.times == 1, "although it looked several times"


@pytest.mark.integration
def test_a_redis_that_was_wiped_is_settled_once_all_had_the_time_to_show_themselves(
    server: Server, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SETTLED_S", 1)
    assert not queues.settled(), "the first question"
    eventually(queues.settled)
    with Redis.from_url(server.url) as redis:
        redis.flushall()
        assert not queues.settled()
        redis.set(locks.REMEMBERS, 2**40)  # the clock was put back
    assert not queues.settled()
    eventually(queues.settled)


@pytest.mark.integration
def test_a_lease_outlives_a_short_absence_of_redis_and_not_a_long_one(
    server: Server, queues: Queues
) -> None:
    with queues.lock("x", wait_s=0, ttl_s=TTL_S) as lease:
        server.process.send_signal(signal.SIGSTOP)
        try:
            lease.check()
            eventually(lambda: is_lost(lease))
        finally:
            server.process.send_signal(signal.SIGCONT)


def test_renewal_that_fails_now_and_then_keeps_the_lease() -> None:
    answers = iter([QueueError("gone"), True, QueueError("gone"), QueueError("gone")])
    renewed = threading.Semaphore(0)

    def renew() -> bool:
        answer = next(answers, True)
        renewed.release()
        if isinstance(answer, QueueError):
            raise answer
        return bool(answer)

    lease = Lease("x", 2.0, renew)
    with lease.renewed():
        for _ in range(5):
            assert renewed.acquire(timeout=5)
            lease.check()
