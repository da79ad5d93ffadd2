"""k-center greedy: again and again the point that is farthest from all centres so far.

Exact, yet not one pass over all points per centre. Distances to the nearest centre only shrink, so
old ones are upper bounds. The ACTIVE points with the largest bounds are kept up to date; while
their maximum is not below any other bound, it is the maximum of all. Otherwise all bounds are
brought up to date by one matrix product over the centres that came since.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, IntArray
from strategies.geometry.points import Points

ACTIVE = 4096


def farthest_first(
    vectors: FloatArray, start: FloatArray, k: int, keys: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Return (K,) indices in the order of their choice, and (N,) squared distances afterwards.

    vectors: (N, D); start: (L, D), centres that exist already; without any the point nearest to
    the mean is the first.
    keys: (N,) break ties, the smallest first. K = k, or fewer where every point coincides with a
    centre. The distances are those to the nearest centre, 0 for the chosen.
    """
    points = Points(vectors)
    search = _Search(points, keys)
    if len(start):
        search.bounds = points.nearest(Points(start))[1]
    elif len(points) and k > 0:
        search.take(_middle(points, vectors, keys))
    search.refresh()
    while len(search.chosen) < min(k, len(points)):
        if (found := search.farthest()) is None:
            break
        search.take(found)
    search.refresh()
    return np.array(search.chosen, dtype=np.int64), search.bounds


class _Search:
    """bounds: (N,) at least the squared distance to the nearest centre; 0 = a centre is there."""

    def __init__(self, points: Points, keys: FloatArray) -> None:
        self.points = points
        self.keys = keys
        self.bounds: FloatArray = np.full(len(points), np.inf)
        self.chosen: list[int] = []
        self._pending: list[int] = []  # centres that bounds outside of `active` do not know
        self._active: IntArray = np.empty(0, dtype=np.int64)
        self._near = points.of(self._active)
        self._elsewhere = np.inf  # the largest bound outside of `active`

    def farthest(self) -> int | None:
        """Return the farthest point, None when all coincide with centres."""
        if self._top() < self._elsewhere and self._pending:
            self.refresh()
        top = self._top()
        if top <= 0:
            return None
        tied = self._active[self.bounds[self._active] == top]
        return int(tied[np.argmin(self.keys[tied])])

    def take(self, index: int) -> None:
        """Make a point a centre."""
        self.chosen.append(index)
        self._pending.append(index)
        if len(self._active):
            squared = self._near.squared_distances(self.points.of(np.array([index])))[:, 0]
            self.bounds[self._active] = np.minimum(self.bounds[self._active], squared)
        self.bounds[index] = 0.0

    def refresh(self) -> None:
        """Bring all bounds up to date and choose the active points anew."""
        if self._pending:
            centres = self.points.of(np.array(self._pending))
            np.minimum(self.bounds, self.points.nearest(centres)[1], out=self.bounds)
            self._pending = []
        self._active = np.arange(len(self.points))
        self._elsewhere = -np.inf
        if len(self.points) > ACTIVE:
            order = np.argpartition(self.bounds, -ACTIVE)
            self._active = np.sort(order[-ACTIVE:])
            self._elsewhere = float(self.bounds[order[:-ACTIVE]].max())
        self._near = self.points.of(self._active)

    def _top(self) -> float:
        return float(self.bounds[self._active].max()) if len(self._active) else 0.0


def _middle(points: Points, vectors: FloatArray, keys: FloatArray) -> int:
    squared = points.nearest(Points(vectors.mean(axis=0, keepdims=True)))[1]
    tied = np.flatnonzero(squared == squared.min())
    return int(tied[np.argmin(keys[tied])])
