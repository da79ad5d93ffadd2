"""A training as a job: what people see of it, and how they stop it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from backend.errors import JobOver
from backend.steps import decide
from backend.steps.listening import intake
from backend.steps.training import training_job
from backend.store import Store, projects
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
    look,
    pipeline,
    services,
    why,
    work,
)

__all__ = ["clock", "pipeline", "services", "taught"]  # fixtures


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


def test_a_store_that_is_away_for_a_moment_costs_progress_but_no_training(
    services: Services, pipeline: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(services)

    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("UPDATE", {}, Exception("the connection is closed"))

    def act(profile: Profile, report: Report) -> None:
        with monkeypatch.context() as outage:
            outage.setattr(Store, "transaction", away)
            report(Progress("training", "crack", 20, 100, 0.2))
        report(Progress("calibrating", "crack", 0, 4, 0.9))
        assert look(services, job).detail["stage"] == "calibrating"

    pipeline.act = act
    with capture_logs() as logs:
        assert work(services, job).state == "publishing"
    (told,) = [line for line in logs if line["event"] == "progress not noted"]
    assert told["reason"] == "the connection is closed"


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


def test_a_training_that_was_put_off_is_cancelled_and_stays_away(
    services: Services, pipeline: Fit, clock: Clock
) -> None:
    job = begun(services)
    training_job.put_off(services, job, "no room left at /models; free some")
    assert look(services, job).again_at == NOW + training_job.AGAIN_AFTER
    clock.now += timedelta(minutes=1)
    ended = training_job.cancel(services, job.id)
    assert (ended.state, ended.error, ended.again_at) == ("cancelled", None, None)
    assert ended.finished_at == clock.now
    clock.now += training_job.AGAIN_AFTER
    assert not decide.next_steps(services, 1).train
    assert why(services).startswith("0 of 5 new labels"), "those labels count as dealt with"
    with pytest.raises(JobOver, match="it is cancelled already"):
        training_job.cancel(services, job.id)
    with services.store.transaction() as tx:
        projects.update(tx, 1, train_requested_at=clock.now)
    assert work(services, begun(services)).state == "publishing"


def test_a_training_that_failed_for_good_cannot_be_cancelled(
    services: Services, pipeline: Fit
) -> None:
    job = begun(services)
    training_job.give_up(services, job, "the labels are contradictory")
    with pytest.raises(JobOver, match="it is failed already"):
        training_job.cancel(services, job.id)
    assert look(services, job).error == "the labels are contradictory"


def test_a_version_that_is_made_cannot_be_cancelled(services: Services, pipeline: Fit) -> None:
    job = work(services, begun(services))
    with pytest.raises(JobOver, match="is being published; `labelclimb activate`"):
        training_job.cancel(services, job.id)
    assert kept(services) == ([1], [1])
