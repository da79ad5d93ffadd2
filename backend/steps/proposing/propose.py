"""Predict tasks with a version and keep the proposals with their evidence."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import structlog
from sqlalchemy.exc import SQLAlchemyError

from backend.errors import ImageError, LabelclimbError, UnknownThing
from backend.labelstudio import config as label_config
from backend.labelstudio import rle
from backend.labelstudio.config import LabelConfig
from backend.records import Project, ProposedRegion, Task, TaskEvidence
from backend.steps import damage, projects
from backend.steps.proposing import problems, seeing, shortage
from backend.store import proposals, tasks, versions
from backend.wiring import Services
from models.base import ClassProposal, Fitted, TaskProposal
from models.masks import grouping
from models.masks.grouping import Group

log = structlog.get_logger(__name__)


def propose(
    services: Services,
    project: Project,
    number: int,
    batch: Sequence[Task],
    *,
    longest_s: float | None = None,
) -> None:
    """Predict a batch with version `number`; one bad image does not spoil the others.

    longest_s: no further task is begun after that, so that a person who waits is not kept waiting.
    A task whose image cannot be had, that cannot be predicted, or that kills whoever tries, keeps
    the reason and gets no proposals. A version whose files are damaged is left (`steps.damage`).
    Raises LabelStudioDown and the like: then nothing is wrong with the images, and the job is tried
    again.
    """
    with services.store.reading() as tx:
        version = versions.get(tx, project.id, number)
    if version is None:
        raise UnknownThing(f"version v{number} of project {project.id} has no record")
    config = label_config.parse(project.label_config)
    began = time.monotonic()
    for task in batch:
        try:
            fitted = services.residents.get(project.id, number, version.pipeline)
            act = partial(_propose_one, services, fitted, config, number, task)
            problems.counted(services, number, task, act)
        except damage.DAMAGE:
            if damage.left(services, project.id, number):
                return
            raise
        if longest_s is not None and time.monotonic() - began >= longest_s:
            return


def propose_ids(services: Services, project_id: int, number: int, ids: Sequence[int]) -> None:
    """Predict those of the tasks that still exist; raises UnknownThing for the project.

    Nothing is tried again that this version cannot predict, or does not survive.
    """
    project = projects.require(services, project_id)
    with services.store.reading() as tx:
        found = [tasks.get(tx, project_id, task) for task in ids]
    known = [task for task in found if task is not None]
    batch = [task for task in known if not problems.is_hopeless(task, number)]
    propose(services, project, number, batch)


def _propose_one(
    services: Services, fitted: Fitted, config: LabelConfig, number: int, task: Task
) -> None:
    """Predict a task and keep its proposals, or its problem; that of a store is not its own.

    Also the job's time limit becomes its problem: a block begins a task in its first seconds only.
    """
    try:
        image = services.images.load(task.image, task.id)
    except ImageError as error:
        problems.note(services, task, str(error))
        return
    names = config.trained_names(fitted.classes)
    specs = [replace(config.settings[ours].spec, name=its) for ours, its in names.items()]
    try:
        seen = shortage.propose(services, task, number, fitted, image, specs)
        proposal = _renamed(seen, names)
    except (LabelclimbError, SQLAlchemyError):
        raise
    except Exception as error:  # noqa: BLE001 - networks raise anything
        reason = f"it cannot be predicted: {type(error).__name__}: {error}"
        problems.note(services, task, problems.of_version(number, reason))
        return
    height_px, width_px = image.shape[:2]
    regions = _regions(_groups(proposal, config, services.settings.max_regions), task, number)
    with services.store.transaction() as tx:
        first = proposals.next_index(tx, number, task.id)
        named = [
            replace(region, region_id=f"v{number}-{task.id}-{n}")
            for n, region in enumerate(regions, start=first)
        ]
        tasks.set_size(tx, task.project, task.id, width_px=width_px, height_px=height_px)
        evidence = task_evidence(proposal, task, number)
        proposals.save(tx, task.project, task.id, number, named, evidence)
    seeing.keep(services, config, number, task, image, fitted, seen)


def _renamed(proposal: TaskProposal, names: Mapping[str, str]) -> TaskProposal:
    """Give the classes of a version the names that they have in the project; {ours: its}."""
    ours = {its: name for name, its in names.items()}
    evidence = replace(
        proposal.evidence,
        classes=tuple(ours[name] for name in proposal.evidence.classes),
        stats={ours[name]: stats for name, stats in proposal.evidence.stats.items()},
    )
    renamed = (replace(p, class_name=ours[p.class_name]) for p in proposal.proposals)
    return TaskProposal(tuple(renamed), evidence)


def _groups(proposal: TaskProposal, config: LabelConfig, most: int) -> list[tuple[str, Group]]:
    """Return class and mask of each region to be shown: few, each to be judged by itself.

    What is too unsure for the label config is not kept either: nobody can reject it.
    """
    return [
        (p.class_name, group)
        for p in proposal.proposals
        if p.score >= (config.settings[p.class_name].score_threshold or 0.0)
        for group in _groups_of_class(p, config, most)
    ]


def _groups_of_class(proposal: ClassProposal, config: LabelConfig, most: int) -> list[Group]:
    """Cut a mask as the control that shows it can: a polygon is one part, a box has no scatter."""
    settings = config.settings[proposal.class_name]
    shown = config.output(proposal.class_name).tag
    return grouping.of_proposal(
        proposal,
        most=settings.max_regions or most,
        min_area_px=settings.spec.min_area_px,
        gap_px=0 if shown == "PolygonLabels" else None,
        rest="drop" if shown == "RectangleLabels" else "join",
    )


def _regions(groups: Sequence[tuple[str, Group]], task: Task, number: int) -> list[ProposedRegion]:
    """Encode the regions; their ids are minted when they are stored."""
    return [
        ProposedRegion(
            region_id="",
            project=task.project,
            task=task.id,
            number=number,
            class_name=class_name,
            height_px=group.mask.shape[0],
            width_px=group.mask.shape[1],
            rle=rle.to_bytes(rle.encode(group.mask)),
            score=group.confidence,
        )
        for class_name, group in groups
    ]


def task_evidence(proposal: TaskProposal, task: Task, number: int) -> TaskEvidence:
    """Return what strategies read of a task, as a record."""
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
        passes=len(evidence.samples),
        samples=np.rint(evidence.samples * 255).astype(np.uint8).tobytes(),
    )
