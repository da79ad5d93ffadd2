"""Whether a part on this machine does its work: what the health checks of containers ask.

They ask often, so nothing heavy is imported here.
"""

from __future__ import annotations

import socket

from backend.errors import QueueError
from backend.processes.supervisor import answers
from backend.queueing.queues import Queues
from backend.settings import Settings

PARTS = ("api", "events", "publish", "train", "scheduler")
LATE_S = 600.0  # a scheduler that compares a large project with Label Studio is silent for long


def local_url(settings: Settings) -> str:
    """Return the API's address for this machine."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def problem(settings: Settings, part: str) -> str | None:
    """Return what is wrong with a part in a sentence, None when it works."""
    if part not in PARTS:
        return f"no part {part!r}; there are {', '.join(PARTS)}"
    try:
        return _problem(settings, part)
    except QueueError as error:
        return str(error)


def _problem(settings: Settings, part: str) -> str | None:
    if part == "api":
        url = f"{local_url(settings)}/health"
        return None if answers(url)() else f"{url} does not answer with 200"
    queues = Queues(settings.redis_url)
    if part == "scheduler":
        age_s = queues.beat_age_s(part)
        if age_s is None or age_s > LATE_S:
            seen = "never" if age_s is None else f"{age_s:.0f} s ago"
            return f"the scheduler last ended a round {seen}; see its log"
        return None
    host = socket.gethostname()
    if not queues.workers(host).get(part):
        return f"no worker of {host} works on the queue {part!r}; see its log"
    return None
