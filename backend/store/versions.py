"""Versions: rows are written once, only state and gate change; a pointer names the champion."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Text, cast, select

from backend.errors import UnknownThing
from backend.records import Version, VersionState
from backend.store import statements
from backend.store.schema import (
    annotation_states,
    interactions,
    projects,
    version_numbers,
    versions,
)

PRUNED: VersionState = "pruned"
DAMAGED: VersionState = "damaged"
UNUSABLE = (PRUNED, DAMAGED)  # no version comes back from there


def add(tx: Connection, version: Version) -> None:
    """Add a version; raises IntegrityError when its number is taken."""
    row = {
        **statements.values(version),
        "classes": [*version.classes],
        "metrics": dict(version.metrics),
        "gate": dict(version.gate),
    }
    tx.execute(versions.insert(), row)


def get(tx: Connection, project: int, number: int) -> Version | None:
    """Return a version."""
    found = select(versions).where(versions.c.project == project, versions.c.number == number)
    row = tx.execute(found).one_or_none()
    return None if row is None else _record(row)


def list(tx: Connection, project: int) -> builtins.list[Version]:
    """Return a project's versions, newest first."""
    found = select(versions).where(versions.c.project == project)
    return [_record(row) for row in tx.execute(found.order_by(versions.c.number.desc()))]


def set_state(
    tx: Connection,
    project: int,
    number: int,
    state: VersionState,
    gate: Mapping[str, Any] | None = None,
) -> None:
    """Change a version's state, and its gate decision when given.

    Raises UnknownThing, also for a version whose files were pruned or damaged: it cannot come back.
    """
    decision = {} if gate is None else {"gate": dict(gate)}
    chosen = versions.update().where(versions.c.project == project, versions.c.number == number)
    able = chosen.where(versions.c.state.not_in((PRUNED,) if state == PRUNED else UNUSABLE))
    if not tx.execute(able.values(state=state, **decision)).rowcount:
        raise UnknownThing(
            f"project {project} has no version v{number}, or its files were pruned or damaged"
        )


def condemn(tx: Connection, project: int, number: int, why: str) -> None:
    """Note for ever that a version's files are damaged; the first reason stays."""
    version = get(tx, project, number)
    if version is not None and version.state not in UNUSABLE:
        set_state(tx, project, number, DAMAGED, {**version.gate, "damage": why})


def next_number(tx: Connection, project: int) -> int:
    """Take the next number of a project, from 1; a number is given once, used or not."""
    statement = statements.insert(tx, version_numbers).values(project=project, last=1)
    taken = statement.on_conflict_do_update(
        index_elements=[version_numbers.c.project], set_={"last": version_numbers.c.last + 1}
    )
    return int(tx.execute(taken.returning(version_numbers.c.last)).scalar_one())


def referred(tx: Connection, project: int, numbers: Collection[int]) -> set[int]:
    """Return which of some versions an annotation holds a region of, or an interaction names."""
    told = select(interactions.c.version).where(interactions.c.project == project).distinct()
    named = set(tx.scalars(told)) & set(numbers)
    return named | {n for n in numbers if n not in named and _is_held(tx, project, n)}


def _is_held(tx: Connection, project: int, number: int) -> bool:
    """Look for an annotation with a region of a version, by the beginning of its id."""
    table = annotation_states
    held = select(table.c.id).where(
        table.c.project == project,
        table.c.deleted.is_(False),
        cast(table.c.result, Text).contains(f'"v{number}-'),
    )
    return tx.execute(held.limit(1)).first() is not None


def champion(tx: Connection, project: int) -> Version | None:
    """Return the version that the project's pointer names."""
    number = tx.execute(select(projects.c.champion).where(projects.c.id == project)).scalar()
    return None if number is None else get(tx, project, number)


def _record(row: Any) -> Version:
    return statements.record(Version, row, classes=tuple(row.classes))
