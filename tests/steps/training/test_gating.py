"""What people see of a job at the gate, and what the gate does when memory runs out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import models.base
from backend.cli import jobs as cli_jobs
from backend.errors import ImageError, LabelclimbError, LabelStudioDown
from backend.processes import residents
from backend.records import Job, Version
from backend.steps import projects as project_steps
from backend.steps.training import fitting, progress, training_job
from backend.steps.training.judging import Unsaved
from backend.store import versions
from backend.web import dashboard
from backend.wiring import Services
from models.base import ClassSpec, Fitted, Image, Progress, TaskProposal
from models.masks.settings import default_settings
from models.pipelines.advcam import AdvCamFitted, ClassModel, Geometry
from models.pipelines.auto import AutoFitted, Part
from tests.models.small_network import small_network
from tests.steps.conftest import NOW
from tests.steps.training.test_train import KEPT, Drawn, taught
from tests.steps.training.training_jobs import (
    Fit,
    begun,
    clock,
    kept,
    look,
    pipeline,
    services,
    work,
)

__all__ = ["clock", "pipeline", "services", "taught"]  # fixtures

RIGHT = {"crack": 4, "rust": 4}


@dataclass(frozen=True)
class Tiles:
    tile_px: int


@dataclass
class Watched(Drawn):
    """Tells of each proposal; memory runs out for tiles larger than `room_px`, and on `no_room`."""

    tell: Callable[[Watched], None] = lambda one: None
    geometry: Tiles = Tiles(1024)
    room_px: int = 1024
    device: str = "cuda"
    no_room: str = ""

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        self.tell(self)
        if self.geometry.tile_px > self.room_px:
            raise MemoryError("Unable to allocate 3 GiB\nand more")
        if self.device == self.no_room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().propose(image, specs=specs, heat=heat)

    def save(self, folder: Path) -> None:
        (folder / "tiles.txt").write_text(f"{self.geometry.tile_px} {self.device}")


@dataclass
class Loading(Fit):
    """A pipeline that also loads what it made."""

    def load(self, folder: Path, *, device: str) -> Fitted:
        tile_px, _ = (folder / "tiles.txt").read_text().split()
        loaded: Any = copy.copy(self.fitted)
        return replace(loaded, geometry=Tiles(int(tile_px)), device=device)


@dataclass
class PlayedResidents:
    """Holds the champion, which may have smaller tiles."""

    fitted: Fitted
    asked: list[tuple[int, int]] = field(default_factory=list)

    def get(self, project: int, number: int, pipeline: str) -> Fitted:
        return self.fitted

    def smaller(self, project: int, number: int, than: Fitted) -> tuple[Fitted, str] | None:
        self.asked.append((project, number))
        return residents.less(than, None)


def reigning(services: Services, fitted: Fitted) -> Services:
    """Make it v1, the champion."""
    with services.store.transaction() as tx:
        number = versions.next_number(tx, 1)
        start = {"start": {"labels": 12, "encoder": "resnet18"}}
        versions.add(tx, Version(1, number, "challenger", "auto", "s", NOW, metrics=start))
        project_steps.promote(tx, 1, number)
    return replace(services, residents=PlayedResidents(fitted))  # type: ignore[arg-type]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Loading:
    """Have trainings find a GPU."""
    played = Loading()
    known = models.base.get
    monkeypatch.setattr(models.base, "get", lambda name: played if name == "auto" else known(name))
    monkeypatch.setattr(models.base, "resolve_device", lambda device: "cuda")
    monkeypatch.setattr(fitting, "gpu_of", lambda device: f"gpu-{device}")
    return played


def saved(services: Services, number: int = 1) -> str:
    return (services.registry.folder(1, number) / "tiles.txt").read_text()


def test_the_gate_says_which_of_both_versions_tasks_is_judged_and_for_how_long(
    services: Services, pipeline: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "WRITE_EVERY_S", 0.0)
    seen: list[Job] = []

    def tell(_: Watched) -> None:
        seen.append(look(services, job))

    pipeline.fitted = AutoFitted([Part("advcam", Watched(RIGHT, tell=tell), ("crack",))], {})
    champion = AutoFitted([Part("advcam", Watched(RIGHT, tell=tell), ("crack",))], {})
    both = reigning(services, champion)
    job = begun(both)
    work(both, job)
    tasks = 2 * len(KEPT)
    assert [one.state for one in seen] == ["gating"] * tasks
    assert seen[0].detail["fraction"] == 0.0 and seen[0].detail["seconds_left"] is None
    stood = [(one.detail["step"], one.detail["steps"]) for one in seen[1:]]
    assert stood == [(done, tasks) for done in range(1, tasks)]
    halfway = seen[len(KEPT)]
    assert halfway.detail["fraction"] == 0.5 and halfway.detail["seconds_left"] > 0
    left = replace(halfway, detail={**halfway.detail, "seconds_left": 90.0})
    assert [str(cell) for cell in cli_jobs.row(left)[1:3]] == ["gating", f"gate 6/{tasks}"]
    assert str(cli_jobs.row(left)[-1]) == "1:30"
    assert dashboard._standing(left.detail) == f"gate, step 6 of {tasks}, 90 s left"


def test_a_job_that_is_cancelled_at_the_gate_stops_with_the_task(
    services: Services, pipeline: Fit
) -> None:
    """As when Redis is down, so that its process cannot be killed."""
    job, told = begun(services), []

    def tell(one: Watched) -> None:
        told.append(one)
        training_job.cancel(services, job.id)

    pipeline.act = lambda profile, report: report(Progress("training", "crack", 9, 9, 1.0))
    pipeline.fitted = Watched(RIGHT, tell=tell)
    assert work(services, job).state == "cancelled"
    assert len(told) == 1 and kept(services) == ([], [])


def test_when_memory_runs_out_at_the_gate_tiles_become_smaller_and_the_version_stays_as_it_is(
    services: Services, pipeline: Fit
) -> None:
    tiles: list[int] = []
    pipeline.fitted = Watched(RIGHT, tell=lambda one: tiles.append(one.geometry.tile_px))
    pipeline.fitted.room_px = 256
    job = work(services, begun(services))
    assert tiles == [1024, 512] + [256] * len(KEPT), "each task is judged, the rest at once"
    assert job.state == "publishing"
    assert job.detail["notes"] == ["out of memory: judges the new version with smaller tiles"] * 2
    assert saved(services) == "1024 cuda"


def test_then_it_leaves_the_gpu(services: Services, on_gpu: Loading) -> None:
    devices: list[str] = []
    on_gpu.fitted = Watched(
        RIGHT, tell=lambda one: devices.append(one.device), geometry=Tiles(512), no_room="cuda"
    )
    job = work(services, begun(services))
    assert job.state == "publishing"
    assert job.detail["notes"] == [
        "out of memory: judges the new version with smaller tiles",
        "out of memory: judges the new version with the CPU instead of the GPU",
    ]
    assert devices == ["cuda", "cuda", *["cpu"] * len(KEPT)]
    assert saved(services) == "512 cuda"


def test_what_needs_too_much_even_there_ends_the_job_with_what_to_do(
    services: Services, on_gpu: Loading
) -> None:
    on_gpu.fitted = Watched(RIGHT, room_px=100)
    job = work(services, begun(services))
    assert (job.state, job.again_at) == ("failed", None)
    assert job.error == (
        "the memory is too small to judge the new version with the smallest tiles (Unable to "
        "allocate 3 GiB); free some, run fewer workers on this machine, or give it more"
    )
    assert [note.rpartition("with ")[2] for note in job.detail["notes"]] == [
        "smaller tiles",
        "smaller tiles",
        "the CPU instead of the GPU",
    ]
    assert kept(services) == ([], [])


def test_the_champion_takes_less_too(services: Services, pipeline: Fit) -> None:
    both = reigning(services, Watched(RIGHT, geometry=Tiles(512), room_px=256))
    job = work(both, begun(both))
    assert job.detail["notes"] == ["out of memory: judges v1 with smaller tiles"]
    played: Any = both.residents
    assert played.asked == [(1, 1)]


@pytest.mark.training
def test_a_real_version_proposes_the_same_with_less() -> None:
    """Which was not saved before: its files pass through a folder of their own."""
    spec = ClassSpec("crack")
    model = ClassModel("crack", small_network(), default_settings(spec))
    geometry = Geometry("resnet18", (8, 8), 24, 512, False)
    trained: Fitted = AdvCamFitted(geometry, [model], {}, "cpu")
    image = np.random.default_rng(0).integers(0, 255, (300, 300, 3)).astype(np.uint8)
    (wanted,) = trained.propose(image, specs=[spec]).proposals
    unsaved, changes, now = Unsaved("advcam", "cuda"), [], trained
    while (found := unsaved.less(now)) is not None:
        now, change = found
        changes.append(change)
        (own,) = now.propose(image, specs=[spec]).proposals
        assert np.array_equal(own.mask, wanted.mask)
        assert own.score == pytest.approx(wanted.score, abs=1e-6)
    assert changes == ["smaller tiles", "the CPU instead of the GPU"]


def test_another_error_at_the_gate_is_not_taken_for_a_lack_of_memory(
    services: Services, pipeline: Fit
) -> None:
    def tell(one: Watched) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    pipeline.fitted = Watched(RIGHT, tell=tell)
    with pytest.raises(RuntimeError, match="mat1"):
        work(services, begun(services))


@dataclass
class Fading:
    """Images of which one is gone, or Label Studio down, once the training has begun."""

    real: Any
    error: LabelclimbError
    task: int = KEPT[0]
    is_gone: bool = False
    loaded: list[int] = field(default_factory=list)

    def load(self, uri: str, task_id: int) -> Image:
        if self.is_gone:
            self.loaded.append(task_id)
            if task_id == self.task:
                raise self.error
        image: Image = self.real.load(uri, task_id)
        return image

    def fade(self, profile: Any, report: Any) -> None:
        self.is_gone = True


def test_a_task_whose_image_is_gone_at_the_gate_is_left_out_for_both_versions(
    services: Services, pipeline: Fit
) -> None:
    images = Fading(services.images, ImageError("the image is gone (404)"))
    seen: dict[str, list[int]] = {"champion": [], "challenger": []}

    def tell(name: str) -> Callable[[Watched], None]:
        return lambda one: seen[name].append(images.loaded[-1])

    pipeline.act, pipeline.fitted = images.fade, Watched(RIGHT, tell=tell("challenger"))
    both = reigning(replace(services, images=images), Watched(RIGHT, tell=tell("champion")))  # type: ignore[arg-type]
    job = work(both, begun(both))
    assert (job.state, job.error) == ("publishing", None)
    assert images.loaded == [*KEPT], "each is read once"
    assert seen == {"champion": [*KEPT[1:]], "challenger": [*KEPT[1:]]}
    with both.store.reading() as tx:
        version = versions.get(tx, 1, 2)
    assert version is not None and version.gate["figures"]["tasks"] == len(KEPT) - 1


def test_when_label_studio_is_down_at_the_gate_the_queue_tries_again(
    services: Services, pipeline: Fit
) -> None:
    images = Fading(services.images, LabelStudioDown("no answer"))
    pipeline.act = images.fade
    away = replace(services, images=images)  # type: ignore[arg-type]
    job = begun(away)
    with pytest.raises(LabelStudioDown):
        work(away, job)
    assert look(away, job).state == "queued" and kept(away) == ([], [])
