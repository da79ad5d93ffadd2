"""Numbers of versions whose files are being written; a writer that is killed leaves some behind."""

from __future__ import annotations

from sqlalchemy import Connection, select

from backend.errors import JobOver
from backend.store.schema import unrecorded_versions as table


def begin(tx: Connection, project: int, number: int) -> None:
    """Note, before there is any file, that a version is being written."""
    tx.execute(table.insert().values(project=project, number=number, given_up=False))


def end(tx: Connection, project: int, number: int) -> None:
    """Note that a version gets its record; raises JobOver when its files were given up."""
    own = table.delete().where(table.c.project == project, table.c.number == number)
    if not tx.execute(own.where(table.c.given_up.is_(False))).rowcount:
        raise JobOver(
            f"version v{number} of project {project} came too late: its files were given "
            "up meanwhile, as no training was at work; a training that is still wanted begins "
            "again by itself, a copy may be asked for again"
        )


def give_up(tx: Connection, project: int) -> None:
    """Forbid that what is being written is recorded: whoever tries is refused by `end`."""
    tx.execute(table.update().where(table.c.project == project).values(given_up=True))


def given_up(tx: Connection, project: int) -> set[int]:
    """Return the numbers that will never have a record, whether files of them are there or not."""
    left = select(table.c.number).where(table.c.project == project, table.c.given_up)
    return set(tx.scalars(left))
