"""Projects: taking them in, changing their choices, saying what they show."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, get_args

import structlog
from sqlalchemy import Connection

import strategies.base
from backend.errors import CorruptVersion, InvalidPayload, UnknownThing
from backend.labelstudio import config as label_config
from backend.loop import succession
from backend.records import Job, Project, Reign, ReignStart, Version, Weighting
from backend.steps import queues
from backend.store import jobs, projects, publishing, reigns, tasks, unrecorded, versions
from backend.wiring import Services

WEIGHTINGS: tuple[str, ...] = get_args(Weighting)
UNTRAINED = "untrained"  # what /setup answers before the first version

log = structlog.get_logger(__name__)


def adopt(services: Services, project_id: int, config_xml: str, title: str = "") -> Project:
    """Take a project in, or update what changed; raises LabelConfigError if it cannot be served."""
    label_config.parse(config_xml)
    with services.store.reading() as tx:
        known = projects.get(tx, project_id)
    if known is None or known.label_config != config_xml:
        for warning in label_config.explain(config_xml).warnings:
            log.warning("label config", project=project_id, warning=warning)
    if known is None:
        return _add(services, project_id, config_xml, title)
    if known.label_config == config_xml and (not title or known.title == title):
        return known
    with services.store.transaction() as tx:
        return projects.update(tx, project_id, label_config=config_xml, title=title or known.title)


def _add(services: Services, project_id: int, config_xml: str, title: str) -> Project:
    settings = services.settings
    fresh = Project(
        id=project_id,
        title=title,
        label_config=config_xml,
        strategy=settings.strategy,
        train_after=settings.train_after,
        quiet_s=settings.quiet_s,
        max_wait_s=settings.max_wait_s,
        rollback=settings.rollback,
        weighting=settings.weighting,
        created_at=services.clock(),
    )
    with services.store.transaction() as tx:
        known = projects.get(tx, project_id)
        if known is None:
            projects.add(tx, fresh)
    return known or fresh


def require(services: Services, project_id: int) -> Project:
    """Return a known project; raises UnknownThing with the way to connect it."""
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
    if project is None:
        raise UnknownThing(
            f"project {project_id} is not connected; "
            f"run `labelclimb connect --project {project_id}`"
        )
    return project


def shown_version(project: Project) -> str:
    """Return the version name that Label Studio is to believe in."""
    return project.published or UNTRAINED


def version_names(services: Services) -> list[str]:
    """Return the names of all versions of all projects, newest first, without repetition."""
    with services.store.reading() as tx:
        found = [v for p in projects.all(tx) for v in versions.list(tx, p.id)]
    newest_first = sorted(found, key=lambda v: v.created_at, reverse=True)
    return list(dict.fromkeys(version.name for version in newest_first))


def job(services: Services, job_id: str) -> Job:
    """Return a job; raises UnknownThing."""
    with services.store.reading() as tx:
        found = jobs.get(tx, job_id)
    if found is None:
        raise UnknownThing(f"no job {job_id!r}; `labelclimb status` lists the latest ones")
    return found


def choose_strategy(
    services: Services,
    project_id: int,
    name: str | None = None,
    options: Mapping[str, float | str] | None = None,
) -> Project:
    """Change a project's strategy and have its queue ordered anew, without predicting again.

    name None: the strategy stays; options None: all by default. What the strategy does not know
    raises InvalidPayload with what it does, a strategy that cannot be used too.
    """
    name = name or require(services, project_id).strategy
    if name not in strategies.base.names():
        known = ", ".join(strategies.base.names())
        raise UnknownThing(f"no strategy {name!r}; choose one of {known}")
    try:
        strategies.base.complete(strategies.base.get(name), options or {})
    except ValueError as error:
        raise InvalidPayload(f"strategy {name}: {error}") from error
    change(services, project_id, strategy=name, strategy_options=dict(options or {}))
    return rerank(services, project_id)


def choose_weighting(services: Services, project_id: int, name: str) -> Project:
    """Change which finished tasks trainings look at more often, from the next training on."""
    if name not in WEIGHTINGS:
        raise InvalidPayload(f"weighting is {name!r}; give one of {', '.join(WEIGHTINGS)}")
    return change(services, project_id, weighting=name)


def change(services: Services, project_id: int, **changes: Any) -> Project:
    """Change a project's settings."""
    require(services, project_id)
    with services.store.transaction() as tx:
        return projects.update(tx, project_id, **changes)


def rerank(services: Services, project_id: int) -> Project:
    """Have the queue ordered anew and published."""
    require(services, project_id)
    with services.store.transaction() as tx:
        project = want_order(tx, project_id)
    queues.publish(services, project_id)
    return project


