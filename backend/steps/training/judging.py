"""The gate's two sides: a challenger and the champion on tasks that no training has seen."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

import models.base
from backend.errors import ImageError
from backend.loop import gate
from backend.processes import residents
from backend.steps.proposing import shortage
from backend.steps.training.progress import Watch
from backend.wiring import Services
from models.base import ClassSpec, Fitted, Image, Progress, Sample
from models.memory import SHORTAGES, is_out_of_memory
from models.pipelines.auto import AutoFitted, combine

if TYPE_CHECKING:
    from backend.steps.training.train import TrainingSet

log = structlog.get_logger(__name__)


@dataclass
class Side:
    """A version that is judged; less: what it becomes when memory runs out."""

    name: str
    fitted: Fitted
    less: shortage.Less


class Unsaved:
    """How a version that the registry does not hold yet needs less memory.

    device: on which it was trained.
    """

    def __init__(self, pipeline: str, device: str) -> None:
        self._pipeline = pipeline
        self._on_gpu = device != "cpu"

    def less(self, than: Fitted) -> tuple[Fitted, str] | None:
        """Halve its tiles, then have it leave the GPU; None when nothing is left to be tried."""
        return residents.less(than, partial(self._moved, than) if self._on_gpu else None)

    def _moved(self, fitted: Fitted) -> Fitted:
        self._on_gpu = False
        with tempfile.TemporaryDirectory(prefix="labelclimb-gate-") as folder:
            fitted.save(Path(folder))
            return models.base.get(self._pipeline).load(Path(folder), device="cpu")


def judged(
    services: Services,
    training_set: TrainingSet,
    champion: Fitted | None,
    challenger: Fitted,
    watch: Watch,
) -> tuple[Fitted, gate.Verdict]:
    """Let the challenger pass the gate; classes in which it is worse stay the champion's.

    Of two composites, that is: other versions have no parts to be mixed. Raises OutOfMemory, and
    JobOver when the job is cancelled meanwhile.
    """
    trained_on = "cpu" if watch.means.on_cpu else services.settings.device
    unsaved = Unsaved(services.settings.pipeline, models.base.resolve_device(trained_on))
    sides = [Side("the new version", challenger, unsaved.less)]
    if champion is not None:
        project, number = training_set.project.id, training_set.project.champion or 0
        known = services.residents
        sides.insert(
            0, Side(f"v{number}", champion, lambda than: known.smaller(project, number, than))
        )
    *others, after = _scores(training_set, sides, watch)
    before, seed = (others[0] if others else None), services.settings.seed
    if isinstance(champion, AutoFitted) and isinstance(challenger, AutoFitted):
        choice = gate.choose(before, after, separable=champion.classes, seed=seed)
        winner = combine(champion, challenger, choice.kept) if choice.kept else challenger
        return winner, choice.verdict
    return challenger, gate.judge(before, after, seed=seed)


def _scores(
    training_set: TrainingSet, sides: Sequence[Side], watch: Watch
) -> list[list[gate.TaskScore]]:
    """Score versions on the held-out tasks whose masks a person has verified.

    A task whose image cannot be had is left out for all of them.
    """
    verified = [sample for sample in training_set.held_out if sample.masks]
    steps, done = len(verified) * len(sides), 0
    found: list[list[gate.TaskScore]] = [[] for _ in sides]
    for sample in verified:
        image = _image(sample)
        specs = [spec for spec in training_set.specs if spec.name in sample.masks]
        for scores, side in zip(found, sides, strict=True):
            if image is not None:
                scores.extend(_task_scores(side, sample, image, specs, watch))
            done += 1
            watch(Progress("gate", "", done, steps, done / steps))
    return found


def _image(sample: Sample) -> Image | None:
    """Return a task's image; None when it cannot be had.

    Raises LabelStudioError when that is not the image's fault.
    """
    try:
        return sample.load()
    except ImageError as error:
        log.warning("left out of the gate", task=sample.key, reason=str(error))
        return None


def _task_scores(
    side: Side, sample: Sample, image: Image, specs: Sequence[ClassSpec], watch: Watch
) -> list[gate.TaskScore]:
    def say(change: str) -> None:
        log.warning("out of memory", judging=side.name, goes_on_with=change)
        watch.note(f"out of memory: judges {side.name} with {change}")

    try:
        side.fitted, seen = shortage.proposed(side.fitted, image, specs, side.less, say)
    except SHORTAGES as error:
        if not is_out_of_memory(error):
            raise
        raise shortage.too_little(f"to judge {side.name} with the smallest tiles", error) from error
    proposed = {p.class_name: p for p in seen.proposals}
    return [
        gate.score(sample.key, spec.name, proposed.get(spec.name), sample.masks[spec.name]())
        for spec in specs
    ]
