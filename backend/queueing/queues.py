"""Job queues: the only place that knows rq and Redis. Names and plain values travel, as JSON."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Callback, Queue, Worker
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.results import Result
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer

from backend.queueing.jobs import (
    BACKOFF_S,
    after,
    beats,
    forget_executions,
    last_line,
    plain,
    retry,
)
from backend.queueing.locks import CALL_TIMEOUT_S, Locks
from backend.queueing.workers import (
    RECONNECT_S,
    ForkingWorker,
    ResidentWorker,
    signals_restored,
    tell_exception,
    tell_killed,
)

Outcome = Literal["finished", "failed", "timeout"]

RESULT_TTL_S = 600
FAILURE_TTL_S = 7 * 24 * 3600
WORKER_TTL_S = 60
LOST_AFTER_S = 60
BEGUN, BEGUN_TTL_S = "labelclimb:begun:", 24 * 3600
WAITING = ("queued", "scheduled", "deferred")

log = logging.getLogger(__name__)


class Queues(Locks):
    """The queues of one Redis, by name; every method raises QueueError when Redis is down."""

    def enqueue(
        self,
        queue: str,
        function_path: str,
        *,
        job_id: str,
        kwargs: Mapping[str, Any],
        timeout_s: int,
        at_front: bool = False,
        delay_s: float | None = None,
        on_failure: str | None = None,
        on_killed: str | None = None,
        retries: int = len(BACKOFF_S),
    ) -> bool:
        """Enqueue a call; False when a job of this id is waiting or running.

        job_id: letters, digits, "-" and "_". kwargs: plain JSON, else ValueError.
        on_failure: dotted path of `f(job_id: str, reason: str)`, called by the worker once the
            last retry has failed, also when the job's process was killed.
        on_killed: the same, called when the process was killed and the job is tried again.
        """
        call = {
            "func": function_path,
            "kwargs": plain(kwargs),
            "job_id": job_id,
            "timeout": timeout_s,
            "description": job_id,
            "result_ttl": RESULT_TTL_S,
            "failure_ttl": FAILURE_TTL_S,
            "retry": retry(retries) if retries else None,
            "on_failure": Callback(tell_exception) if on_failure else None,
            "meta": {"on_failure": on_failure, "on_killed": on_killed},
        }
        with self._translated(), self._redis.lock(f"labelclimb:enqueue:{job_id}", timeout=30):
            if self._is_alive(job_id):
                return False
            self._forget(job_id)
            target = self._queue(queue)
            if delay_s:
                job = target.create_job(**call, status="scheduled")
                target.schedule_job(job, after(delay_s))
            else:
                target.enqueue_call(**call, at_front=at_front)
            return True

    def wait(self, job_id: str, timeout_s: float) -> Outcome:
        """Block until a job ends; "failed" at once for an unknown one, or a cancelled one."""
        deadline = time.monotonic() + timeout_s
        with self._translated(), self._connect(timeout_s + CALL_TIMEOUT_S) as redis:
            if not Job.exists(job_id, redis):
                return "failed"
            key, rest_ms = Result.get_key(job_id), int(1000 * (deadline - time.monotonic()))
            found = redis.xread({key: "0-0"}, block=max(1, rest_ms))
            if not found:
                return "timeout"
            result_id, payload = found[0][1][-1]
            result = Result.restore(job_id, result_id.decode(), payload, connection=redis)
            return "finished" if result.type is Result.Type.SUCCESSFUL else "failed"

    def is_alive(self, job_id: str) -> bool:
        """Say whether a job waits, or runs in a worker that still gives signs of life."""
        with self._translated():
            return self._is_alive(job_id)

    def cancel(self, job_id: str) -> bool:
        """Take a job out of its queue, or stop it if it runs; False when it is neither.

        A job in a worker without processes of its own (`fork=False`) runs to its end.
        """
        with self._translated():
            if not self._is_alive(job_id):
                return False
            job = self._job(job_id)
            if job.get_status() in WAITING:
                job.cancel()
                Result.create_failure(job, RESULT_TTL_S, exc_string="cancelled")
            else:
                with contextlib.suppress(InvalidJobOperation):  # it has just ended
                    send_stop_job_command(self._redis, job_id, serializer=JSONSerializer)
            return True

    def depths(self) -> dict[str, int]:
        """Return the number of waiting jobs by queue, of all queues that were ever used."""
        with self._translated():
            queues = Queue.all(connection=self._redis, serializer=JSONSerializer)
            return {
                queue.name: queue.count + queue.scheduled_job_registry.count for queue in queues
            }

    def workers(self, host: str | None = None) -> dict[str, int]:
        """Return the number of living workers by queue, of one host or of all.

        A killed one counts for a minute or two.
        """
        with self._translated():
            found = Worker.all(connection=self._redis, serializer=JSONSerializer)
            living = [worker for worker in found if host in (None, worker.hostname)]
            return dict(Counter(name for worker in living for name in worker.queue_names()))

    def beat(self, name: str) -> None:
        """Leave a sign of life of a process that is no worker."""
        with self._translated():
            self._redis.set(f"labelclimb:beat:{name}", repr(time.time()))

    def beat_age_s(self, name: str) -> float | None:
        """Return how long ago a process gave its last sign of life, None when it gave none."""
        with self._translated():
            found = self._redis.get(f"labelclimb:beat:{name}")
            return None if found is None else max(0.0, time.time() - float(found))

    def begun(self, name: str) -> int:
        """Count one more beginning; returns how many there were since the last end.

        More than one: processes died in between. A day without a beginning is an end too.
        """
        with self._translated(), self._redis.pipeline() as together:
            together.incr(BEGUN + name)
            together.expire(BEGUN + name, BEGUN_TTL_S)
            return int(together.execute()[0])

    def ended(self, name: str) -> None:
        """Note that what had `begun` has ended, well or not, and its process lives."""
        with self._translated():
            self._redis.delete(BEGUN + name)

    def failures(self) -> dict[str, str]:
        """Return {job id: the last line of its error} of the jobs whose retries are used up."""
        with self._translated():
            queues = Queue.all(connection=self._redis, serializer=JSONSerializer)
            ids = [id for queue in queues for id in queue.failed_job_registry.get_job_ids()]
            jobs = Job.fetch_many(ids, connection=self._redis, serializer=JSONSerializer)
            return {job.id: last_line(job) for job in jobs if job is not None}

    def run_worker(self, names: Sequence[str], *, burst: bool = False, fork: bool = True) -> None:
        """Work on the queues, the first name first, until SIGTERM, or until they are empty.

        fork: each job in a new process (training); otherwise all in this one (resident models).
        The first SIGTERM lets the running job end, a second one kills it. Redis may go away and
        come back. To be called in the main thread.
        """
        attempt = 0
        while True:
            began = time.monotonic()
            try:
                if self._work(names, burst=burst, fork=fork) or burst:
                    return
            except (RedisConnectionError, RedisTimeoutError) as error:
                if burst:
                    raise self._down(error) from error
                log.warning("%s; trying again", self._down(error))
            attempt = 0 if time.monotonic() - began > RECONNECT_S[-1] else attempt + 1
            threading.Event().wait(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)])

    def _work(self, names: Sequence[str], *, burst: bool, fork: bool) -> bool:
        """Work until told to stop (True), or until the worker gives up on Redis (False)."""
        kind = ForkingWorker if fork else ResidentWorker
        with signals_restored(), self._connect(CALL_TIMEOUT_S) as redis, self._waking(names):
            worker = kind(
                list(names),
                connection=redis,
                serializer=JSONSerializer,
                worker_ttl=WORKER_TTL_S,
                maintenance_interval=30,
                job_monitoring_interval=5,
                log_job_description=False,
                work_horse_killed_handler=tell_killed,
            )
            try:
                worker.work(burst=burst, logging_level="WARNING")
            except RedisError:
                if not worker.told_to_stop:
                    raise
            return bool(worker.told_to_stop)

    @contextlib.contextmanager
    def _waking(self, names: Sequence[str]) -> Iterator[None]:
        """Move delayed jobs and retries to their queues when they are due, in a thread."""
        stop = threading.Event()
        thread = threading.Thread(target=self._wake, args=(list(names), stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _wake(self, names: list[str], stop: threading.Event) -> None:
        with self._connect(CALL_TIMEOUT_S) as redis:
            due = RQScheduler(
                names, connection=redis, logging_level="WARNING", serializer=JSONSerializer
            )
            while not stop.is_set():
                with contextlib.suppress(
                    RedisConnectionError, RedisTimeoutError
                ):  # the worker logs
                    due.acquire_locks()
                    due.enqueue_scheduled_jobs()
                stop.wait(1.0)
            with contextlib.suppress(RedisConnectionError, RedisTimeoutError):
                due.release_locks()

    def _is_alive(self, job_id: str) -> bool:
        if not Job.exists(job_id, self._redis):
            return False
        job = self._job(job_id)
        status = job.get_status()
        if status == "queued":
            return self._waits(job)
        return status in WAITING or (status == "started" and beats(job))

    def _waits(self, job: Job) -> bool:
        """Say whether a job is in its queue, or on the way from there to a worker.

        One that left its queue long ago, or has been on the way for long, died with its worker.
        """
        queue, long_ago = self._queue(job.origin), after(-LOST_AFTER_S)
        is_young = job.enqueued_at is not None and job.enqueued_at > long_ago
        if is_young or queue.get_job_position(job) is not None:
            return True
        on_the_way = queue.intermediate_queue
        if job.id not in on_the_way.get_job_ids():
            return False
        on_the_way.set_first_seen(job.id)
        seen = on_the_way.get_first_seen(job.id)
        return seen is not None and seen > long_ago

    def _forget(self, job_id: str) -> None:
        """Remove what an ended job of this id has left, its result above all."""
        with contextlib.suppress(NoSuchJobError):
            job = self._job(job_id)
            forget_executions(job)
            job.delete()
            on_the_way = self._queue(job.origin).intermediate_queue
            on_the_way.remove(job_id)  # otherwise rq's clean-up would fail the next job of this id
            self._redis.delete(on_the_way.get_first_seen_key(job_id))
        self._redis.delete(Result.get_key(job_id))

    def _job(self, job_id: str) -> Job:
        return Job.fetch(job_id, connection=self._redis, serializer=JSONSerializer)

    def _queue(self, name: str) -> Queue:
        return Queue(name, connection=self._redis, serializer=JSONSerializer)
