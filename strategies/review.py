"""Review: finished tasks whose annotation is probably wrong (confident learning).

After Northcutt et al. (2021): the model is asked with the probabilities that it gave before the
annotation was made. With p the largest window probability of a class, and "usual" the mean over
the tasks with the same answer of the people, a task is suspect by
    p - usual p of the tasks with the class       where people found none,
    usual p - p                                   where people found it,
    p (1 - IoU) - usual p (1 - IoU)               where they found it elsewhere than was proposed;
utility = the largest over classes. Above 0 = the contradiction is larger than usual. Reads window
probabilities, `annotated` and `overlap`, which finished tasks alone have. Use it for a second look
(`labelclimb review`); it orders no open tasks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from strategies.base import FloatArray, Pool
from strategies.reading.fields import annotated, window_probs
from strategies.reading.windows import largest

reads = ("tile_probs", "tile_offsets", "annotated", "overlap")
summary = "Second look: finished images whose annotation the model contradicts with confidence."
depends_on_pool = True

BoolArray = npt.NDArray[np.bool_]


def utilities(pool: Pool, rng: np.random.Generator) -> FloatArray:  # noqa: ARG001 - the protocol
    """Return (N,) utilities in [-1, 1]."""
    if not len(pool):
        return np.empty(0)
    probs, offsets = window_probs(pool)
    found, overlap = annotated(pool, probs.shape[1])
    present = found >= 0.5
    p = largest(probs, offsets)
    away = p * (1 - overlap)
    usual, usually_away = _mean(p, present), _mean(away, present)
    suspicion = np.where(present, np.maximum(usual - p, away - usually_away), p - usual)
    worst: FloatArray = suspicion.max(axis=1)
    return worst


def _mean(values: FloatArray, chosen: BoolArray) -> FloatArray:
    """Return per class the mean of the chosen values; 1/2 where none is chosen. (N, C) -> (C,)"""
    counts = chosen.sum(axis=0)
    sums = np.where(chosen, values, 0).sum(axis=0)
    means: FloatArray = np.divide(sums, counts, where=counts > 0, out=np.full(len(counts), 0.5))
    return means
