"""What a version saw on an image, kept by its worker so that clicks need no network later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import structlog

import models.base
from backend import heat_maps
from backend.errors import ImageError, LabelclimbError
from backend.labelstudio import config as label_config
from backend.labelstudio.config import LabelConfig
from backend.records import Project, Task, Version
from backend.steps import damage, projects
from backend.steps.decide import version_number
from backend.steps.proposing import problems
from backend.store import projects as project_rows
from backend.store import tasks, versions
from backend.wiring import Services
from models.base import ClassSpec, Fitted, Image, TaskProposal
from models.masks.settings import Settings, default_settings, resolve
from models.prompting import score_map
from models.prompting.score_map import Seen

CLIMBING = "advcam"  # the pipeline that obeys `iterations`
MOST_WARM = 3  # as many as stay in memory
WARM_UP_PX = 128
CANNOT_LOOK = (RuntimeError, ValueError, MemoryError, cv2.error)  # of networks and refinements

log = structlog.get_logger(__name__)


def see(
    services: Services, project_id: int, number: int, task_id: int, iterations: int | None
) -> None:
    """Look at a task with a version and keep what clicks need; raises UnknownThing.

    What cannot be looked at is logged: the person who clicked gets an empty answer. So is an image
    that killed whoever looked at it, and a version whose files are damaged is left.
    """
    project = projects.require(services, project_id)
    with services.store.reading() as tx:
        task, version = tasks.get(tx, project_id, task_id), versions.get(tx, project_id, number)
    if task is None or version is None:
        log.warning("nothing to look at", task=task_id, version=number)
        return
    if problems.is_deadly(task, number):
        log.warning("not looked at again", task=task_id, version=number, reason=task.problem)
        return
    config = label_config.parse(project.label_config)
    try:
        fitted = services.residents.get(project_id, number, version.pipeline)
    except damage.DAMAGE:
        if damage.left(services, project_id, number):
            return
        raise
    look = partial(_look, services, config, number, task, fitted, iterations)
    problems.looked(services, number, task, iterations, look)


def _look(
    services: Services,
    config: LabelConfig,
    number: int,
    task: Task,
    fitted: Fitted,
    iterations: int | None,
) -> None:
    names = config.trained_names(fitted.classes)
    specs = [replace(config.settings[ours].spec, name=its) for ours, its in names.items()]
    try:
        image = services.images.load(task.image, task.id)
        proposal = fitted.propose(image, specs=climbed(specs, iterations), heat=True)
    except (ImageError, *CANNOT_LOOK) as error:
        log.warning("clicks will find nothing", task=task.id, version=number, reason=str(error))
        return
    keep(services, config, number, task, image, fitted, proposal, iterations=iterations)


def warm_up(services: Services) -> None:
    """Load the versions that are shown, and all code that a first look needs.

    That takes many times as long as a look. A version that cannot be loaded is logged, and left if
    its files are damaged.
    """
    models.base.get(services.settings.pipeline)  # PyTorch comes with it, shown versions or not
    with services.store.reading() as tx:
        numbers = {project.id: serving(project) for project in project_rows.all(tx)}
        found = [versions.get(tx, id, number) for id, number in numbers.items() if number]
    image = np.full((WARM_UP_PX, WARM_UP_PX, 3), 128, np.uint8)
    for version in [version for version in found if version is not None][-MOST_WARM:]:
        try:
            fitted = services.residents.get(version.project, version.number, version.pipeline)
            specs = {name: ClassSpec(name) for name in fitted.classes}
            for own in fitted.propose(image, specs=list(specs.values()), heat=True).proposals:
                if own.heat is not None:
                    settings = _settings(fitted, specs[own.class_name], own.class_name)
                    score_map.of(image, own.heat, settings)
        except (LabelclimbError, OSError, *CANNOT_LOOK) as error:
            number, reason = version.number, str(error)
            log.warning("not warm", project=version.project, version=number, reason=reason)
            if isinstance(error, damage.DAMAGE):
                _leave(services, version)


def _leave(services: Services, version: Version) -> None:
    """Leave a version whose files are damaged; what hinders that is logged, a job tries again."""
    try:
        damage.left(services, version.project, version.number)
    except (LabelclimbError, OSError, *CANNOT_LOOK) as error:
        log.warning("not left yet", project=version.project, reason=str(error))


def serving(project: Project) -> int | None:
    """Return the number of the version that is shown, or about to be; None before the first."""
    return project.champion if project.published is None else version_number(project.published)


def keep(
    services: Services,
    config: LabelConfig,
    number: int,
    task: Task,
    image: Image,
    fitted: Fitted,
    proposal: TaskProposal,
    *,
    iterations: int | None = None,
) -> None:
    """Keep what a version saw on an image.

    proposal: with heat, under the version's own class names; classes without heat are left out.
    """
    try:
        maps = {
            name: score_map.of(image, own.heat, _settings(fitted, config.settings[name].spec, its))
            for name, its in config.trained_names(fitted.classes).items()
            for own in proposal.proposals
            if own.class_name == its and own.heat is not None
        }
        seen = Seen(score_map.colours(score_map.smoothed(image)), maps)
    except (ValueError, MemoryError, cv2.error) as error:
        log.warning("clicks will find nothing", task=task.id, version=number, reason=str(error))
        return
    if maps:
        services.heat_maps.keep(key(config, number, task, iterations), seen)


def key(config: LabelConfig, number: int, task: Task, iterations: int | None) -> str:
    """Name what a version sees on a task's image under the settings of a label config."""
    specs = climbed(config.specs, iterations)
    return heat_maps.key(task.project, number, task.image, specs)


def climbed(specs: Sequence[ClassSpec], iterations: int | None) -> list[ClassSpec]:
    """Return the specs with the climbs that a person asked for; None: as they are."""
    if iterations is None:
        return list(specs)
    return [replace(spec, iterations=iterations) for spec in specs]


def obeys_iterations(version: Version) -> bool:
    """Say whether a class of a version is served by a pipeline that climbs."""
    classes = version.metrics.get("classes", {})
    served_by = {figures.get("pipeline") for figures in classes.values()}
    return CLIMBING in {version.pipeline, *served_by}


def _settings(fitted: Fitted, spec: ClassSpec, name: str) -> Settings:
    """Return how the version turns heat of a class into a mask, what the spec says first."""
    chosen = fitted.metrics.get("classes", {}).get(name, {}).get("settings")
    if chosen is None:
        return default_settings(spec)
    return resolve(Settings(**chosen), spec)
