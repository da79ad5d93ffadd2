"""Predict tasks with a version and keep the proposals with their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import structlog

from backend.errors import ImageError, UnknownThing
from backend.labelstudio import config as label_config
from backend.labelstudio import rle
from backend.labelstudio.config import LabelConfig
from backend.records import Project, ProposedRegion, Task, TaskEvidence
from backend.steps import projects
from backend.store import proposals, tasks, versions
from backend.wiring import Services
from models.base import ClassProposal, Fitted, TaskProposal

log = structlog.get_logger(__name__)


def propose(services: Services, project: Project, number: int, batch: Sequence[Task]) -> None:
    """Predict a batch with version `number`; one bad image does not spoil the others.

    A task whose image cannot be had keeps the reason and gets no proposals. Raises
    LabelStudioDown: then nothing is wrong with the images, and the job is tried again.
    """
    with services.store.reading() as tx:
        version = versions.get(tx, project.id, number)
    if version is None:
        raise UnknownThing(f"version v{number} of project {project.id} has no record")
    fitted = services.residents.get(project.id, number, version.pipeline)
    config = label_config.parse(project.label_config)
    for task in batch:
        _propose_one(services, fitted, config, number, task)


def propose_ids(services: Services, project_id: int, number: int, ids: Sequence[int]) -> None:
    """Predict those of the tasks that still exist; raises UnknownThing for the project."""
    project = projects.require(services, project_id)
    with services.store.reading() as tx:
        found = [tasks.get(tx, project_id, task) for task in ids]
    propose(services, project, number, [task for task in found if task is not None])


def _propose_one(
    services: Services, fitted: Fitted, config: LabelConfig, number: int, task: Task
) -> None:
    try:
        image = services.images.load(task.image, task.id)
    except ImageError as error:
        _note_problem(services, task, str(error))
        return
    try:
        proposal = fitted.propose(image, specs=config.specs)
    except (RuntimeError, ValueError, MemoryError, cv2.error) as error:
        _note_problem(services, task, f"v{number} cannot predict it: {error}")
        return
    height_px, width_px = image.shape[:2]
    with services.store.transaction() as tx:
        first = proposals.next_index(tx, number, task.id)
        shown = [p for p in proposal.proposals if _is_shown(p, config)]
        regions = _regions(shown, task, number, first)
        tasks.set_size(tx, task.project, task.id, width_px=width_px, height_px=height_px)
        evidence = _evidence(proposal, task, number)
        proposals.save(tx, task.project, task.id, number, regions, evidence)


def _note_problem(services: Services, task: Task, reason: str) -> None:
    log.warning("no proposal", task=task.id, reason=reason)
    with services.store.transaction() as tx:
        tasks.set_problem(tx, task.project, task.id, reason)


def _is_shown(proposal: ClassProposal, config: LabelConfig) -> bool:
    """What is too unsure for the label config is not kept either: nobody can reject it."""
    least = config.settings[proposal.class_name].score_threshold
    return bool(proposal.mask.any()) and proposal.score >= (least or 0.0)


def _regions(
    shown: Sequence[ClassProposal], task: Task, number: int, first: int
) -> list[ProposedRegion]:
    """One region per class that has any pixel: many regions freeze the browser."""
    return [
        ProposedRegion(
            region_id=f"v{number}-{task.id}-{first + n}",
            project=task.project,
            task=task.id,
            number=number,
            class_name=p.class_name,
            height_px=p.mask.shape[0],
            width_px=p.mask.shape[1],
            rle=rle.to_bytes(rle.encode(p.mask)),
            score=_confidence(p),
        )
        for n, p in enumerate(shown)
    ]


def _confidence(proposal: ClassProposal) -> float:
    """Return how sure the parts of a mask are, by area; of one without parts, its class."""
    area_px = sum(region.area_px for region in proposal.regions)
    if not area_px:
        return proposal.score
    return sum(r.confidence * r.area_px for r in proposal.regions) / area_px


def _evidence(proposal: TaskProposal, task: Task, number: int) -> TaskEvidence:
    evidence = proposal.evidence
    stats: Mapping[str, Mapping[str, float]] = evidence.stats
    return TaskEvidence(
        project=task.project,
        task=task.id,
        number=number,
        classes=evidence.classes,
        tile_probs=tuple(tuple(row) for row in evidence.tile_probs.tolist()),
        embedding=tuple(evidence.embedding.tolist()),
        stats=stats,
    )
