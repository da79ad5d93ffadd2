"""What each version proposed for each task; written once, region ids are kept for ever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, select

from backend.records import ProposedRegion, TaskEvidence
from backend.store import statements
from backend.store.schema import proposals, proposed_regions, tasks


def save(
    tx: Connection,
    project: int,
    task: int,
    number: int,
    regions: Sequence[ProposedRegion],
    evidence: TaskEvidence,
) -> bool:
    """Keep a version's proposals for a task; False, and nothing written, when it has some."""
    row = {"project": project, "task": task, "number": number, "evidence": _json(evidence)}
    statement = statements.insert(tx, proposals).values(row).on_conflict_do_nothing()
    if tx.execute(statement.returning(proposals.c.task)).one_or_none() is None:
        return False
    if regions:
        tx.execute(proposed_regions.insert(), [statements.values(region) for region in regions])
    return True


def by_region_ids(tx: Connection, ids: Iterable[str]) -> dict[str, ProposedRegion]:
    """Return the regions that we ever minted under these ids; unknown ids are left out."""
    found: dict[str, ProposedRegion] = {}
    for chunk in statements.chunks(ids):
        chosen = select(proposed_regions).where(proposed_regions.c.region_id.in_(chunk))
        for row in tx.execute(chosen):
            found[row.region_id] = statements.record(ProposedRegion, row)
    return found


def of_task(tx: Connection, project: int, task: int, number: int) -> list[ProposedRegion]:
    """Return the regions that a version proposed for a task, in the order of their minting."""
    regions = proposed_regions.c
    chosen = select(proposed_regions).where(
        regions.task == task,
        regions.number == number,
        regions.project == project,
        regions.linked.is_(True),
    )
    found = [statements.record(ProposedRegion, row) for row in tx.execute(chosen)]
    return sorted(found, key=lambda region: _index(region.region_id))


def evidence(tx: Connection, project: int, number: int) -> dict[int, TaskEvidence]:
    """Return {task: evidence} of all tasks that a version has seen."""
    chosen = select(proposals).where(proposals.c.project == project, proposals.c.number == number)
    return {row.task: _evidence(row) for row in tx.execute(chosen.order_by(proposals.c.task))}


def tasks_done(tx: Connection, project: int, number: int) -> set[int]:
    """Return the tasks that have a version's proposals, be they none."""
    chosen = select(proposals.c.task).where(
        proposals.c.project == project, proposals.c.number == number
    )
    return set(tx.scalars(chosen))


def next_index(tx: Connection, number: int, task: int) -> int:
    """Return the first free n of region ids "v<number>-<task>-<n>", from 1.

    Projects and former tasks of the same id count too, so that no id is ever given twice; use it
    and `save` in one transaction.
    """
    tx.execute(select(tasks.c.id).where(tasks.c.id == task).with_for_update())
    regions = proposed_regions.c
    taken = tx.scalars(
        select(regions.region_id).where(regions.task == task, regions.number == number)
    )
    return max((_index(id) for id in taken), default=0) + 1


def _index(region_id: str) -> int:
    return int(region_id.rsplit("-", 1)[1])


def _json(evidence: TaskEvidence) -> dict[str, Any]:
    return {
        "classes": list(evidence.classes),
        "tile_probs": [list(row) for row in evidence.tile_probs],
        "embedding": list(evidence.embedding),
        "stats": {name: dict(stats) for name, stats in evidence.stats.items()},
    }


def _evidence(row: Any) -> TaskEvidence:
    kept = row.evidence
    return TaskEvidence(
        project=row.project,
        task=row.task,
        number=row.number,
        classes=tuple(kept["classes"]),
        tile_probs=tuple(tuple(probs) for probs in kept["tile_probs"]),
        embedding=tuple(kept["embedding"]),
        stats=kept["stats"],
    )
