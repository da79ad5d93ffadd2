"""A Redis server for the queue tests, and short ways to enqueue and to look."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.errors import QueueError
from backend.queueing.embedded_redis import embedded_server
from backend.queueing.queues import Queues

JOBS = "tests.queue_jobs"
WORKER = """
import sys
from backend.queueing.queues import Queues
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


def put(queues: Queues, name: str, job_id: str = "one", **options: Any) -> bool:
    kwargs = options.pop("kwargs")
    options.setdefault("timeout_s", 30)
    return queues.enqueue(
        options.pop("queue", "events"), f"{JOBS}.{name}", job_id=job_id, kwargs=kwargs, **options
    )


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
