"""Follow how annotators take a newly promoted version; a fall proposes a rollback, or does it."""

from __future__ import annotations

import structlog
from sqlalchemy import Connection

from backend.errors import InvalidPayload
from backend.loop import gate
from backend.loop import watch as rule
from backend.loop.watch import Watch
from backend.records import Project, Reign
from backend.steps import damage
from backend.steps import projects as project_steps
from backend.steps.training import taught
from backend.store import learning, projects, reigns, tasks
from backend.wiring import Services

OVER = ("held", "fallen")

log = structlog.get_logger(__name__)


def look(services: Services, project_id: int) -> None:
    """Look at the annotations since the last look, if there are any, and act on a fall.

    A version that somebody activated by hand is not watched, nor one that was gone back to.
    """
    with services.store.reading() as tx:
        project, reign = projects.get(tx, project_id), reigns.newest(tx, project_id)
        if project is None or reign is None or not _is_watched(project, reign):
            return
        seen = reigns.seen(tx, project_id, reign.number)
    if reign.watch.get("state") not in OVER and seen != reign.seen:
        reign = _looked(services, reign, seen)
    if reign.watch.get("state") == "fallen" and project.rollback == "auto":
        _go_back(services, reign)


def proposed(tx: Connection, project: Project, reign: Reign | None) -> str | None:
    """Name the version that it is proposed to go back to, as the present one has fallen."""
    if reign is None or reign.watch.get("state") != "fallen" or not _is_watched(project, reign):
        return None
    former = project_steps.former_champion(tx, project.id)
    return former.name if former else None


def _is_watched(project: Project, reign: Reign) -> bool:
    is_new = reign.how == "promoted" and reign.former is not None
    return project.rollback != "off" and is_new and reign.number == project.champion


def _looked(services: Services, reign: Reign, seen: int) -> Reign:
    found = _found(services, reign)
    with services.store.transaction() as tx:
        if not reigns.note(tx, reign.project, reign.number, seen, found.as_json()):
            return reign
        now = reigns.newest(tx, reign.project)
    if found.state == "fallen":
        log.warning(
            "a new version is taken less than the former one",
            project=reign.project,
            version=reign.number,
            found=found.sentence,
            fix=f"labelclimb rollback --project {reign.project}",
        )
    return now or reign


def _found(services: Services, reign: Reign) -> Watch:
    """Test all annotations of both versions, as they are believed now.

    Left out are those made in bulk, which nobody looked at, and the tasks that the gate judges by:
    the version was chosen for doing well there.
    """
    with services.store.reading() as tx:
        past = taught.past(tx, reign.project, services.settings)
        bulk = {work.annotation for work in learning.works(tx, reign.project) if work.bulk}
        images = {task.id: task.image for task in tasks.all(tx, reign.project)}
    held_out = {id for id, image in images.items() if gate.is_validation(reign.project, image)}
    fair = [one for one in past if one.task not in held_out]
    before = rule.answers(fair, reign.former or 0, without=bulk)
    return rule.look(before, rule.answers(fair, reign.number, without=bulk))


def _go_back(services: Services, reign: Reign) -> None:
    """Roll back; somebody else may have done so, or there is nothing to go back to any more.

    A damaged version is left for ever, so that the next look goes back further.
    """
    reason = str(reign.watch.get("sentence", ""))
    try:
        project_steps.rollback(services, reign.project, leave=reign.number, reason=reason)
    except InvalidPayload as error:
        log.warning("not rolled back", project=reign.project, reason=str(error))
    except damage.DAMAGE as error:
        log.warning("not rolled back", project=reign.project, reason=str(error))
        with services.store.reading() as tx:
            former = project_steps.former_champion(tx, reign.project)
        if former is not None:
            damage.left(services, reign.project, former.number)
