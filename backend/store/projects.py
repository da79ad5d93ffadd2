"""Projects and their settings."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from backend.errors import UnknownThing
from backend.records import Project
from backend.store import statements
from backend.store.schema import projects


def get(tx: Connection, id: int) -> Project | None:
    """Return a project."""
    row = tx.execute(select(projects).where(projects.c.id == id)).one_or_none()
    return None if row is None else statements.record(Project, row)


def all(tx: Connection) -> list[Project]:
    """Return all projects by id."""
    rows = tx.execute(select(projects).order_by(projects.c.id))
    return [statements.record(Project, row) for row in rows]


def add(tx: Connection, project: Project) -> None:
    """Add a project that is not yet known."""
    tx.execute(projects.insert(), statements.values(project))


def update(tx: Connection, id: int, **changes: Any) -> Project:
    """Change fields of a project and return it; raises UnknownThing."""
    if changes:
        tx.execute(projects.update().where(projects.c.id == id).values(**changes))
    project = get(tx, id)
    if project is None:
        known = [p.id for p in all(tx)]
        raise UnknownThing(f"no project {id} here; connected are {known or 'none'}")
    return project