def forget_problems(services: Services, project_id: int) -> None:
    """Have images that could not be read tried again, as somebody may have mended them."""
    require(services, project_id)
    with services.store.transaction() as tx:
        for task in tasks.all(tx, project_id):
            if task.problem is not None:
                tasks.set_problem(tx, project_id, task.id, None)


def want_order(tx: Connection, project_id: int) -> Project:
    """Count one more request for a new order."""
    wanted = projects.get(tx, project_id)
    if wanted is None:
        raise UnknownThing(f"project {project_id} is not connected")
    return projects.update(tx, project_id, order_wanted=wanted.order_wanted + 1)


def activate(services: Services, project_id: int, number: int) -> Version:
    """Make a stored version the champion and publish the proposals that it has made already."""
    require(services, project_id)
    with services.store.reading() as tx:
        version = versions.get(tx, project_id, number)
        if version is None:
            known = ", ".join(v.name for v in versions.list(tx, project_id)) or "none"
            raise UnknownThing(f"project {project_id} has no version v{number}; it has {known}")
    if version.damage:
        raise CorruptVersion(
            f"{version.name} is damaged and never used again ({version.damage}); activate another"
        )
    services.registry.folder(project_id, number)  # refuses a damaged one
    with services.store.transaction() as tx:
        promote(tx, project_id, number, how="activated", at=services.clock())
    queues.publish(services, project_id)
    return version


def rollback(
    services: Services,
    project_id: int,
    *,
    leave: int | None = None,
    reason: str = "somebody asked for it",
) -> Version:
    """Go back to the former champion, which is activated.

    leave: the version to go back from; if another one is in use by now, nothing happens and
    InvalidPayload is raised, so that two who ask at once do not go back twice. Raises UnknownThing
    when there is no former champion, CorruptVersion when its files are damaged.
    """
    present = require(services, project_id).champion
    if leave is not None and leave != present:
        shown = "none" if present is None else f"v{present}"
        raise InvalidPayload(f"v{leave} is not in use any more ({shown} is): nothing was changed")
    with services.store.reading() as tx:
        target = former_champion(tx, project_id)
    if target is None:
        raise UnknownThing(
            f"project {project_id} has no former champion to go back to; "
            f"`labelclimb versions --project {project_id}` lists what can be activated"
        )
    services.registry.folder(project_id, target.number)
    with services.store.transaction() as tx:
        now = projects.get(tx, project_id)
        if now is None or now.champion != present:
            raise InvalidPayload(f"v{present} was replaced this very moment: nothing was changed")
        promote(tx, project_id, target.number, how="rolled back", at=services.clock(), why=reason)
    log.warning("rolled back", project=project_id, from_=present, to=target.name, reason=reason)
    queues.publish(services, project_id)
    return target


def former_champion(tx: Connection, project_id: int) -> Version | None:
    """Return the version that a rollback would go back to."""
    unusable = [v.number for v in versions.list(tx, project_id) if v.state in versions.UNUSABLE]
    number = succession.former(reigns.list(tx, project_id), unusable)
    return None if number is None else versions.get(tx, project_id, number)


def promote(
    tx: Connection,
    project_id: int,
    number: int,
    *,
    how: ReignStart = "promoted",
    at: datetime | None = None,
    why: str = "",
) -> None:
    """Move the champion pointer and note it; the former champion retires and stays available.

    at: None = when the version was made.
    """
    former, version = versions.champion(tx, project_id), versions.get(tx, project_id, number)
    if former is not None and former.number != number:
        versions.set_state(tx, project_id, former.number, "retired")
    versions.set_state(tx, project_id, number, "champion")
    projects.update(tx, project_id, champion=number)
    if version is not None and (former is None or former.number != number):
        left = None if former is None else former.number
        reigns.add(tx, Reign(project_id, number, left, at or version.created_at, how, why))


def forget_published(services: Services, project_id: int) -> None:
    """Note that Label Studio holds no predictions of ours; the next publication pushes them."""
    with services.store.transaction() as tx:
        for name in publishing.names(tx, project_id):
            publishing.forget(tx, project_id, name)
        projects.update(tx, project_id, published=None, pushing=None)


def free_number(services: Services, project_id: int) -> int:
    """Take the next number, and note that its files are being written.

    After a restored backup, files of higher ones may be there already: they are left alone.
    """
    while True:
        with services.store.transaction() as tx:
            number = versions.next_number(tx, project_id)
        if not services.registry.exists(project_id, number):
            with services.store.transaction() as tx:
                unrecorded.begin(tx, project_id, number)
            return number
