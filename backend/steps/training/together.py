"""Train by several processes, on a GPU each: this one leads, the others follow and save nothing.

What the followers learn from is handed over as JSON in a folder: points, masks and settings;
images and the version to start from they fetch themselves. They run the same `fit`, and meet the
leader wherever a network is trained (`models.learning.parallel`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import models.base
from backend.errors import ChildFailed, ImageError, UnknownThing
from backend.labelstudio import rle
from backend.steps.training.fitting import Fit, devices
from backend.store import tasks, versions
from backend.wiring import Services
from models.base import ClassSpec, Fitted, Mask, Profile, Sample, WeakPoint
from models.learning import parallel
from models.learning.training import TrainingDiverged
from models.memory import is_out_of_memory

FOLLOWER = (sys.executable, "-m", "backend.processes.follower")
HANDOVER = "training.json"
READY_WITHIN_S = 600.0  # to load the followers' images
ENDED_WITHIN_S = 60.0
LOG_TAIL = 2000  # characters
IMAGE_ERROR = f"{ImageError.__module__}.{ImageError.__qualname__}:"  # as a traceback ends


@dataclass(frozen=True)
class Task:
    """A training that is to be shared; warm: number of the version to start from, None = afresh."""

    project: int
    samples: Sequence[Sample]
    specs: Sequence[ClassSpec]
    warm: int | None


def shared(services: Services, task: Task, fit: Fit, command: Sequence[str] = FOLLOWER) -> Fit:
    """Return `fit`, by TRAIN_PROCESSES processes if there are to be more than one.

    Where a GPU's memory ran out and the CPU has to do, one process does.
    """
    processes = services.settings.train_processes
    if processes == 1:
        return fit

    def several(*, profile: Profile, device: str) -> Fitted:
        if device == "cpu" != models.base.resolve_device(services.settings.device):
            return fit(profile=profile, device=device)
        own, *_ = devices(device, processes)
        with tempfile.TemporaryDirectory(prefix="labelclimb-training-") as name:
            folder = Path(name)
            about = _about(services, task, profile, device, processes)
            (folder / HANDOVER).write_text(json.dumps(about), encoding="utf-8")
            with (
                _followers(command, folder, processes) as others,
                _explained(others, folder),
                parallel.joined(0, processes, _address(folder), own),
            ):
                return fit(profile=profile, device=own)

    return several


def follow(services: Services, folder: Path, rank: int) -> None:
    """Take part in a training that another process leads."""
    about = json.loads((folder / HANDOVER).read_text(encoding="utf-8"))
    device = devices(about["device"], about["processes"])[rank]
    samples = [_sample(services, about["project"], entry) for entry in about["samples"]]
    widths = tuple(about["profile"]["decoder_widths"])
    profile = Profile(**{**about["profile"], "decoder_widths": widths})
    warm = _warm(services, about["project"], about["warm"], device)
    (folder / f"ready-{rank}").touch()
    with parallel.joined(rank, about["processes"], _address(folder), device):
        models.base.get(about["pipeline"]).fit(
            samples,
            specs=[ClassSpec(**spec) for spec in about["specs"]],
            profile=profile,
            seed=about["seed"],
            device=device,
            report=lambda _: None,
            warm_start=warm,
        )


def _address(folder: Path) -> str:
    return f"file://{folder}/meeting"


@contextlib.contextmanager
def _followers(
    command: Sequence[str], folder: Path, processes: int
) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """Start the followers and give them when they are ready; none outlives the block."""
    started = {}
    try:
        for rank in range(1, processes):
            with (folder / f"{rank}.log").open("wb") as log:
                started[rank] = subprocess.Popen(
                    [*command, str(folder), str(rank)], stdout=log, stderr=subprocess.STDOUT
                )
        _wait(folder, started)
        yield started
        for follower in started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                follower.wait(ENDED_WITHIN_S)
    finally:
        for follower in started.values():
            follower.kill()
            follower.wait()


def _wait(folder: Path, started: dict[int, subprocess.Popen[bytes]]) -> None:
    turns = int(READY_WITHIN_S / 0.05)
    for _ in range(turns):
        if all((folder / f"ready-{rank}").exists() for rank in started):
            return
        if any(follower.poll() is not None for follower in started.values()):
            raise _died(folder, started)
        threading.Event().wait(0.05)
    raise ChildFailed(
        f"the {len(started)} other processes of the training were not ready within "
        f"{READY_WITHIN_S:g} s; set TRAIN_PROCESSES=1 if this machine is too slow for them"
    )


@contextlib.contextmanager
def _explained(started: dict[int, subprocess.Popen[bytes]], folder: Path) -> Iterator[None]:
    """Say what became of a follower, where it shows here as a lost connection alone."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, TrainingDiverged) or is_out_of_memory(error):
            raise
        for follower in started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                follower.wait(ENDED_WITHIN_S)
        if not any(follower.poll() for follower in started.values()):
            raise
        raise _died(folder, started) from error


