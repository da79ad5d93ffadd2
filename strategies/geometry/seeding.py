"""k-means++ seeding (Arthur & Vassilvitskii, 2007): centres far from each other, by chance.

Each next centre is drawn with a probability proportional to the squared distance to the nearest
centre. Exact, yet not one pass over all points per centre: distances only shrink, so a point is
drawn by its old distance and accepted with probability (present distance) / (old distance); all
are brought up to date, by one matrix product, when many centres or refusals have come together.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, IntArray
from strategies.geometry.points import Points

PATIENCE = 64  # centres and refusals between two updates


def spread(
    points: Points, first: int, k: int, rng: np.random.Generator
) -> tuple[IntArray, FloatArray]:
    """Return (K,) indices in the order of their choice, and (N,) squared distances afterwards.

    K = k, or fewer where every point coincides with a centre; without points or k none.
    """
    chosen = [first] if len(points) and k > 0 else []
    squared: FloatArray = np.full(len(points), np.inf)
    pending = list(chosen)
    while len(chosen) < min(k, len(points)):
        squared = _updated(points, squared, pending)
        if not squared.any():
            break
        pending = _draw(points, squared, min(k, len(points)) - len(chosen), rng)
        chosen += pending
    return np.array(chosen, dtype=np.int64), _updated(points, squared, pending)


def _updated(points: Points, squared: FloatArray, centres: list[int]) -> FloatArray:
    if not centres:
        return squared
    updated: FloatArray = np.minimum(squared, points.nearest(points.of(np.array(centres)))[1])
    updated[centres] = 0.0
    return updated


def _draw(points: Points, old: FloatArray, k: int, rng: np.random.Generator) -> list[int]:
    """Draw up to k centres by rejection, until PATIENCE acceptances and refusals."""
    cumulated = np.cumsum(old)
    found: list[int] = []
    for _ in range(PATIENCE):
        at = np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right")
        index = min(int(at), len(old) - 1)
        present = old[index]
        if found:
            one, others = points.of(np.array([index])), points.of(np.array(found))
            present = min(present, float(one.squared_distances(others).min()))
        if rng.random() * old[index] < present:
            found.append(index)
        if len(found) == k:
            break
    return found
