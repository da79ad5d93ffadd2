"""Workers with a played training of a second: `python -m tests.integration.nursery`.

Each line on standard input is JSON, [queue, environment], of a worker, which is forked from this
process (so that it is there at once) and whose process id is printed. While the file `hold` lies in
DATA_DIR, no training ends. Every training leaves a line in the file `begun`, and one in `trained`
when it comes to its end; the file `clock` says by how many seconds the workers' clock goes wrong.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import models.base
from backend import wiring
from backend.processes import running
from backend.processes.residents import Residents
from backend.queueing import workers as queue_workers
from backend.settings import Settings
from models.base import ClassSpec, Fitted, Image, Progress, Report, TaskProposal
from models.pipelines.auto import AutoFitted, Part
from tests.integration import working
from tests.steps.training.test_train import Drawn

STEPS, STEP_S = 20, 0.03
DEAD_AFTER_S = 8  # without a sign of life, which rq gives every 5 s; 65 s is its own choice
CLASSES = ("crack", "rust")


class Brief:
    """A training that takes a second."""

    def fit(self, samples: Sequence[Any], *, report: Report, **_: Any) -> Fitted:
        step = 0
        note("begun")
        while step < STEPS or (working.SETTINGS.data_dir / "hold").exists():
            step += 1
            share = min(0.99, step / STEPS)
            report(Progress("training", "crack", step, STEPS, share, 1.0, 0.5))
            threading.Event().wait(STEP_S)
        note("trained")
        return brief_version()


def note(what: str) -> None:
    """Add a line to a file of this name in DATA_DIR."""
    with (working.SETTINGS.data_dir / what).open("a") as file:
        file.write(f"{os.getpid()}\n")


def play() -> None:
    """Replace what a worker would compute and fetch, and shorten what it waits."""
    working.play()
    known = models.base.get
    brief: Any = Brief()
    models.base.get = lambda name: brief if name == "auto" else known(name)
    residents: Any = Residents
    residents.get = lambda self, project, number, pipeline: brief_version()
    queue_workers.ForkingWorker.get_heartbeat_ttl = lambda self, job: DEAD_AFTER_S
    wiring.utc_now = wrong_clock


class Measured(Drawn):
    """Proposes its squares with what orders tasks."""

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        found = super().propose(image, specs=specs, heat=heat)
        figures = {"area_px": 64.0, "outline_px": 28.0, "components": 1.0, "heat_sharpness": 1.0}
        stats = {proposal.class_name: figures for proposal in found.proposals}
        return replace(found, evidence=replace(found.evidence, stats=stats))


def brief_version() -> Fitted:
    """Return what every training ends with."""
    squares = dict.fromkeys(CLASSES, 4)
    return AutoFitted([Part("advcam", Measured(squares), CLASSES)], {"classes": {}})


def wrong_clock() -> datetime:
    file = working.SETTINGS.data_dir / "clock"
    wrong_s = float(file.read_text() or 0) if file.exists() else 0.0
    return datetime.now(timezone.utc) + timedelta(seconds=wrong_s)


def fork_worker(queue: str, environ: dict[str, str]) -> int:
    """Fork a worker; returns its process id."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os.environ.clear()
        os.environ.update(environ)
        working.SETTINGS = Settings.from_env(environ)
        running.worker(working.SETTINGS, [queue])
        os._exit(0)
    return pid


if __name__ == "__main__":
    play()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that are killed
    for line in sys.stdin:
        print(fork_worker(*json.loads(line)), flush=True)
