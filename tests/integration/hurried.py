"""Our command line in processes with short patience: `python -m tests.integration.hurried`.

Each line on standard input is JSON, [arguments, environment, log file], of a process, which is
forked from this one (so that it is there at once) and whose id is printed. What waits for others
to show that they live waits for seconds. While the file `hold` lies in DATA_DIR, a training makes
no step. With PLAYED in its environment networks and images are played as in `working`; all else is
real.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from backend.cli import app as cli
from backend.processes import priority, running
from backend.queueing import jobs as queue_jobs
from backend.queueing import leases, locks
from backend.queueing import workers as queue_workers
from backend.settings import Settings
from backend.steps import tick
from backend.steps.training.progress import Watch
from models.base import Progress
from tests.integration import working
from tests.integration.parts import alive, eventually

TICK_S = 0.5
GRACE = timedelta(seconds=2)
SETTLED_S = 2
RENEWALS = 40  # of a lease: each half second
BACKOFF_S = (1, 1, 1)
LOOK_S = 1  # between two looks of a worker at the process of its job
PLAYED = "PLAYED"
HEAVY = (
    "backend.steps.proposing.propose",
    "backend.steps.training.training_run",
    "backend.web.app",
    "models.pipelines.pixel_head",
)


class Forked:
    """A process that is another one's child, with what `Parts` asks of a `Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as the kernel does when memory is short."""
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
            eventually(lambda: not alive({self.pid: None}), f"the end of {self.pid}")
            self.returncode = -signal.SIGKILL

    def wait(self) -> int | None:
        return self.returncode

    def poll(self) -> int | None:
        """Return how it ended, 0 when nobody knows, and None while it runs."""
        if self.returncode is None and not alive({self.pid: None}):
            self.returncode = 0
        return self.returncode


class Nursery:
    """Starts processes that have imported all that they need."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> Forked:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, environ, str(log)]) + "\n")
        self._process.stdin.flush()
        return Forked(int(self._process.stdout.readline()))


@contextmanager
def nursery() -> Iterator[Nursery]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.hurried"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield Nursery(process)
    process.communicate()


def hurry() -> None:
    """Wait for less, look more often, and give way to nobody."""
    priority.give_way = lambda _: None
    running.TICK_S = TICK_S
    tick.GRACE = GRACE
    locks.SETTLED_S = SETTLED_S
    leases.RENEWALS = RENEWALS
    queue_jobs.BACKOFF_S = BACKOFF_S
    forking: Any = queue_workers.ForkingWorker
    monitor = forking.monitor_work_horse

    def monitored(self: Any, *arguments: Any) -> None:
        self.job_monitoring_interval = LOOK_S
        monitor(self, *arguments)

    forking.monitor_work_horse = monitored


def hold() -> None:
    """Have each step of a training last as long as the file is there."""
    known: Any = Watch
    call = known.__call__

    def held(self: Watch, progress: Progress) -> None:
        call(self, progress)
        while (working.SETTINGS.data_dir / "hold").exists():
            threading.Event().wait(0.02)

    known.__call__ = held


def fork(arguments: Sequence[str], environ: Mapping[str, str], log: str) -> int:
    """Fork a process that runs the command line; returns its id."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(written, 1)
        os.dup2(written, 2)
        os.environ.clear()
        os.environ.update(environ)
        working.SETTINGS = Settings.from_env(environ)
        if PLAYED in environ:
            working.play()
        sys.argv = ["labelclimb", *arguments]
        cli.main()
        os._exit(0)
    return pid


def load() -> None:
    """Import what trains and predicts."""
    for name in HEAVY:
        importlib.import_module(name)


if __name__ == "__main__":
    load()
    hurry()
    hold()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that are killed
    for line in sys.stdin:
        print(fork(*json.loads(line)), flush=True)
