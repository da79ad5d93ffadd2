"""Why a task is where it is in the order, in one sentence that people understand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backend.loop.difficulty import Difficulty
from backend.loop.ordering import describing
from backend.records import TaskEvidence
from strategies.base import Strategy

UNSEEN = "no version has looked at it: it comes last"


def of(
    order: Sequence[int],
    evidence: Mapping[int, TaskEvidence],
    predicted: Difficulty,
    strategy: Strategy,
) -> dict[int, str]:
    """Return {task: sentence}: what the strategy saw in it, its uncertain tiles, its seconds."""
    clause: str = getattr(strategy, "because", "")
    return {
        task: _sentence(clause, evidence[task], predicted) if task in predicted.seconds else UNSEEN
        for task in order
    }


def duration(seconds: float) -> str:
    """Say seconds as people do: "40 s", "12 min", "3 h"; short ones to about a tenth."""
    if seconds < 120:
        step = 1 if seconds < 20 else 5
        return f"{max(1, step * round(seconds / step))} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _sentence(clause: str, found: TaskEvidence, predicted: Difficulty) -> str:
    low, high = (duration(end) for end in predicted.intervals[found.task])
    about = f"about {duration(predicted.seconds[found.task])} of editing ({low} to {high})"
    return ", ".join(filter(None, (clause, _uncertainty(found), about)))


def _uncertainty(found: TaskEvidence) -> str:
    uncertain, tiles = describing.uncertain_windows(found), len(found.tile_probs)
    if not uncertain:
        return f"sure at all of {tiles} tiles" if tiles > 1 else "sure at its one tile"
    return f"uncertain at {uncertain} of {tiles} tiles"
