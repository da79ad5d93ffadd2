"""The demo's rounds as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backend.demo.rounds import Quality, Round, quality_of

OUTCOMES = ("accepted", "modified", "rejected", "missed")


COLUMNS = (
    f"{'version':8} {'accepted/modified/rejected/missed':>33} {'F1':>6} {'F1 2px':>7} "
    f"{'edit s*':>8} {'scratch s*':>10}  {'then':<16} {'shown':8} {'order':9}"
)
FOOTNOTE = (
    "F1: mean of the version's proposals on the tasks that nobody had annotated when the round "
    "began\n* seconds are simulated, by the cost model of backend/demo/annotator.py"
)


def line(row: Round) -> str:
    """Return one round as a line below COLUMNS."""
    counts = "/".join(str(row.outcomes.get(name, 0)) for name in OUTCOMES)
    then = f"{row.trained} {'promoted' if row.promoted else 'kept back'}"
    order = "changed" if row.order_changed else "unchanged"
    return (
        f"{row.version:8} {counts:>33} {row.quality.strict:6.3f} {row.quality.tolerant:7.3f} "
        f"{row.edit_seconds:8.0f} {row.scratch_seconds:10.0f}  {then:<16} "
        f"{row.published:8} {order:9}"
    )


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
