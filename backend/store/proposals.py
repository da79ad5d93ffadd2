"""What each version proposed for each task; written once, region ids are kept for ever."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, select

from backend.records import ProposedRegion, TaskEvidence
from backend.store import statements
from backend.store.schema import proposals, proposed_regions, tasks

ROWS_AT_ONCE = 200  # of the database's answer; the evidence of a large image has a megabyte


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
    return of_tasks(tx, project, [task], number)[task]


def of_tasks(
    tx: Connection, project: int, wanted: Sequence[int], number: int
) -> dict[int, list[ProposedRegion]]:
    """Return for each task the regions that a version proposed, in the order of their minting."""
    found: dict[int, list[ProposedRegion]] = {task: [] for task in wanted}
    regions = proposed_regions.c
    for chunk in statements.chunks(found):
        chosen = select(proposed_regions).where(
            regions.task.in_(chunk),
            regions.number == number,
            regions.project == project,
            regions.linked.is_(True),
        )
        for row in tx.execute(chosen):
            found[row.task].append(statements.record(ProposedRegion, row))
    for own in found.values():
        own.sort(key=lambda region: _index(region.region_id))
    return found


def evidence(
    tx: Connection,
    project: int,
    number: int,
    *,
    only: Iterable[int] | None = None,
    embeddings: bool = True,
    samples: bool = True,
) -> dict[int, TaskEvidence]:
    """Return {task: evidence} of the tasks that a version has seen, all or `only` these.

    Without `embeddings`, which are most of the bytes where images are small, and without `samples`
    they are left empty.
    """
    kept = proposals.c.evidence
    wanted = ["classes", "tile_probs", "stats", *(["embedding"] if embeddings else [])]
    wanted += ["passes", "samples"] if samples else []
    columns = [kept[name].label(name) for name in wanted]
    chosen = select(proposals.c.task, *columns).order_by(proposals.c.task)
    chosen = chosen.where(proposals.c.project == project, proposals.c.number == number)
    parts = [chosen]
    if only is not None:
        parts = [chosen.where(proposals.c.task.in_(some)) for some in statements.chunks(only)]
    rows = (row for part in parts for row in tx.execute(part).yield_per(ROWS_AT_ONCE))
    return {row.task: _evidence(project, number, row) for row in rows}


def tasks_done(tx: Connection, project: int, number: int) -> set[int]:
    """Return the tasks that have a version's proposals, be they none."""
    chosen = select(proposals.c.task).where(
        proposals.c.project == project, proposals.c.number == number
    )
    return set(tx.scalars(chosen))


def has(tx: Connection, project: int, number: int, task: int) -> bool:
    """Say whether a task has a version's proposals, be they none."""
    key = (proposals.c.project == project, proposals.c.number == number, proposals.c.task == task)
    return tx.execute(select(proposals.c.task).where(*key)).one_or_none() is not None


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
        "passes": evidence.passes,
        "samples": base64.b64encode(evidence.samples).decode("ascii"),
    }


def _evidence(project: int, number: int, row: Any) -> TaskEvidence:
    return TaskEvidence(
        project=project,
        task=row.task,
        number=number,
        classes=tuple(row.classes),
        tile_probs=tuple(tuple(probs) for probs in row.tile_probs),
        embedding=tuple(getattr(row, "embedding", ())),
        stats=row.stats,
        passes=getattr(row, "passes", None) or 0,
        samples=base64.b64decode(getattr(row, "samples", None) or ""),  # older rows have none
    )
