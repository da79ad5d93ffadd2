"""The workers behind `backend.queueing`: how they stop, show that they live, tell of failures."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue, SimpleWorker, Worker, worker_registration
from rq.job import Job

log = logging.getLogger(__name__)

RECONNECT_S = (0.2, 0.5, 1.0, 2.0, 5.0)
BEAT_S, BEAT_TTL_S = 4, 20  # a resident worker's signs of life during a job


@contextlib.contextmanager
def signals_restored() -> Iterator[None]:
    """Put back the handlers that rq's worker replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Lasting:
    """Outlives Redis, and registers again with one that was wiped: rq's worker stays unknown to it.

    It remembers that it was told to stop, in contrast to having lost Redis.
    """

    told_to_stop = False
    max_connection_wait_time = RECONNECT_S[-1]

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Show that the worker lives."""
        super().heartbeat(timeout, pipeline)  # type: ignore[misc]  # of rq's worker
        if pipeline is None:
            self.be_known()

    def be_known(self) -> None:
        """Register, unless Redis knows the worker."""
        own: Any = self
        if not own.connection.sismember(own.redis_workers_keys, own.key):
            own.connection.hset(own.key, mapping=own.serialize())
            worker_registration.register(own)

    def request_stop(self, signum: int, frame: Any) -> None:
        self.told_to_stop = True
        with contextlib.suppress(RedisError):  # it notes the request in Redis, which may be down
            super().request_stop(signum, frame)  # type: ignore[misc]  # of rq's worker


class ForkingWorker(_Lasting, Worker):  # type: ignore[misc]  # rq is not checked
    """A process for each job; while Redis is away the worker stays with it and begins no other."""

    def set_current_job_working_time(self, seconds: float, pipeline: Any = None) -> None:
        """Note how long the job has been at work."""
        with contextlib.suppress(RedisConnectionError, RedisTimeoutError):
            super().set_current_job_working_time(seconds, pipeline)

    def maintain_heartbeats(self, job: Job) -> None:
        """Show that the worker and its job live."""
        try:
            super().maintain_heartbeats(job)
            self.be_known()
        except (RedisConnectionError, RedisTimeoutError) as error:
            log.warning("%s goes on without Redis (%s)", job.id, type(error).__name__)


class ResidentWorker(_Lasting, SimpleWorker):  # type: ignore[misc]
    """All jobs in one process, which keeps its models; a thread shows that a job still runs."""

    def get_heartbeat_ttl(self, _job: Job) -> int:
        """Return after how many seconds without a beat a job's worker is dead.

        rq's own, a minute more than the job's time limit, hides a dead worker for as long.
        """
        return BEAT_TTL_S

    def perform_job(self, job: Job, queue: Queue) -> bool:
        """Run a job while another thread beats."""
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(job, self.execution, ended), daemon=True)
        thread.start()
        try:
            return bool(super().perform_job(job, queue))
        finally:
            ended.set()
            thread.join()

    def _beat(self, job: Job, execution: Any, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            with contextlib.suppress(RedisError), self.connection.pipeline() as pipeline:
                execution.heartbeat(job.started_job_registry, BEAT_TTL_S, pipeline)
                self.heartbeat(BEAT_TTL_S, pipeline)
                pipeline.execute()
                self.be_known()


def tell_exception(
    job: Job, _redis: Any, kind: type[BaseException], error: BaseException, _traceback: Any
) -> None:
    """Tell of a failure, unless rq tries again, or only Redis was lost on the way back."""
    if not isinstance(error, RedisError):
        _tell(job, f"{kind.__name__}: {error}")


def tell_killed(job: Job, _pid: int, status: int, _usage: Any) -> None:
    """Tell of a job whose process died without an exception."""
    how = f"by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {status}"
    reason = f"its process ended {how}; was it out of memory?"
    _tell(job, reason)
    if job.should_retry and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        _call(job.meta.get("on_killed"), job, reason)


def _tell(job: Job, reason: str) -> None:
    if not job.should_retry:
        _call(job.meta.get("on_failure"), job, reason)


def _call(path: str | None, job: Job, reason: str) -> None:
    if path:
        module, _, name = path.rpartition(".")
        getattr(importlib.import_module(module), name)(job.id, reason)
