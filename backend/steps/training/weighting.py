"""Which annotated tasks a training looks at more often: those that were long or short to edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from backend.loop import difficulty
from backend.records import Project
from backend.settings import Settings
from backend.steps.training import taught
from backend.store import proposals, tasks
from models.base import Sample

STEP = 0.25  # of weights: a pixel head computes a sample anew whenever its weight changes


def weights(tx: Connection, project: Project, settings: Settings) -> dict[str, float]:
    """Return {sample: weight in [0.5, 1.5]} by the project's choice; {} where that is "off".

    By the predicted edit seconds (`loop.difficulty`) of the finished tasks, from what the newest
    version that people saw of each had computed; tasks that no version had seen are left out. The
    progress of a curriculum is the share of the project's tasks that are finished.
    """
    if project.weighting == "off":
        return {}
    past = taught.past(tx, project.id, settings)
    shown = {one.task: one.version for one in past if one.version is not None}
    found = [
        seen
        for number in sorted(set(shown.values()))
        for seen in proposals.evidence(
            tx, project.id, number, only=[t for t in shown if shown[t] == number], samples=False
        ).values()
    ]
    predicted = difficulty.predict(found, past, found).seconds
    seconds = {str(task): spent for task, spent in predicted.items()}
    known, waiting = len(tasks.all(tx, project.id)), len(tasks.open(tx, project.id))
    progress = (known - waiting) / max(1, known)
    by_rank = difficulty.sample_weights(seconds, project.weighting, progress)
    return {key: round(weight / STEP) * STEP for key, weight in by_rank.items()}


def weighted(samples: Sequence[Sample], by_key: Mapping[str, float]) -> list[Sample]:
    """Return the samples, their points and masks counting so much more or less; 1 where unknown."""
    return [_weighted(sample, by_key.get(sample.key, 1.0)) for sample in samples]


def _weighted(sample: Sample, weight: float) -> Sample:
    points = tuple(replace(point, weight=weight * point.weight) for point in sample.points)
    return replace(sample, points=points, weight=weight * sample.weight)
