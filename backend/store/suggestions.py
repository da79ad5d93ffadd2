"""Regions that answered a person's clicks: kept under their ids, but no proposals of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from backend.records import ProposedRegion
from backend.store import proposals, statements
from backend.store.schema import proposed_regions


def mint(tx: Connection, regions: Sequence[ProposedRegion]) -> list[ProposedRegion]:
    """Keep regions of one task and version, and return them under ids that nothing else ever has.

    `proposals.by_region_ids` finds them, as an accepted one comes back under its id;
    `proposals.of_task` does not: they were never shown to everybody.
    """
    if not regions:
        return []
    number, task = regions[0].number, regions[0].task
    first = proposals.next_index(tx, number, task)
    named = [
        replace(region, region_id=f"v{number}-{task}-{n}")
        for n, region in enumerate(regions, start=first)
    ]
    rows = [{**statements.values(region), "linked": False} for region in named]
    tx.execute(proposed_regions.insert(), rows)
    return named
