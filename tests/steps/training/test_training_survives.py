"""Trainings that meet damaged champions, missing images, a full disk, and the end of their time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend import jobs as job_functions
from backend.errors import ImageError
from backend.queueing.jobs import TimedOut
from backend.records import Job, Version
from backend.steps import damage, projects
from backend.steps.training import together, training_run
from backend.store import tasks, versions
from backend.wiring import Services
from models.base import Fitted, Image, NotEnoughLabels, Profile, Report, Sample
from models.pipelines import auto
from tests.steps.conftest import NOW, PlayedImages
from tests.steps.training.test_train import LEARNT, composite, taught
from tests.steps.training.training_jobs import (
    Clock,
    Fit,
    begun,
    clock,
    kept,
    look,
    pipeline,
    services,
    why,
    work,
)

__all__ = ["clock", "pipeline", "services", "taught"]  # fixtures


@dataclass
class Stored:
    """Versions of one kind each, whose files are verified before they are given."""

    services: Services
    fitted: dict[int, Fitted]

    def get(self, project: int, number: int, pipeline: str) -> Fitted:
        self.services.registry.folder(project, number)
        return self.fitted[number]


@pytest.fixture
def two(services: Services) -> Services:
    """v1 and then v2 were the champions."""
    fitted: dict[int, Fitted] = {1: composite(crack=12, rust=4), 2: composite(crack=4, rust=4)}
    stored: Any = Stored(services, fitted)
    for number, version in fitted.items():
        services.registry.save(1, number, version.save)
        with services.store.transaction() as tx:
            versions.next_number(tx, 1)
            versions.add(tx, Version(1, number, "challenger", "auto", f"s{number}", NOW))
            projects.promote(tx, 1, number)
    return replace(services, residents=stored)


def change(services: Services, number: int) -> None:
    (services.registry.folder(1, number) / "auto.json").write_text("{}")


def state(services: Services, number: int) -> str:
    with services.store.reading() as tx:
        found = versions.get(tx, 1, number)
    assert found is not None
    return found.state


def test_a_training_goes_on_from_the_former_champion_when_the_champion_is_damaged(
    two: Services, pipeline: Fit
) -> None:
    change(two, 2)
    ended = work(two, begun(two))
    assert ended.state == "publishing"
    (note,) = ended.detail["notes"]
    assert note.startswith("v2 was left as damaged: ") and "auto.json was changed" in note
    assert [state(two, number) for number in (1, 2, 3)] == ["retired", "damaged", "champion"]
    with two.store.reading() as tx:
        third = versions.get(tx, 1, 3)
    assert third is not None
    assert third.gate["figures"]["champion"]["f"] < third.gate["figures"]["challenger"]["f"]


def test_a_training_goes_on_without_any_champion(two: Services, pipeline: Fit) -> None:
    for number in (1, 2):
        change(two, number)
    assert work(two, begun(two)).state == "publishing"
    assert [state(two, number) for number in (1, 2, 3)] == ["damaged", "damaged", "champion"]


def test_a_version_that_beat_the_champion_is_used_though_that_one_was_left_meanwhile(
    two: Services, pipeline: Fit
) -> None:
    def meanwhile(profile: Profile, report: Report) -> None:
        change(two, 2)
        assert damage.left(two, 1, 2)

    pipeline.act = meanwhile
    assert work(two, begun(two)).state == "publishing"
    assert projects.require(two, 1).champion == 3


@dataclass
class Fading(PlayedImages):
    """Images of which some cannot be had any more, from the beginning of the training on."""

    gone: set[int] = field(default_factory=set)

    def load(self, uri: str, task_id: int) -> Image:
        if task_id in self.gone:
            raise ImageError(f"cannot fetch the image of task {task_id}: it answered 404")
        return super().load(uri, task_id)


@dataclass
class Reading(Fit):
    """Reads all images, as every pipeline does; needs some."""

    meanwhile: Callable[[], None] = lambda: None
    read: list[list[str]] = field(default_factory=list)

    def fit(self, samples: Sequence[Sample], **given: Any) -> Fitted:
        self.meanwhile()
        self.read.append([sample.key for sample in samples])
        if len(samples) < 2:
            raise NotEnoughLabels("crack has no negative points")
        for sample in samples:
            sample.load()
        return super().fit(samples, **given)


@pytest.fixture
def fading(services: Services) -> Services:
    images: Any = Fading()
    return replace(services, images=images)


@pytest.fixture
def reading(pipeline: Fit, monkeypatch: pytest.MonkeyPatch) -> Reading:
    played = Reading()
    monkeypatch.setattr(pipeline, "fit", played.fit)
    return played


def test_images_that_are_gone_when_it_trains_are_left_out(
    fading: Services, reading: Reading
) -> None:
    images: Any = fading.images
    gone = {LEARNT[1], LEARNT[4]}
    reading.meanwhile = lambda: images.gone.update(gone)
    ended = work(fading, begun(fading))
    assert ended.state == "publishing"
    left = [str(id) for id in LEARNT if id not in gone]
    assert reading.read == [[str(id) for id in LEARNT], left], "it begins again once"
    (note,) = ended.detail["notes"]
    assert note == (
        "images could not be read any more (task 101: cannot fetch the image of task 101: it "
        "answered 404; task 104: cannot fetch the image of task 104: it answered 404): the "
        "training goes on without, on 4 others"
    )
    with fading.store.reading() as tx:
        version, task = versions.get(tx, 1, 1), tasks.get(tx, 1, 101)
    assert version is not None and task is not None
    assert set(version.metrics["start"]["left_out"]) == {"101", "104"}
    assert task.problem == "cannot fetch the image of task 101: it answered 404"


def test_too_few_images_end_the_training_in_words(fading: Services, reading: Reading) -> None:
    images: Any = fading.images
    reading.meanwhile = lambda: images.gone.update(LEARNT[1:])
    ended = work(fading, begun(fading))
    assert (ended.state, ended.again_at) == ("failed", None)
    assert ended.error is not None
    assert ended.error.startswith("images could not be read any more (task 101: cannot fetch")
    assert ended.error.endswith(
        "and 2 more), and the rest is not enough (crack has no negative points); mend these "
        "images, or annotate others, then ask for the training again"
    )
    assert "Start Training tries these labels again" in why(fading)


def test_a_real_pipeline_says_that_nothing_is_not_enough() -> None:
    given: Any = {"profile": None, "seed": 0, "device": "cpu", "report": lambda _: None}
    with pytest.raises(NotEnoughLabels):
        auto.PIPELINE.fit([], specs=[], **given)


def test_an_image_that_fails_elsewhere_alone_does_not_repeat_the_training_for_ever(
    fading: Services, reading: Reading
) -> None:
    def fails_in_another_process() -> None:
        raise ImageError("process 1 of the training ended with 1: cannot fetch")

    reading.meanwhile = fails_in_another_process
    assert work(fading, begun(fading)).error == (
        "process 1 of the training ended with 1: cannot fetch"
    )


def test_an_image_that_another_process_cannot_have_is_said_as_such(tmp_path: Path) -> None:
    (tmp_path / "1.log").write_text(
        "Traceback (most recent call last):\nbackend.errors.ImageError: cannot decode image\n"
    )
    started: Any = {1: SimpleNamespace(poll=lambda: 1)}
    found = together._died(tmp_path, started)
    assert isinstance(found, ImageError) and str(found).endswith("cannot decode image")


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_a_disk_without_room_is_noticed_before_the_training(
    two: Services, pipeline: Fit, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(p.stat().st_size for p in two.registry.folder(1, 2).rglob("*") if p.is_file())
    job = begun(two)
    disk(monkeypatch, 2 * size - 1)
    ended = work(two, job)
    assert pipeline.given == [] and kept(two)[0] == [1, 2][::-1]
    assert (ended.state, ended.again_at is not None) == ("failed", True), "it is tried again"
    words = f"it may need {2 * size / 1e6:.1f} MB (twice v2's size), and "
    assert words in str(ended.error) and "--prune --keep 2" in str(ended.error)
    disk(monkeypatch, 2 * size)
    assert ended.again_at is not None
    clock.now = ended.again_at
    assert work(two, begun(two)).state == "publishing"


def test_a_training_whose_time_is_up_ends_with_the_setting_and_is_not_repeated(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(services)

    def endless(*_: Any) -> None:
        raise TimedOut("Task exceeded maximum timeout value (86400 seconds)")

    monkeypatch.setattr(training_run, "run", endless)
    monkeypatch.setattr(job_functions, "services", lambda: services)
    job_functions.train(1, job.id.rpartition("-")[2])
    ended: Job = look(services, job)
    assert (ended.state, ended.again_at) == ("failed", None)
    assert str(ended.error).startswith("it took longer than TRAIN_TIMEOUT_S=86400 seconds")


def test_the_time_that_a_training_may_take_is_set(services: Services) -> None:
    given: list[dict[str, Any]] = []
    played: Any = services.queues
    played.enqueue = lambda *_, **kwargs: given.append(kwargs)
    settings = services.settings.model_copy(update={"train_timeout_s": 3600})
    begun(replace(services, settings=settings))
    assert [job["timeout_s"] for job in given] == [3600]
