"""Finished tasks whose annotation deserves a second look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

import strategies.base
from backend.loop.ordering import pooling
from backend.records import Interaction, TaskEvidence
from strategies.reading.fields import window_probs
from strategies.reading.windows import largest


@dataclass(frozen=True)
class Suspect:
    """An annotated task; suspicion: in [-1, 1], above 0 = contradicted more than is usual."""

    task: int
    suspicion: float
    reason: str


def suspects(
    past: Sequence[Interaction], past_evidence: Sequence[TaskEvidence], *, seed: int
) -> list[Suspect]:
    """Return the tasks whose annotation contradicts what was predicted before it, worst first.

    Judged by the evidence of the newest version that was on screen; tasks without are left out.
    """
    newest = {found.task: found for found in sorted(past_evidence, key=lambda e: e.number)}
    answers = {(one.task, one.class_name): one for one in past}  # the newest one of each
    seen = [newest[t] for t in sorted({one.task for one in past} & newest.keys())]
    seen = [found for found in seen if found.tile_probs]
    if not seen:
        return []
    classes = pooling.classes_of(seen)
    given = [[answers.get((found.task, name)) for name in classes] for found in seen]
    pool = replace(
        pooling.of_evidence(seen, {found.task: 1.0 for found in seen}),
        annotated=np.array([[float(_present(one)) for one in row] for row in given]),
        overlap=np.array([[1.0 if one is None else one.iou for one in row] for row in given]),
    )
    review = strategies.base.get("review")
    found = strategies.base.utilities(review, pool, np.random.default_rng(seed))
    suspicion = dict(zip(pool.ids.tolist(), found.tolist(), strict=True))
    probs = largest(*window_probs(pool))
    why = {
        one.task: _reason(row, classes, p.tolist())
        for one, row, p in zip(seen, given, probs, strict=True)
    }
    order = strategies.base.rank(review, pool, seed).tolist()
    return [Suspect(task, suspicion[task], why[task]) for task in order]


def _present(answer: Interaction | None) -> bool:
    """Say whether people found the class: nothing to say of it means that nothing was there."""
    return answer is not None and answer.outcome != "rejected"


def _reason(row: Sequence[Interaction | None], classes: Sequence[str], probs: list[float]) -> str:
    """Say of each class what people and model say."""
    parts = []
    for answer, name, p in zip(row, classes, probs, strict=True):
        said = "found" if _present(answer) else "not found"
        place = f", overlap with the proposal {answer.iou:.0%}" if answer is not None else ""
        parts.append(f"{name}: {said} by people, probability {p:.0%}{place}")
    return "; ".join(parts)
