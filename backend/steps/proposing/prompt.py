"""A person's clicks on a task, answered from what the version saw there.

That takes arrays alone: the API answers by itself while workers are busy. Only an image that the
version has not seen yet needs a worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import structlog

from backend.errors import QueueError
from backend.labelstudio import config as label_config
from backend.labelstudio import prompts, results, rle
from backend.labelstudio.config import LabelConfig
from backend.labelstudio.prompts import Asked
from backend.records import Project, ProposedRegion, Task
from backend.steps import queues
from backend.steps.proposing import seeing
from backend.steps.proposing.problems import is_deadly
from backend.store import suggestions, tasks, versions
from backend.wiring import Services
from models.base import Mask
from models.prompting.answer import answer as chosen_by
from models.prompting.score_map import TOP, ScoreMap, Seen

MOST_PARTS = 20  # of an answer that is outlined: there each part is a region of its own
LEAST_PART_SHARE = 0.02  # of the largest part

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Question:
    """What a person asks of a task: prompts, oldest first, and climbs if they said how many."""

    asked: Sequence[Asked]
    iterations: int | None = None


def answer(
    services: Services,
    project: Project,
    number: int,
    task: Task,
    question: Question,
    deadline_s: float,
) -> list[dict[str, Any]]:
    """Return the regions that the prompts choose, of each class asked about, under new ids.

    deadline_s: of the monotonic clock; a version that has not seen the image by then answers
    nothing. Where nothing is hot under the prompts, there is no region.
    """
    config = label_config.parse(project.label_config)
    seen = _seen(services, config, number, task, question.iterations, deadline_s)
    if seen is None:
        return []
    found = list(_regions(config, seen, question.asked, task, number))
    with services.store.transaction() as tx:
        minted = suggestions.mint(tx, found)
    return results.prediction_result(minted, config)


def _seen(
    services: Services,
    config: LabelConfig,
    number: int,
    task: Task,
    iterations: int | None,
    deadline_s: float,
) -> Seen | None:
    """Return what the version saw; an image that it has not seen is looked at before all else."""
    if iterations is not None and not _obeys_iterations(services, task.project, number):
        iterations = None
    key = seeing.key(config, number, task, iterations)
    seen = services.heat_maps.get(key)
    left_s = deadline_s - time.monotonic()
    if seen is not None or left_s <= 0:
        return seen
    if not _can_be_seen(services, number, task):
        return None
    try:
        in_time = queues.see_now(services, task.project, number, task.id, iterations, left_s)
    except QueueError as error:
        log.warning("no answer to a click", task=task.id, reason=str(error))
        return None
    if not in_time:
        log.info("no answer to a click in time; the next one finds it", task=task.id)
    return services.heat_maps.get(key)


def _can_be_seen(services: Services, number: int, task: Task) -> bool:
    """Say whether a look is worth waiting for: not at what killed others, nor by a damaged version.

    The task is stored, so that a worker finds it.
    """
    with services.store.transaction() as tx:
        tasks.upsert(tx, [task])
        known = tasks.get(tx, task.project, task.id)
        version = versions.get(tx, task.project, number)
    why = version.damage if version is not None else ""
    if known is not None and is_deadly(known, number):
        why = known.problem or ""
    if why:
        log.warning("no answer to a click", task=task.id, version=number, reason=why)
    return not why


def _obeys_iterations(services: Services, project_id: int, number: int) -> bool:
    with services.store.reading() as tx:
        version = versions.get(tx, project_id, number)
    return version is not None and seeing.obeys_iterations(version)


def _regions(
    config: LabelConfig, seen: Seen, asked: Sequence[Asked], task: Task, number: int
) -> Iterator[ProposedRegion]:
    """Yield a region per class, or per part where the control outlines; ids are minted later."""
    height_px, width_px = seen.picture.shape[:2]
    for name in prompts.classes_of(asked):
        score = seen.maps.get(name)
        if score is None:
            continue
        own = [one.on(height_px, width_px) for one in asked if one.class_name in (name, None)]
        mask = chosen_by(score, seen.picture, own)
        whole = config.output(name).tag == "BrushLabels"
        for part in [mask] if whole and mask.any() else _parts(mask):
            yield ProposedRegion(
                region_id="",
                project=task.project,
                task=task.id,
                number=number,
                class_name=name,
                height_px=height_px,
                width_px=width_px,
                rle=rle.to_bytes(rle.encode(part)),
                score=_confidence(score, part),
            )


def _parts(mask: Mask) -> list[Mask]:
    """Return the connected parts of a mask that are worth an outline, the largest first."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    order = np.argsort(-areas, kind="stable")[:MOST_PARTS]
    return [labels == n + 1 for n in order if areas[n] >= LEAST_PART_SHARE * areas.max()]


def _confidence(score: ScoreMap, part: Mask) -> float:
    """Return how hot a part is on the whole, in [0, 1]."""
    return round(float(score.levels[part].mean()) / TOP, 3)
