"""Remove the files of versions that nobody can need again, and say what that freed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection

from backend.errors import CorruptVersion, LabelclimbError, UnknownThing
from backend.loop import pruning
from backend.steps import projects as project_steps
from backend.steps.decide import version_number
from backend.store import jobs, projects, unrecorded, versions
from backend.wiring import Services
from models.saving import TRAINING_ONLY

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Pruned:
    """Numbers of the versions whose files were removed, or made fewer, and the bytes freed.

    removed: also those that were never recorded.
    """

    removed: tuple[int, ...]
    slimmed: tuple[int, ...]
    freed_bytes: int


def prune(services: Services, project_id: int, keep: int | None = None) -> Pruned:
    """Prune one project, leaving its newest `keep` versions whole; raises UnknownThing.

    The record of a version stays. Whoever activates it at this moment wins: the state changes
    first, in one transaction, and only from one that may be pruned.

    Files without a record go as well where a training had noted that it writes them (`_given_up`).
    Others stay: after a restored backup they are versions that a newer database knows.
    """
    project_steps.require(services, project_id)
    newest = services.settings.keep_versions if keep is None else keep
    with services.store.reading() as tx:
        old = pruning.old(versions.list(tx, project_id), newest)
        held = versions.referred(tx, project_id, old)  # may read all annotations: it blocks nobody
    with services.store.transaction() as tx:
        chosen = pruning.decide(
            versions.list(tx, project_id), referred=held | _needed(tx, project_id), keep=newest
        )
        for number in chosen.remove:
            versions.set_state(tx, project_id, number, versions.PRUNED)
        gone = {v.number for v in versions.list(tx, project_id) if v.state == versions.PRUNED}
        gone |= _given_up(tx, project_id)
    there = services.registry.list(project_id)
    removed = [number for number in there if number in gone]
    freed = sum(services.registry.remove(project_id, number) for number in removed)
    slimmed = _slim(services, project_id, [n for n in chosen.slim if n in there])
    pruned = Pruned(tuple(removed), tuple(slimmed), freed + sum(slimmed.values()))
    log.info("pruned", project=project_id, **vars(pruned))
    return pruned


def after_training(services: Services, project_id: int) -> None:
    """Prune what a new version has made old; what goes wrong is logged, and done the next time."""
    try:
        prune(services, project_id)
    except LabelclimbError as error:
        log.warning("not pruned", project=project_id, reason=str(error))


def _needed(tx: Connection, project_id: int) -> set[int]:
    """Return the versions in Label Studio, or on their way, and the one to go back to."""
    project = projects.get(tx, project_id)
    names = (project.published, project.pushing) if project else ()
    former = project_steps.former_champion(tx, project_id)
    return {version_number(name) for name in names if name} | ({former.number} if former else set())


def _given_up(tx: Connection, project_id: int) -> set[int]:
    """Return the numbers whose writer was killed between the version's files and its record.

    Nothing is given up while a training of the project is queued, waits or works on any host. One
    whose job was taken for dead may be writing all the same: transactions take turns, so either it
    has made its record before, and its number is none of these, or it finds itself given up when
    it asks for one (`unrecorded.end`), and removes its files. Numbers stay given up for ever: what
    such a process writes later, and leaves as it is killed too, goes the next time.
    """
    if not jobs.running(tx, project_id, "train"):
        unrecorded.give_up(tx, project_id)
    return unrecorded.given_up(tx, project_id)


def _slim(services: Services, project_id: int, numbers: Sequence[int]) -> dict[int, int]:
    """Return the bytes freed by number, where there were any; a damaged version stays as it is."""
    freed = {}
    for number in numbers:
        try:
            freed[number] = services.registry.slim(project_id, number, TRAINING_ONLY)
        except (CorruptVersion, UnknownThing) as error:
            log.warning("not slimmed", project=project_id, version=number, reason=str(error))
    return {number: freed_bytes for number, freed_bytes in freed.items() if freed_bytes}
