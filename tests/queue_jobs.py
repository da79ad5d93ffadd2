"""What the workers of the queue tests run; each leaves a line in a file."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path


def note(path: str, text: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{text}\n")


def note_pid(path: str) -> None:
    note(path, str(os.getpid()))


def fail(path: str) -> None:
    note(path, "tried")
    raise RuntimeError("poison")


def fail_first(path: str) -> None:
    note(path, "tried")
    if len(Path(path).read_text().splitlines()) == 1:
        raise RuntimeError("the first time only")


def die(path: str) -> None:
    note(path, "tried")
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_file(path: str, released: str) -> None:
    """Say that the job runs, and end when the other file appears."""
    note(path, "started")
    while not Path(released).exists():
        threading.Event().wait(0.02)
    note(path, "ended")


def mark_failed(job_id: str, reason: str) -> None:
    note(os.environ["QUEUE_TEST_FAILURES"], f"{job_id}: {reason}")


def mark_killed(job_id: str, reason: str) -> None:
    note(os.environ["QUEUE_TEST_FAILURES"], f"{job_id} killed: {reason}")
