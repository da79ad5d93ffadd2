"""A version whose files are damaged or gone: it is left for ever, and a former champion serves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from backend.errors import CorruptVersion, LabelclimbError, StorageError, UnknownThing
from backend.loop import succession
from backend.records import Project, Version
from backend.steps import projects as project_steps
from backend.steps import queues
from backend.store import projects, reigns, versions
from backend.wiring import Services
from models.memory import is_out_of_memory

NEWEST = "newest_at"  # in what a version says of its training: its newest annotation
DAMAGE = (CorruptVersion, UnknownThing)  # what a store that answers says; all else may pass

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Standing:
    """What became of a damaged champion; sentence: "" where the one in use was chosen otherwise.

    lost: no version could take its place, so nothing new is proposed before the next training.
    """

    sentence: str = ""
    lost: bool = False


def left(services: Services, project_id: int, number: int) -> bool:
    """Leave a version that could not be loaded, if its files are damaged indeed.

    They are looked at once more, where they are kept. If they are damaged, this is noted for ever,
    and of a champion the youngest former one that loads takes the place; whoever finds it second
    changes nothing. False when the files are whole by now, or were pruned. Raises what says nothing
    of the files, as a StorageError: then nothing is changed.
    """
    why = _fault(services, project_id, number)
    if why is None:
        return False
    serves = _is_champion(services, project_id, number)
    heir = _heir(services, project_id, number) if serves else None
    with services.store.transaction() as tx:
        now = projects.get(tx, project_id)
        is_champion = now is not None and now.champion == number
        if is_champion and serves:
            _replace(tx, services, project_id, number, heir, why)
        if serves or not is_champion:
            versions.condemn(tx, project_id, number, why)
    if is_champion and not serves:  # somebody activated it this very moment
        return left(services, project_id, number)
    if is_champion:
        to = heir.name if heir else "none"
        log.warning("champion left", project=project_id, from_=number, to=to, reason=why)
        queues.publish(services, project_id)
    return True


def standing(tx: Connection, project: Project) -> Standing:
    """Say what became of a damaged champion, as long as nothing else was chosen since."""
    reign = reigns.newest(tx, project.id)
    if reign is None:
        return Standing()
    if project.champion is not None:
        fell_back = reign.how == "fell back" and reign.number == project.champion
        return Standing(reign.reason if fell_back else "")
    last = versions.get(tx, project.id, reign.number)
    if last is None or not last.damage:
        return Standing()
    sentence = (
        f"{last.name} was left as damaged, and no former version can be used: what is shown stays, "
        f"new tasks get no proposals until the next training ({last.damage})"
    )
    return Standing(sentence, lost=True)


def _fault(services: Services, project_id: int, number: int) -> str | None:
    """Return what is wrong with the files of a version that has a record; None: nothing is."""
    with services.store.reading() as tx:
        version = versions.get(tx, project_id, number)
    if version is None or version.state == versions.PRUNED:
        return None
    if version.damage:
        return version.damage
    try:
        services.registry.folder(project_id, number)
    except DAMAGE as error:
        return str(error).partition("; ")[0]  # without what a person might do about it
    return None


def _is_champion(services: Services, project_id: int, number: int) -> bool:
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
    return project is not None and project.champion == number


def _heir(services: Services, project_id: int, number: int) -> Version | None:
    """Return the youngest former champion that loads; damaged ones on the way are left as well.

    Raises StorageError when a whole one did not load, and no other does: that may be the fault of
    this very process.
    """
    passed, failed = {number}, list[Exception]()
    while True:
        with services.store.reading() as tx:
            unusable = {
                v.number for v in versions.list(tx, project_id) if v.state in versions.UNUSABLE
            }
            found = succession.heir(reigns.list(tx, project_id), passed | unusable)
            version = None if found is None else versions.get(tx, project_id, found)
        if found is None and failed:
            raise StorageError(
                f"v{number} of project {project_id} is damaged, and no former version can be "
                f"loaded here ({type(failed[0]).__name__}: {failed[0]}); see to this worker's "
                "device, or `labelclimb activate` another version"
            ) from failed[0]
        if found is None:
            return None
        if version is not None and _loads(services, version, failed):
            return version
        passed.add(found)


def _loads(services: Services, version: Version, failed: list[Exception]) -> bool:
    """Try to load a version; a whole one that cannot be loaded here is noted with the error."""
    try:
        services.residents.get(version.project, version.number, version.pipeline)
    except DAMAGE as error:
        if left(services, version.project, version.number):
            log.warning("left as damaged", project=version.project, version=version.number)
            return False
        raise error
    except (LabelclimbError, SQLAlchemyError, OSError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        log.exception("cannot be loaded", project=version.project, version=version.number)
        failed.append(error)
        return False
    return True


def _replace(
    tx: Connection,
    services: Services,
    project_id: int,
    number: int,
    heir: Version | None,
    why: str,
) -> None:
    """Move the pointer to the heir; without one, to nothing.

    What was learned since the heir counts as new: a training on the same labels may come again.
    """
    if heir is None:
        projects.update(tx, project_id, champion=None, last_snapshot=None, last_snapshot_at=None)
        return
    reason = f"v{number} was left as damaged: {why}"
    project_steps.promote(
        tx, project_id, heir.number, how="fell back", at=services.clock(), why=reason
    )
    known = heir.metrics.get("start", {}).get(NEWEST)
    newest_at = None if known is None else datetime.fromisoformat(known)
    projects.update(tx, project_id, last_snapshot=heir.snapshot, last_snapshot_at=newest_at)
