"""What goes into a job of `backend.queueing` and what comes out: arguments, retries, remains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from rq import Retry
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.timeouts import JobTimeoutException
from rq.utils import current_timestamp

TimedOut = JobTimeoutException  # raised in a job whose time is up, wherever it is
BACKOFF_S = (2, 10, 60)  # between the retries of a failed job


def retry(times: int) -> Retry:
    """Wait longer from one retry to the next; rq reads the intervals from the end."""
    intervals = [*BACKOFF_S, *BACKOFF_S[-1:] * times][:times]
    return Retry(max=times, interval=intervals)


def plain(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments if JSON gives them back unchanged; raises ValueError."""
    given = dict(kwargs)
    try:
        same = json.loads(json.dumps(given, allow_nan=False)) == given
    except (TypeError, ValueError) as error:
        raise ValueError(f"job arguments {given!r} are not JSON ({error})") from error
    if not same:
        raise ValueError(f"job arguments {given!r} change in JSON; give lists and text keys")
    return given


def after(delay_s: float) -> datetime:
    """Return the moment so many seconds from now, in UTC."""
    return datetime.now(timezone.utc) + timedelta(seconds=delay_s)


def beats(job: Job) -> bool:
    """Say whether the worker that has begun a job still gives signs of life."""
    registry: StartedJobRegistry = job.started_job_registry
    running = job.connection.zrangebyscore(registry.key, current_timestamp(), "+inf")
    return job.id in {registry.parse_job_id(entry) for entry in running}


def forget_executions(job: Job) -> None:
    """Remove what a dead worker has left: rq's own way fails on executions that expired."""
    registry: StartedJobRegistry = job.started_job_registry
    for entry in job.connection.zrange(registry.key, 0, -1):
        if registry.parse_job_id(entry) == job.id:
            job.connection.zrem(registry.key, entry)
    job.connection.delete(job.execution_registry.key)


def last_line(job: Job) -> str:
    """Return the last line of what a failed job wrote, "" where there is nothing."""
    result = job.latest_result()
    text = str(result.exc_string) if result and result.exc_string else ""
    return (text.strip().splitlines() or [""])[-1]
