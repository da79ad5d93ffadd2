"""A training by two real processes makes the version that one process makes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import SettingsError
from backend.records import Task
from backend.settings import Settings
from backend.steps.training import fitting, together
from backend.store import tasks
from backend.wiring import Services
from models.base import ClassSpec, Fitted, Mask, Profile, Sample, WeakPoint
from models.learning.training import PROFILES
from models.pipelines import advcam
from models.pipelines.advcam import AdvCamFitted
from tests.steps.following import SIDE_PX, Spots

FOLLOWER = (sys.executable, "-m", "tests.steps.following")
PROFILE = replace(
    PROFILES["cpu"], decoder_widths=(8, 8), crop_px=16, batch=8, max_steps=6, bf16=False
)
SPEC = ClassSpec("crack")


@pytest.fixture
def two(services: Services, monkeypatch: pytest.MonkeyPatch) -> Services:
    data = services.settings.data_dir
    environ = {"DATA_DIR": str(data), "TRAIN_PROCESSES": "2", "DEVICE": "cpu", "PIPELINE": "advcam"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, id, f"/data/upload/1/{id}.jpg") for id in range(20, 24)])
    return replace(services, settings=Settings.from_env(environ), images=Spots())  # type: ignore[arg-type]


def samples() -> list[Sample]:
    def mask() -> Mask:
        found: Mask = np.zeros((SIDE_PX, SIDE_PX), dtype=bool)
        found[20:28, 20:28] = True
        return found

    points = (
        WeakPoint("crack", 24.0, 24.0, True),
        WeakPoint("crack", 5.0, 5.0, False, weight=0.5),
        WeakPoint("crack", 40.0, 40.0, False),
    )
    return [
        Sample(str(id), partial(Spots().load, "", id), points, {"crack": mask} if id == 20 else {})
        for id in range(20, 24)
    ]


def fit_alone(profile: Profile = PROFILE, device: str = "cpu") -> Fitted:
    return advcam.PIPELINE.fit(
        samples(),
        specs=[SPEC],
        profile=profile,
        seed=0,
        device=device,
        report=lambda _: None,
    )


@pytest.mark.integration
def test_two_processes_make_the_version_that_one_makes(two: Services) -> None:
    task = together.Task(1, samples(), [SPEC], None)
    ours = together.shared(two, task, fit_alone, FOLLOWER)(profile=PROFILE, device="cpu")
    theirs = fit_alone()
    assert isinstance(ours, AdvCamFitted) and isinstance(theirs, AdvCamFitted)
    own, other = (dict(f.models["crack"].network.named_parameters()) for f in (ours, theirs))
    for name, value in other.items():
        # AdamW takes a whole step, 2e-3, by the sign of a gradient near zero: in the mean, then.
        # Processes that do not share their gradients are apart by 4e-3.
        assert (own[name] - value).abs().mean().item() < 1e-3, name
    kept, others = (dict(f.models["crack"].network.named_buffers()) for f in (ours, theirs))
    for name, value in others.items():
        apart = (kept[name] - value).abs().double().mean().item()
        assert apart <= 0.05 * value.abs().double().mean().item(), name


@pytest.mark.integration
def test_memory_that_ran_out_in_another_process_is_said_here(two: Services) -> None:
    task = together.Task(1, samples(), [SPEC], None)
    dying = together.shared(two, task, fit_alone, (*FOLLOWER, "die"))
    with pytest.raises(MemoryError, match=r"(?s)process 1 .* ended with 1: .*not enough memory"):
        dying(profile=PROFILE, device="cpu")


def test_of_several_processes_the_one_that_failed_is_named(tmp_path: Path) -> None:
    started = {}
    for rank, status in ((1, 0), (2, 3)):
        (tmp_path / f"{rank}.log").write_text(f"said by {rank}")
        started[rank] = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({status})"])
        started[rank].wait()
    found = together._died(tmp_path, started)
    assert str(found) == "process 2 of the training ended with 3: said by 2"


def test_one_process_is_the_fit_itself(services: Services) -> None:
    task = together.Task(1, samples(), [SPEC], None)
    assert together.shared(services, task, fit_alone) is fit_alone


def test_more_processes_than_gpus_are_refused(
    two: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    task = together.Task(1, samples(), [SPEC], None)
    with pytest.raises(SettingsError, match="TRAIN_PROCESSES=2, but this machine has 1 GPUs"):
        together.shared(two, task, fit_alone)(profile=PROFILE, device="cuda")
    assert fitting.devices("cpu", 2) == ("cpu", "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert fitting.devices("cuda", 2) == ("cuda:0", "cuda:1")
    assert fitting.devices("cuda:1", 1) == ("cuda:1",)
    assert not list(Path(two.settings.data_dir).glob("*training*"))
