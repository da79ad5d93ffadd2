"""What people see of a training while it works, and how it notices that it was cancelled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, OperationalError

from backend.errors import JobOver
from backend.loop.memory import Means
from backend.loop.pace import Pace
from backend.records import JobState
from backend.store import jobs
from backend.wiring import Services
from models.base import Progress

WRITE_EVERY_S = 0.5  # at most; a change of stage is written at once
KEPT = ("class_name", "loss", "f_measure")  # shown until there are newer ones

log = structlog.get_logger(__name__)


class Watch:
    """Writes a job's progress into its row; everything raises JobOver once it is over.

    A job without a row (a training called by hand) is watched by nobody.
    """

    def __init__(
        self, services: Services, job_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._services = services
        self._id = job_id
        self._clock = clock
        self._pace = Pace(clock())
        self._written_s: float | None = None
        with services.store.reading() as tx:
            job = jobs.get(tx, job_id)
        self.queued_at = None if job is None else job.created_at
        self.means = Means() if job is None else Means(job.halvings, job.on_cpu)
        notes = [] if job is None else list(job.detail.get("notes", ()))
        self._detail: dict[str, Any] = {"notes": notes}
        self._heard: deque[str] = deque()
        self._waited_for = [] if job is None else list(job.detail.get("gpus", ()))

    def __call__(self, progress: Progress) -> None:
        """Take in where the training stands."""
        now_s = self._clock()
        self._pace = self._pace.seen(progress.fraction, now_s)
        seen = {name: value for name, value in vars(progress).items() if value is not None}
        known = {name: self._detail[name] for name in (*KEPT, "notes") if name in self._detail}
        is_new_stage = self._detail.get("stage") != progress.stage
        self._detail = {**known, **seen, "seconds_left": self._pace.seconds_left}
        if is_new_stage or self._written_s is None or now_s - self._written_s >= WRITE_EVERY_S:
            self._written_s = now_s
            self._show()

    def begin(self, state: JobState, stage: str) -> None:
        """Enter a state; the time left is guessed anew."""
        self._pace, self._written_s = Pace(self._clock()), None
        self._detail = {**self._detail, "stage": stage, "fraction": 0.0, "seconds_left": None}
        self._write(state=state)

    def wait(self, gpus: Sequence[str]) -> None:
        """Say that the job waits until these GPUs are free; it is queued again then.

        It keeps its place in the line for those that other workers had offered to it.
        """
        others = [known for known in self._waited_for if known != [*gpus]]
        self._detail = {**self._detail, "gpus": [*others, [*gpus]]}
        self.begin("waiting", "waiting for GPU")

    def note(self, sentence: str, means: Means | None = None) -> None:
        """Say what went otherwise than usual; means: with what the job goes on."""
        self._detail = {**self._detail, "notes": [*self._detail["notes"], sentence]}
        changes: dict[str, Any] = {}
        if means is not None:
            self.means = means
            changes = {"halvings": means.halvings, "on_cpu": means.on_cpu}
        self._write(**changes)

    def hear(self, sentence: str) -> None:
        """Take in a note from another thread; it is written with what the training says next."""
        self._heard.append(sentence)

    def check(self, tx: Connection) -> None:
        """Raise JobOver if somebody has cancelled the job, or if another process did its work.

        Two are at it when Redis has forgotten the first one: the second to end changes nothing.
        """
        job = jobs.get(tx, self._id)
        if job is not None and job.state == "cancelled":
            raise JobOver(f"job {self._id} was cancelled")
        if job is not None and job.state in ("publishing", "done"):
            raise JobOver(f"job {self._id} was done by another process, it is {job.state}")

    def publishing(self, tx: Connection) -> None:
        """Note that the job's own work is done, and its version is being shown."""
        self._detail = {**self._detail, "stage": "publishing", "fraction": 0.0}
        self._detail["begun_at"] = self._services.clock().isoformat()
        jobs.change(tx, self._id, state="publishing", detail=self._detail)

    def _show(self) -> None:
        """Write where the training stands; a store that is away for a moment costs no training."""
        try:
            self._write()
        except (OperationalError, InterfaceError) as error:
            log.warning("progress not noted", job=self._id, reason=str(error.orig))

    def _write(self, **changes: Any) -> None:
        while self._heard:
            notes = [*self._detail["notes"], self._heard.popleft()]
            self._detail = {**self._detail, "notes": notes}
        with self._services.store.transaction() as tx:
            self.check(tx)
            jobs.change(tx, self._id, detail=dict(self._detail), **changes)


def published(services: Services, project: int, done: int, tasks: int) -> None:
    """Show at the trainings whose version is being published how much of it is predicted."""
    with services.store.reading() as tx:
        shown = jobs.publishing(tx, project)
    share = done / tasks if tasks else 1.0
    now = services.clock()
    for job in shown:
        begun_at = job.detail.get("begun_at", now.isoformat())
        spent_s = (now - datetime.fromisoformat(begun_at)).total_seconds()
        left_s = Pace(0.0).seen(share, spent_s).seconds_left
        new = {"step": done, "steps": tasks, "fraction": share, "seconds_left": left_s}
        new = {**new, "begun_at": begun_at}
        with services.store.transaction() as tx:
            jobs.progress(tx, job.id, {**job.detail, **new})


def note_published(services: Services, project: int, sentence: str) -> None:
    """Say at the trainings whose version is being published what goes otherwise than usual."""
    with services.store.transaction() as tx:
        for job in jobs.publishing(tx, project):
            notes = [*job.detail.get("notes", ()), sentence]
            jobs.progress(tx, job.id, {**job.detail, "notes": notes})
