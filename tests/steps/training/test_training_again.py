"""When a training is tried again: after what is nobody's fault, and never on the same labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backend.errors import JobOver, LockHeld, StorageError
from backend.records import JobState, WeakLabel
from backend.steps import decide, queues, tick
from backend.steps.training import progress, training_job
from backend.steps.training.progress import Watch
from backend.steps.training.training_job import AGAIN_AFTER
from backend.store import jobs, learning, projects
from backend.wiring import Services
from models.base import Profile, Progress, Report
from tests.steps.conftest import NOW
from tests.steps.training.test_train import taught
from tests.steps.training.training_jobs import (
    Clock,
    Fit,
    begun,
    clock,
    current,
    kept,
    label_more,
    look,
    pipeline,
    services,
    why,
    work,
)

__all__ = ["clock", "pipeline", "services", "taught"]  # fixtures


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


@pytest.mark.parametrize(
    ("settled", "held", "state"),
    [(False, False, "running"), (True, True, "running"), (True, False, "failed")],
    ids=["may show itself soon", "has shown itself", "is dead"],
)
def test_a_training_that_a_wiped_redis_does_not_know_is_dead_only_if_it_shows_no_sign_of_life(
    services: Services, clock: Clock, settled: bool, held: bool, state: JobState
) -> None:
    job = begun(services)
    Watch(services, job.id).begin("running", "reading images")
    played: Any = services.queues
    played.is_alive = lambda job_id: False
    played.settled = lambda: settled
    played.is_held = lambda name: held and name == job.id
    clock.now += tick.GRACE
    tick.note_dead_jobs(services, 1)
    assert look(services, job).state == state


def test_a_job_that_no_worker_had_is_not_said_to_have_lost_one(
    services: Services, clock: Clock
) -> None:
    job = begun(services)
    played: Any = services.queues
    played.is_alive = lambda job_id: False
    clock.now += tick.GRACE
    tick.note_dead_jobs(services, 1)
    assert look(services, job).error == "its queue was lost; the training starts again by itself"


def test_a_training_that_another_process_is_at_is_left_to_it(
    services: Services, pipeline: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(services)
    tried: list[str] = []

    def held(name: str, **_: Any) -> Any:
        tried.append(name)
        raise LockHeld(f"{name!r} is held")

    monkeypatch.setattr(services.queues, "lock", held)
    assert work(services, job) == job, "what people see of it is the other one's"
    assert (tried, pipeline.given) == ([job.id], [])


@pytest.mark.parametrize("ended", ["publishing", "done"])
def test_a_process_that_was_taken_for_dead_leaves_the_job_to_the_one_that_did_it(
    services: Services, pipeline: Fit, ended: JobState
) -> None:
    job = begun(services)
    first = Watch(services, job.id)
    first(Progress("training", "crack", 1, 100, 0.01))
    work(services, job)
    with services.store.transaction() as tx:
        jobs.change(tx, job.id, state=ended)
    before = look(services, job)
    with pytest.raises(JobOver, match=f"done by another process, it is {ended}"):
        first(Progress("gating", "crack", 1, 100, 0.5))
    with pytest.raises(JobOver):
        first.begin("gating", "gate")
    assert look(services, job) == before


def test_a_training_ends_twice_and_keeps_one_version(services: Services, pipeline: Fit) -> None:
    """The second process ends while the first one writes its files."""
    job = begun(services)
    real, outrun = services.registry, []

    @dataclass
    class Slow:
        def save(self, *args: Any) -> Path:
            if not outrun:
                outrun.append(True)
                work(services, job)
            return real.save(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    slow: Any = Slow()
    ended = work(replace(services, registry=slow), job)
    assert ended.state == "publishing" and "begun_at" in ended.detail
    recorded, stored = kept(services)
    assert len(recorded) == 1 and stored == recorded


def test_publishing_goes_on_although_a_job_does_not_say_since_when(
    services: Services, pipeline: Fit, clock: Clock
) -> None:
    job = work(services, begun(services))
    with services.store.transaction() as tx:
        jobs.change(tx, job.id, detail={"stage": "training"})
    progress.published(services, 1, 0, 4)
    clock.now += timedelta(seconds=30)
    progress.published(services, 1, 1, 4)
    detail = look(services, job).detail
    assert (detail["step"], detail["steps"], detail["seconds_left"]) == (1, 4, 90.0)


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


def test_a_failure_of_an_outrun_process_leaves_the_version_being_published(
    services: Services, pipeline: Fit
) -> None:
    job = work(services, begun(services))
    training_job.put_off(services, job, "its disk is full")
    training_job.give_up(services, job, "its labels are odd")
    training_job.killed(services, job, "its process ended by signal 9;")
    after = look(services, job)
    assert (after.state, after.error, after.halvings) == ("publishing", None, 0)


def test_a_scheduled_training_that_is_put_off_is_tried_again_before_the_next_time(
    services: Services, clock: Clock
) -> None:
    decide.change_policy(services, 1, train_after=1000, schedule="13:00")
    clock.now += timedelta(hours=1, minutes=1)
    training_job.put_off(services, begun(services), "its worker died", after=timedelta(minutes=5))
    assert decide.training_decision(services, 1)[0].train is False
    clock.now += timedelta(minutes=6)
    assert decide.training_decision(services, 1)[0].train


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
