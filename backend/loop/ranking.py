"""The order of a project's open tasks: evidence in, priorities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import strategies.base
from backend.loop import difficulty
from backend.records import Interaction, TaskEvidence
from strategies.base import FloatArray, IntArray, Pool


@dataclass(frozen=True)
class Ranking:
    """An order of tasks, most urgent first.

    priorities: {task: in [0, 1]}, larger = sooner. strategy: the one that made the order.
    note: why that is not the one asked for, "" when it is. edit_seconds: {task: predicted seconds}
    of the tasks with evidence; basis: what that prediction rests on.
    """

    order: tuple[int, ...]
    priorities: Mapping[int, float]
    strategy: str
    note: str
    edit_seconds: Mapping[int, float]
    basis: str


def rank(
    tasks: Sequence[int],
    evidence: Mapping[int, TaskEvidence],
    past: Sequence[Interaction],
    *,
    strategy: str,
    seed: int,
    past_evidence: Sequence[TaskEvidence] = (),
) -> Ranking:
    """Rank tasks; those without evidence (their image has a problem) come last.

    past_evidence: of the tasks of `past`, from the versions whose proposals were corrected.
    Raises ValueError for an unknown strategy and for evidence that is not finite.
    """
    chosen = strategies.base.get(strategy)
    seen = [evidence[task] for task in sorted(tasks) if task in evidence]
    seen = [found for found in seen if found.tile_probs]
    predicted = difficulty.predict(seen, past, past_evidence)
    pool = pool_of(seen, predicted.seconds)
    note, used = _fall_back(strategy, strategies.base.missing(chosen, pool))
    ranked = strategies.base.rank(strategies.base.get(used), pool, seed).tolist()
    order = (*ranked, *_last(tasks, ranked, seed))
    priorities = strategies.base.priorities(order)
    return Ranking(order, priorities, used, note, predicted.seconds, predicted.basis)


def pool_of(evidence: Sequence[TaskEvidence], edit_seconds: Mapping[int, float]) -> Pool:
    """Return the pool of these tasks, in their order; each must have at least one window.

    Classes that a task was not asked for count as certainly absent. Without any task there is no
    evidence at all: every field but `ids` is None.
    """
    ids: IntArray = np.array([found.task for found in evidence], dtype=np.int64)
    if not evidence:
        return Pool(ids)
    classes = sorted({name for found in evidence for name in found.classes})
    counts = [len(found.tile_probs) for found in evidence]
    return Pool(
        ids,
        tile_probs=np.concatenate([_probs(found, classes) for found in evidence]),
        tile_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        edit_seconds=np.array([edit_seconds[found.task] for found in evidence]),
        embeddings=_embeddings(evidence),
    )


def _probs(found: TaskEvidence, classes: Sequence[str]) -> FloatArray:
    own: FloatArray = np.asarray(found.tile_probs, dtype=np.float64)
    probs = np.zeros((len(own), len(classes)))
    probs[:, [classes.index(name) for name in found.classes]] = own
    return probs


def _embeddings(evidence: Sequence[TaskEvidence]) -> FloatArray | None:
    widths = {len(found.embedding) for found in evidence}
    if len(widths) != 1 or widths == {0}:
        return None
    return np.array([found.embedding for found in evidence], dtype=np.float64)


def _fall_back(strategy: str, absent: Sequence[str]) -> tuple[str, str]:
    """Return (note, strategy to use)."""
    if not absent:
        return "", strategy
    return f"random order: {strategy} needs {', '.join(absent)}, not computed yet", "random_order"


def _last(tasks: Sequence[int], ranked: Sequence[int], seed: int) -> list[int]:
    """Return the tasks that no version could look at, in an order that stays."""
    left = np.array(sorted(set(tasks) - set(ranked)), dtype=np.int64)
    order = strategies.base.rank(strategies.base.get("random_order"), Pool(left), seed)
    return [int(task) for task in order]
