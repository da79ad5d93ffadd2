"""A copied project begins with the champion of the one that it was copied from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backend.errors import JobOver, UnknownThing
from backend.records import Version
from backend.registry import OWN_FILES
from backend.steps import projects, queues
from backend.store import unrecorded, versions
from backend.wiring import Services


def copy_champion(services: Services, source_id: int, target_id: int) -> int | None:
    """Make the source's champion the target's first version; None when there is nothing to copy.

    A target that has a champion keeps it. Raises UnknownThing, and JobOver when somebody pruned the
    files before they had their record: then it may be asked for again.
    """
    source, target = (projects.require(services, id) for id in (source_id, target_id))
    if source.champion is None or target.champion is not None:
        return target.champion
    with services.store.reading() as tx:
        original = versions.get(tx, source_id, source.champion)
    if original is None:
        raise UnknownThing(f"version v{source.champion} of project {source_id} has no record")
    folder = services.registry.folder(source_id, source.champion)
    number = projects.free_number(services, target_id)
    services.registry.save(target_id, number, lambda new: _copy_files(folder, new))
    try:
        _record(services, original, target_id, number)
    except JobOver:
        services.registry.remove(target_id, number)
        raise
    queues.publish(services, target_id)
    return number


def _record(services: Services, original: Version, target_id: int, number: int) -> None:
    copy = replace(
        original,
        project=target_id,
        number=number,
        state="challenger",
        snapshot=f"copy of {original.project}/{original.name}",
        created_at=services.clock(),
        gate={"reason": f"copied from project {original.project}, {original.name}"},
    )
    with services.store.transaction() as tx:
        unrecorded.end(tx, target_id, number)
        versions.add(tx, copy)
        projects.promote(tx, target_id, number)


def _copy_files(source: Path, target: Path) -> None:
    """Copy a version's files and folders; what the registry adds, it adds to the copy anew."""

    def ours(folder: str, names: Sequence[str]) -> set[str]:
        return set(names).intersection(OWN_FILES) if Path(folder) == source else set()

    shutil.copytree(source, target, ignore=ours, dirs_exist_ok=True)
