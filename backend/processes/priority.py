"""Which of our processes the processor serves first: those that a person waits for.

Where Linux groups processes by session, the niceness of a process counts within its session only;
between sessions, and each of our parts has its own, the group's counts. So both are set.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from backend.steps.queues import EVENTS, PUBLISH, TRAIN

AUTOGROUP = Path("/proc/self/autogroup")
AUTOGROUP_PAUSE_S = 0.11  # the kernel lets a user change a group ten times a second
NICE = {EVENTS: 5, PUBLISH: 10, TRAIN: 15}  # added to the niceness of a worker of these queues


def give_way(queues: Sequence[str]) -> None:
    """Let whoever waits for an answer go first: the API and events come before all computing."""
    by = max((NICE[name] for name in queues if name in NICE), default=0)
    _group(os.nice(by))


@contextmanager
def hurried(queue: str) -> Iterator[None]:
    """Run the block as the API runs, in a worker of `queue` that gave way: a person waits for it.

    To be used in the worker's main thread. A group may be hurried by anybody, a single process by
    the administrator alone; where neither is allowed the block runs as usual.
    """
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = max(usual - NICE[queue], min(usual, 0))
    if wanted == usual:
        yield
        return
    _take(wanted)
    try:
        yield
    finally:
        _take(usual)


def _take(niceness: int) -> None:
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    _group(niceness)


def _group(niceness: int) -> None:
    if os.getsid(0) != os.getpid():  # the session is somebody else's
        return
    with suppress(OSError):  # no such file: this kernel does not group
        try:
            AUTOGROUP.write_text(str(niceness))
        except BlockingIOError:
            time.sleep(AUTOGROUP_PAUSE_S)
            AUTOGROUP.write_text(str(niceness))
