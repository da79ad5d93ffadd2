"""How the comparison with Label Studio stands: what was compared, when, and what is due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from backend.store import statements
from backend.store.schema import inventory, reconciliations


@dataclass(frozen=True)
class Reconciliation:
    """A project's reconciler; all times but `config_at` by our clock.

    config_at: Label Studio's time of the label config in use; wanted_at: something happened that
    only a comparison explains; tried_at: when the last one began, begun_at, done_at: the last one
    that succeeded; full_at: the last one over all tasks; gone_at: Label Studio no longer has the
    project; error: why the last comparison failed; recovered: tasks, annotations and deletions
    whose webhooks never came.
    """

    project: int
    config_at: datetime | None = None
    wanted_at: datetime | None = None
    tried_at: datetime | None = None
    begun_at: datetime | None = None
    done_at: datetime | None = None
    full_at: datetime | None = None
    gone_at: datetime | None = None
    error: str | None = None
    recovered: int = 0

    @property
    def due(self) -> bool:
        """Say whether somebody asked for a comparison that has not been made since."""
        asked, begun = self.wanted_at, self.begun_at
        return asked is not None and (begun is None or begun <= asked)


def get(tx: Connection, project: int) -> Reconciliation:
    """Return how a project stands; one that was never compared has nothing but its number."""
    found = select(reconciliations).where(reconciliations.c.project == project)
    row = tx.execute(found).one_or_none()
    return Reconciliation(project) if row is None else statements.record(Reconciliation, row)


def note(tx: Connection, project: int, **changes: Any) -> None:
    """Change fields of a project's reconciliation."""
    row = {"recovered": 0, **changes, "project": project}
    statement = statements.insert(tx, reconciliations).values(row)
    keys = [reconciliations.c.project]
    tx.execute(statement.on_conflict_do_update(index_elements=keys, set_=changes))


def want(tx: Connection, projects: Iterable[int], at: datetime) -> None:
    """Ask for a comparison of projects."""
    for project in projects:
        note(tx, project, wanted_at=at)


def compared(tx: Connection, project: int) -> dict[int, datetime]:
    """Return {task: its `updated_at` in Label Studio when its annotations were last compared}."""
    found = select(inventory.c.task, inventory.c.updated_at).where(inventory.c.project == project)
    return {row.task: row.updated_at for row in tx.execute(found)}


def note_compared(tx: Connection, project: int, seen: Mapping[int, datetime]) -> None:
    """Note which state of tasks was compared."""
    rows = [{"project": project, "task": t, "updated_at": at} for t, at in sorted(seen.items())]
    for chunk in statements.chunks(rows):
        statements.upsert(tx, inventory, chunk)


def forget_compared(tx: Connection, project: int, tasks: Iterable[int]) -> None:
    """Forget tasks that are gone, or have all compared anew."""
    for chunk in statements.chunks(tasks):
        chosen = (inventory.c.project == project) & inventory.c.task.in_(chunk)
        tx.execute(inventory.delete().where(chosen))
