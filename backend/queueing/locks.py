"""Redis with its errors in our words, and the right to be alone at something."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError
from redis.lock import Lock
from redis.retry import Retry as RedisRetry

from backend.errors import LockHeld, QueueError
from backend.queueing.leases import Lease

CALL_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 1.0
LEASE_S = 20.0  # after which another may do what a dead process was alone at
LOCK = "labelclimb:lock:"
REMEMBERS = "labelclimb:remembers-since"
SETTLED_S = LEASE_S  # of which a quarter suffices to all whose Redis answers at once

log = logging.getLogger(__name__)


class Locks:
    """The locks of one Redis, by name; every method raises QueueError when Redis is down."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._redis = self._connect(CALL_TIMEOUT_S)

    @contextlib.contextmanager
    def lock(
        self,
        name: str,
        *,
        wait_s: float,
        ttl_s: float = LEASE_S,
        taken: Callable[[], None] | None = None,
    ) -> Iterator[Lease]:
        """Let one process at a time into the block; when it dies, the next after `ttl_s`.

        Raises LockHeld when another held it for `wait_s`. Whoever was held up for `ttl_s`, or was
        forgotten by a Redis that was wiped, may no longer be alone: the lease's `check` says so.
        With `taken`, for what is too long to be begun again, the lease is taken again as soon as
        nobody has it; if another was faster, `taken` is called, from another thread.
        """
        key = LOCK + name
        with self._translated():
            lock = self._redis.lock(key, timeout=ttl_s, blocking_timeout=wait_s, thread_local=False)
            if not lock.acquire():
                raise LockHeld(f"{name!r} is held by another process; it is tried again later")
        lease = Lease(name, ttl_s, partial(self._renewed, lock, again=taken is not None), taken)
        try:
            with lease.renewed():
                yield lease
        finally:
            with contextlib.suppress(RedisError):  # then it ends by itself, or has ended
                lock.release()

    def is_held(self, name: str) -> bool:
        """Say whether a process is in a `lock` of this name."""
        with self._translated():
            return bool(self._redis.exists(LOCK + name))

    def settled(self) -> bool:
        """Say whether Redis has had its memory for so long that all who live are in it again.

        One that was wiped knows neither jobs nor locks at first: that it does not know somebody
        says nothing until his next sign of life has come. Counted from the first question on.
        """
        with self._translated():
            now_s, _ = self._redis.time()
            known = self._redis.get(REMEMBERS)
            age_s = None if known is None else now_s - int(known)
            if age_s is None or age_s < 0:  # wiped; or the clock was put back
                self._redis.set(REMEMBERS, now_s)
            return age_s is not None and age_s >= SETTLED_S

    def _renewed(self, lock: Lock, *, again: bool) -> bool:
        try:
            return bool(lock.reacquire())
        except LockError:
            return again and self._taken_again(lock)
        except RedisError as error:
            raise self._down(error) from error

    def _taken_again(self, lock: Lock) -> bool:
        with self._translated():
            found = bool(lock.acquire(blocking=False, token=lock.local.token))
        if found:
            log.warning("%s was forgotten by Redis, and is taken again", lock.name)
        return found

    def ping(self) -> None:
        """Return when Redis answers; raises QueueError when it does not."""
        with self._translated():
            self._redis.ping()

    def _connect(self, timeout_s: float) -> Redis[bytes]:
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "retry": RedisRetry(NoBackoff(), 1),
        }
        try:
            redis: Redis[bytes] = Redis.from_url(self._url, **options)
        except ValueError:  # whose text may hold the password
            raise QueueError(f"REDIS_URL={redacted(self._url)} is not an address") from None
        return redis

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except LockError as error:
            raise QueueError(f"a lock on {redacted(self._url)} was lost: {error}") from error
        except RedisError as error:
            raise self._down(error) from error

    def _down(self, error: RedisError) -> QueueError:
        return QueueError(
            f"Redis at {redacted(self._url)} cannot be used ({type(error).__name__}); "
            "start it, or set REDIS_URL"
        )


def redacted(redis_url: str) -> str:
    """Return a Redis URL without password and options."""
    parts = urlsplit(redis_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
