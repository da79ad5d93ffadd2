"""Trainings as jobs, with a played pipeline and a clock that the test sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pytest

import models.base
from backend.records import Annotation, Job, WeakLabel
from backend.steps import decide
from backend.steps.training import train, training_run
from backend.store import annotations as annotation_rows
from backend.store import jobs, learning, projects, versions
from backend.wiring import Services
from models.base import Fitted, Profile, Report
from tests.steps.conftest import NOW
from tests.steps.training.test_train import composite, taught

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
