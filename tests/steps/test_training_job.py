"""A training as a job: what people see of it, and what ends it, whatever goes wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

import models.base
from backend.errors import JobOver, StorageError
from backend.records import Annotation, Job, WeakLabel
from backend.steps import decide, queues, tick
from backend.steps.listening import intake
from backend.steps.training import train, training_job, training_run
from backend.steps.training.training_job import AGAIN_AFTER
from backend.store import annotations as annotation_rows
from backend.store import jobs, learning, projects, versions
from backend.wiring import Services
from models.base import Fitted, Profile, Progress, Report
from tests.steps.conftest import NOW
from tests.steps.test_train import composite, taught

__all__ = ["taught"]  # a fixture


@dataclass
class Fit:
    """A pipeline that does what the test says and remembers with what it was to work."""

    act: Callable[[Profile, Report], None] = lambda profile, report: None
    given: list[tuple[str, int]] = field(default_factory=list)
    fitted: Fitted = field(default_factory=lambda: composite(crack=4, rust=4))

    def fit(
        self, samples: Sequence[Any], *, profile: Profile, report: Report, device: str, **_: Any
    ) -> Fitted:
        self.given.append((device, profile.batch))
        self.act(profile, report)
        return self.fitted


@dataclass
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def services(taught: Services, clock: Clock) -> Services:
    own = replace(taught, clock=clock)
    with own.store.transaction() as tx:  # one class has both signs
        label = WeakLabel(1, 100, 100, "crack", 20.0, 2.0, False, "click")
        known = learning.weak_labels(tx, 1)
        masks = learning.masks(tx, 1)
        first = [x for x in known if x.annotation == 100]
        own_masks = [m for m in masks if m.annotation == 100]
        learning.replace(tx, 100, 1, 100, [], [*first, label], own_masks)
        projects.update(tx, 1, train_after=5, quiet_s=0.0)
    return own


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Fit:
    played = Fit()
    known = models.base.get
    monkeypatch.setattr(models.base, "get", lambda name: played if name == "auto" else known(name))
    monkeypatch.setattr(train, "SAVE_AGAIN_S", (0.0, 0.0))
    return played


def begun(services: Services) -> Job:
    """Have the policy queue a training."""
    assert decide.next_steps(services, 1).train
    (job,) = current(services)
    assert job.state == "queued"
    return job


def current(services: Services) -> list[Job]:
    with services.store.reading() as tx:
        return jobs.running(tx, 1, "train")


def work(services: Services, job: Job) -> Job:
    """Do what a worker does with a job."""
    training_run.run(services, 1, job.id.rpartition("-")[2])
    return look(services, job)


def look(services: Services, job: Job) -> Job:
    with services.store.reading() as tx:
        found = jobs.get(tx, job.id)
    assert found is not None
    return found


def kept(services: Services) -> tuple[list[int], list[int]]:
    """Return the versions with a record, and those with files."""
    with services.store.reading() as tx:
        return [v.number for v in versions.list(tx, 1)], services.registry.list(1)


def why(services: Services) -> str:
    return decide.training_decision(services, 1)[0].reason


def label_more(services: Services, at: datetime, count: int = 1) -> None:
    for n in range(count):
        task = 101 + n
        with services.store.transaction() as tx:
            annotation_rows.put(tx, Annotation(900 + n, 1, task, at, ()))
            point = WeakLabel(1, task, 900 + n, "crack", 3.0, 3.0, True, "click")
            learning.replace(tx, 900 + n, 1, task, [], [point], [])


def test_a_training_is_seen_in_every_state(services: Services, pipeline: Fit) -> None:
    job = begun(services)
    seen: list[tuple[str, Any, Any]] = []

    def note() -> None:
        row = look(services, job)
        seen.append((row.state, row.detail.get("stage"), row.detail.get("f_measure")))

    def act(profile: Profile, report: Report) -> None:
        note()
        report(Progress("training", "crack", 10, 100, 0.1, loss=0.5, f_measure=0.8))
        note()
        report(Progress("calibration", "crack", 0, 1, 0.85))
        note()
        assert look(services, job).detail["loss"] == 0.5, "shown until there is a newer one"
        assert look(services, job).detail["seconds_left"] >= 0

    @dataclass
    class Noting:
        classes: tuple[str, ...] = ("crack",)
        metrics: dict[str, Any] = field(default_factory=dict)

        def propose(self, image: Any, **given: Any) -> Any:
            note()
            return pipeline_fitted.propose(image, **given)

        def save(self, folder: Path) -> None:
            pipeline_fitted.save(folder)

    pipeline_fitted = pipeline.fitted
    pipeline.act, pipeline.fitted = act, Noting()  # type: ignore[assignment]
    ended = work(services, job)
    assert seen[:3] == [
        ("running", "starting", None),
        ("running", "training", 0.8),
        ("running", "calibration", 0.8),
    ]
    assert seen[3][:2] == ("gating", "gate")
    assert (ended.state, ended.detail["stage"]) == ("publishing", "publishing")
    assert ended.started_at == NOW
    assert current(services) == [], "the next training need not wait for the publication"
    decide.end_published(services, 1)
    assert look(services, job).state == "done"


def test_a_queued_training_that_is_cancelled_never_begins(
    services: Services, pipeline: Fit, clock: Clock
) -> None:
    job = begun(services)
    assert training_job.cancel(services, job.id).state == "cancelled"
    played: Any = services.queues
    assert ("cancel", {"job": job.id}) in played.enqueued
    assert work(services, job).state == "cancelled"
    assert pipeline.given == [] and kept(services) == ([], [])
    with pytest.raises(JobOver, match="cannot be cancelled: it is cancelled already"):
        training_job.cancel(services, job.id)
    assert why(services).startswith("0 of 5 new labels"), "those labels count as dealt with"
    clock.now += timedelta(hours=1)
    assert not decide.next_steps(services, 1).train
    intake.request_training(services, 1)
    with services.store.transaction() as tx:
        projects.update(tx, 1, train_requested_at=clock.now)
    again = begun(services)
    assert again.id == job.id, "the same labels"
    assert work(services, again).state == "publishing"


def test_a_training_stops_at_its_next_step_when_it_is_cancelled(
    services: Services, pipeline: Fit
) -> None:
    """As when Redis is down, so that its process cannot be killed."""
    job = begun(services)

    def act(profile: Profile, report: Report) -> None:
        training_job.cancel(services, job.id)
        report(Progress("training", "crack", 20, 100, 0.2))
        raise AssertionError("went on")

    pipeline.act = act
    assert work(services, job).state == "cancelled"
    assert kept(services) == ([], [])


def test_a_training_cancelled_while_it_is_written_leaves_no_version(
    services: Services, pipeline: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(services)
    save = services.registry.save

    def save_and_cancel(*args: Any) -> Path:
        folder = save(*args)
        training_job.cancel(services, job.id)
        return folder

    monkeypatch.setattr(services.registry, "save", save_and_cancel)
    assert work(services, job).state == "cancelled"
    assert kept(services) == ([], [])


def test_what_a_kill_between_files_and_record_leaves_goes_when_the_next_try_has_ended(
    services: Services, pipeline: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(services)
    save = services.registry.save

    def save_and_die(*args: Any) -> Path:
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(services.registry, "save", save_and_die)
        work(services, job)
    assert kept(services) == ([], [1])
    assert work(services, job).state == "publishing"
    assert kept(services) == ([2], [2])


def test_a_version_that_is_made_cannot_be_cancelled(services: Services, pipeline: Fit) -> None:
    job = work(services, begun(services))
    with pytest.raises(JobOver, match="is being published; `labelclimb activate`"):
        training_job.cancel(services, job.id)
    assert kept(services) == ([1], [1])


SHORTAGES = [
    MemoryError("Unable to allocate 3 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
]


@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda error: type(error).__name__)
def test_out_of_memory_the_batch_is_halved_and_the_job_says_so(
    services: Services, pipeline: Fit, shortage: Exception
) -> None:
    def act(profile: Profile, report: Report) -> None:
        if profile.batch > 4:
            raise shortage

    pipeline.act = act
    job = work(services, begun(services))
    assert pipeline.given == [("cpu", 16), ("cpu", 8), ("cpu", 4)]
    assert (job.state, job.halvings, job.on_cpu) == ("publishing", 2, False)
    assert job.detail["notes"] == [
        "out of memory: goes on with batches of 8 instead of 16",
        "out of memory: goes on with batches of 4 instead of 8",
    ]


def test_when_no_batch_is_small_enough_the_training_fails_with_what_to_do(
    services: Services, pipeline: Fit
) -> None:
    def act(profile: Profile, report: Report) -> None:
        raise MemoryError("Unable to allocate 3 GiB")

    pipeline.act = act
    job = work(services, begun(services))
    assert job.state == "failed" and job.again_at is None
    assert job.error is not None
    assert job.error.startswith("the memory is too small even for batches of 2 (Unable to alloc")
    assert "Start Training tries these labels again" in why(services)
    assert not decide.next_steps(services, 1).train


def test_another_error_is_not_taken_for_a_lack_of_memory(services: Services, pipeline: Fit) -> None:
    def act(profile: Profile, report: Report) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    pipeline.act = act
    with pytest.raises(RuntimeError, match="mat1"):
        work(services, begun(services))
    assert len(pipeline.given) == 1


REAL_SHORTAGE = """
import resource, torch, numpy as np
from models.memory import is_out_of_memory
torch.zeros(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
caught = []
for ask in (lambda: torch.empty(2**32), lambda: np.ones(2**32), lambda: bytearray(2**33)):
    try:
        ask()
    except Exception as error:
        caught.append(is_out_of_memory(error))
print(caught)
"""


def test_a_process_that_really_has_no_memory_knows_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", REAL_SHORTAGE],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.stdout.strip() == "[True, True, True]", ran.stderr


def test_a_killed_training_begins_again_with_half_the_batch(
    services: Services, pipeline: Fit
) -> None:
    job = begun(services)
    with services.store.transaction() as tx:
        jobs.begin(tx, job.id, NOW)
    training_job.killed(services, look(services, job), "its process ended by signal 9;")
    assert look(services, job).state == "queued"
    ended = work(services, job)
    assert pipeline.given == [("cpu", 8)]
    assert ended.detail["notes"] == [
        "its process ended by signal 9; It begins again with batches of half the size"
    ]


def test_a_cancelled_training_is_not_revived_by_the_news_of_its_death(
    services: Services, pipeline: Fit
) -> None:
    job = begun(services)
    training_job.cancel(services, job.id)
    training_job.killed(services, job, "its process ended by signal 9;")
    training_job.failed(services, job, "its process ended by signal 9;")
    assert look(services, job).state == "cancelled"


@dataclass
class Full:
    """A registry that is full so many times."""

    real: Any
    times: int

    def save(self, *args: Any) -> Path:
        self.times -= 1
        if self.times >= 0:
            raise StorageError("no room left at /models; free some")
        folder: Path = self.real.save(*args)
        return folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def test_what_was_trained_waits_for_room(services: Services, pipeline: Fit) -> None:
    full: Any = Full(services.registry, times=2)
    job = work(replace(services, registry=full), begun(services))
    assert job.state == "publishing" and len(pipeline.given) == 1
    assert [note.split(",")[0] for note in job.detail["notes"]] == [
        "the version cannot be stored"
    ] * 2


def test_a_full_disk_says_nothing_of_the_labels_they_are_trained_again(
    services: Services, pipeline: Fit, clock: Clock
) -> None:
    full: Any = Full(services.registry, times=3)
    job = work(replace(services, registry=full), begun(services))
    assert (job.state, job.error) == ("failed", "no room left at /models; free some")
    assert job.again_at == NOW + AGAIN_AFTER
    assert why(services).endswith("free some; it is tried again at 12:05:00 UTC")
    assert not decide.next_steps(services, 1).train, "not at once: a training is work"
    clock.now += AGAIN_AFTER
    assert work(services, begun(services)).state == "publishing"
    assert len(kept(services)[0]) == 1


@pytest.mark.parametrize(
    ("reason", "is_due"),
    [
        ("LabelStudioDown: no answer", True),
        ("OperationalError: (psycopg) server closed", True),
        ("its process ended by signal 9; was it out of memory?", False),
        ("KeyError: 'crack'", False),
    ],
)
def test_only_what_may_pass_is_tried_again_by_itself(
    services: Services, clock: Clock, reason: str, is_due: bool
) -> None:
    job = begun(services)
    training_job.failed(services, job, reason)
    clock.now += AGAIN_AFTER
    assert decide.training_decision(services, 1)[0].train == is_due


def test_a_worker_that_died_is_noticed_and_its_training_begins_again_at_once(
    services: Services, clock: Clock
) -> None:
    job = begun(services)
    played: Any = services.queues
    played.is_alive = lambda job_id: False
    tick.note_dead_jobs(services, 1)
    assert look(services, job).state == "queued", "it is young"
    clock.now += tick.GRACE
    tick.note_dead_jobs(services, 1)
    assert look(services, job).state == "failed"
    assert begun(services).id == job.id


def test_two_who_decide_at_once_begin_one_training(services: Services) -> None:
    for snapshot in ("a" * 16, "b" * 16, "a" * 16):
        queues.train(services, 1, snapshot)
    assert [job.id for job in current(services)] == ["train-1-" + "a" * 16]
    played: Any = services.queues
    assert [name for name, _ in played.enqueued] == ["train"]


def test_one_more_label_leaves_a_running_training_alone(services: Services, pipeline: Fit) -> None:
    job = begun(services)

    def act(profile: Profile, report: Report) -> None:
        label_more(services, NOW)
        assert decide.next_steps(services, 1).reason == "a training is queued or running"
        report(Progress("training", "crack", 10, 100, 0.1))

    pipeline.act = act
    assert work(services, job).state == "publishing"
    played: Any = services.queues
    assert "cancel" not in [name for name, _ in played.enqueued]


def test_a_schedule_set_now_looks_ahead_and_can_be_taken_back(
    services: Services, clock: Clock
) -> None:
    decide.change_policy(services, 1, train_after=1000, schedule="11:00 13:00")
    assert why(services) == "13 of 1000 new labels; scheduled for 13:00:00 UTC"
    clock.now += timedelta(hours=1)
    assert decide.training_decision(services, 1)[0].train
    decide.change_policy(services, 1, schedule="")
    assert why(services) == "13 of 1000 new labels"


def test_labels_count_as_new_although_the_clock_was_ahead_at_the_last_training(
    services: Services, pipeline: Fit, clock: Clock
) -> None:
    work(services, begun(services))
    with services.store.transaction() as tx:
        projects.update(tx, 1, last_snapshot_at=clock.now + timedelta(days=1))
        assert decide.training_decision(services, 1)[0].train is False, "it knows these labels"
        known, masks = learning.weak_labels(tx, 1), learning.masks(tx, 1)
        first = [x for x in known if x.annotation == 100]
        label = WeakLabel(1, 100, 100, "crack", 25.0, 2.0, False, "click")
        learning.replace(
            tx, 100, 1, 100, [], [*first, label], [m for m in masks if m.annotation == 100]
        )
    assert decide.training_decision(services, 1)[0].train