def _died(folder: Path, started: dict[int, subprocess.Popen[bytes]]) -> Exception:
    """Return the error for a follower that has ended.

    That is a MemoryError if memory ran out there, an ImageError if an image could not be had.
    """
    rank = next(rank for rank, follower in started.items() if follower.poll())
    said = (folder / f"{rank}.log").read_text(errors="replace")[-LOG_TAIL:].strip()
    text = f"process {rank} of the training ended with {started[rank].poll()}: {said}"
    if is_out_of_memory(RuntimeError(said)):
        return MemoryError(text)
    is_image = said.rpartition("\n")[2].startswith(IMAGE_ERROR)
    return ImageError(text) if is_image else ChildFailed(text)


def _about(
    services: Services, task: Task, profile: Profile, device: str, processes: int
) -> dict[str, Any]:
    return {
        "project": task.project,
        "pipeline": services.settings.pipeline,
        "seed": services.settings.seed,
        "processes": processes,
        "device": device,
        "warm": task.warm,
        "profile": asdict(profile),
        "specs": [asdict(spec) for spec in task.specs],
        "samples": [_entry(sample) for sample in task.samples],
    }


def _entry(sample: Sample) -> dict[str, Any]:
    masks = {name: _mask_entry(load()) for name, load in sample.masks.items()}
    return {
        "key": sample.key,
        "points": [asdict(point) for point in sample.points],
        "masks": masks,
        "held_out": sample.held_out,
        "weight": sample.weight,
    }


def _mask_entry(mask: Mask) -> dict[str, Any]:
    packed = base64.b64encode(rle.to_bytes(rle.encode(mask))).decode()
    return {"height_px": mask.shape[0], "width_px": mask.shape[1], "rle": packed}


def _sample(services: Services, project: int, entry: dict[str, Any]) -> Sample:
    with services.store.reading() as tx:
        task = tasks.get(tx, project, int(entry["key"]))
    if task is None:
        raise UnknownThing(f"task {entry['key']} was deleted while its training began")
    return Sample(
        entry["key"],
        lambda: services.images.load(task.image, task.id),
        tuple(WeakPoint(**point) for point in entry["points"]),
        {name: _mask(mask) for name, mask in entry["masks"].items()},
        entry["held_out"],
        entry["weight"],
    )


def _mask(entry: dict[str, Any]) -> Callable[[], Mask]:
    packed = base64.b64decode(entry["rle"])
    return lambda: rle.decode_mask(rle.from_bytes(packed), entry["height_px"], entry["width_px"])


def _warm(services: Services, project: int, number: int | None, device: str) -> Fitted | None:
    if number is None:
        return None
    with services.store.reading() as tx:
        version = versions.get(tx, project, number)
    if version is None:
        raise UnknownThing(f"version v{number} of project {project} has no record")
    folder = services.registry.folder(project, number)
    return models.base.get(version.pipeline).load(folder, device=device)
