"""The demo's rounds as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from backend.demo.rounds import Quality, Round, quality_of

OUTCOMES = ("accepted", "modified", "rejected", "missed")


def of(played: Sequence[Round], *, header: bool) -> Table:
    """One row per round; F1 over the tasks that nobody had annotated when the round began."""
    table = Table(show_header=header, box=None, pad_edge=False)
    for name, width in _columns():
        table.add_column(name, width=width, justify="right")
    for row in played:
        counts = "/".join(str(row.outcomes.get(name, 0)) for name in OUTCOMES)
        table.add_row(
            row.version,
            counts,
            f"{row.quality.strict:.3f}",
            f"{row.quality.tolerant:.3f}",
            f"{row.edit_seconds:.0f}",
            f"{row.scratch_seconds:.0f}",
            f"{row.trained} {'promoted' if row.promoted else 'kept back'}",
            row.published,
        )
    return table


def _columns() -> list[tuple[str, int]]:
    return [
        ("version", 8),
        ("acc/mod/rej/missed", 18),
        ("F1", 6),
        ("F1 2px", 6),
        ("edit s (simulated)", 18),
        ("from scratch (sim.)", 19),
        ("trained", 13),
        ("shows", 6),
    ]


def closing(played: Sequence[Round], final: Quality) -> str:
    """Say what the last version does on the tasks that nobody ever annotated, first to last."""
    same = _same_tasks(played, final)
    edit = sum(row.edit_seconds for row in played)
    scratch = sum(row.scratch_seconds for row in played)
    saved = 1 - edit / scratch if scratch else 0.0
    return (
        f"on the {len(final.by_task)} tasks that nobody annotated, mean 2-px F1 went "
        f"{' -> '.join(f'{value:.3f}' for value in same)}; "
        f"simulated editing {edit:.0f} s against {scratch:.0f} s from scratch "
        f"({saved:.0%} less, simulated)"
    )


def _same_tasks(played: Sequence[Round], final: Quality) -> list[float]:
    """Mean 2-px F1 of each version over one set of tasks: those still open at the end."""
    kept = set(final.by_task)
    stages = [row.quality for row in played] + [final]
    return [
        quality_of({t: s for t, s in stage.by_task.items() if t in kept}).tolerant
        for stage in stages
    ]


def as_json(played: Sequence[Round], final: Quality, seed: int) -> dict[str, Any]:
    """Return the rounds and the closing measurement; NaN becomes null."""
    same = _same_tasks(played, final)
    return {
        "seed": seed,
        "seconds_are": "simulated by the cost model of backend.demo.annotator",
        "rounds": [
            {
                "version": row.version,
                "outcomes": {name: row.outcomes.get(name, 0) for name in OUTCOMES},
                "tasks_annotated": row.tasks,
                "tasks_measured": len(row.quality.by_task),
                "f1_strict": _number(row.quality.strict),
                "f1_2px": _number(row.quality.tolerant),
                "f1_2px_same_tasks": _number(value),
                "edit_seconds": row.edit_seconds,
                "scratch_seconds": row.scratch_seconds,
                "trained": row.trained,
                "gate": row.gate,
                "promoted": row.promoted,
                "published": row.published,
                "order_changed": row.order_changed,
                "went_round": row.went_round,
            }
            for row, value in zip(played, same, strict=False)
        ],
        "final": {
            "tasks_measured": len(final.by_task),
            "f1_strict": _number(final.strict),
            "f1_2px": _number(final.tolerant),
            "f1_2px_same_tasks": _number(same[-1]),
        },
    }


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
