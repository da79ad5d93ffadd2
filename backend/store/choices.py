"""Which strategy has ordered a project's queue since when: the autopilot's audit and memory."""

from __future__ import annotations

import builtins

from sqlalchemy import Connection, select

from backend.records import StrategyChoice
from backend.store import statements
from backend.store.schema import strategy_choices


def note(tx: Connection, choice: StrategyChoice) -> bool:
    """Keep a choice; False, and nothing written, when the project's last one was the same."""
    known = list(tx, choice.project)
    if known and (known[-1].strategy, known[-1].acting) == (choice.strategy, choice.acting):
        return False
    tx.execute(strategy_choices.insert(), statements.values(choice))
    return True


def list(tx: Connection, project: int) -> builtins.list[StrategyChoice]:
    """Return a project's choices in the order in which they were made."""
    table = strategy_choices
    found = select(table).where(table.c.project == project).order_by(table.c.id)
    return [statements.record(StrategyChoice, row) for row in tx.execute(found)]
