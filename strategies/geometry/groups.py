"""Groups of embeddings: k-means in bounded memory, and how typical a point is of its group."""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, IntArray
from strategies.geometry.points import Points
from strategies.geometry.seeding import spread

LEARNT_FROM = 20_000  # points, drawn by chance from larger pools
STEPS = 20  # of Lloyd's algorithm at most
COMPARED = 2048  # members of a group among which neighbours are sought
NEIGHBOURS = 20


def k_means(vectors: FloatArray, k: int, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
    """Return (N,) the group of each vector and (K, D) the groups' means; K <= k.

    Lloyd (1982), seeded by k-means++. Groups may come out empty after the last assignment; with
    fewer distinct vectors than k there are fewer groups, without vectors none.
    """
    if not len(vectors):
        return np.empty(0, dtype=np.int64), np.empty((0, vectors.shape[1]))
    if len(vectors) <= LEARNT_FROM:
        learnt_from = vectors
    else:
        learnt_from = vectors[np.sort(rng.choice(len(vectors), LEARNT_FROM, replace=False))]
    points = Points(learnt_from)
    seeds, _ = spread(points, int(rng.integers(len(points))), k, rng)
    means = learnt_from[seeds]
    for _ in range(STEPS):
        group, _ = points.nearest(Points(means))
        moved = _means(learnt_from, group, means)
        if np.array_equal(moved, means):
            break
        means = moved
    return Points(vectors).nearest(Points(means))[0], means


def typicality(vectors: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return (N,): 1 / (1 + mean distance to the NEIGHBOURS nearest others); (N, D) -> (N,).

    In groups of more than COMPARED vectors the neighbours are sought among so many of them, drawn
    by chance. A vector without others has 1.
    """
    sought: IntArray = np.arange(len(vectors))
    if len(vectors) > COMPARED:
        sought = np.sort(rng.choice(len(vectors), COMPARED, replace=False))
    points, others = Points(vectors), Points(vectors[sought])
    near = min(NEIGHBOURS, len(sought) - 1)
    found: FloatArray = np.ones(len(vectors))
    for block in points.blocks(len(sought)) if near > 0 else ():
        squared = points.of(block).squared_distances(others)
        squared[np.arange(len(vectors))[block, None] == sought] = np.inf
        squared.partition(near - 1, axis=1)
        found[block] = 1 / (1 + np.sqrt(squared[:, :near]).mean(axis=1))
    return found


def _means(vectors: FloatArray, group: IntArray, former: FloatArray) -> FloatArray:
    """Return (K, D); a group without members keeps its former mean."""
    means = former.copy()
    order = np.argsort(group, kind="stable")
    present, first = np.unique(group[order], return_index=True)
    counts = np.diff([*first, len(group)])
    means[present] = np.add.reduceat(vectors[order], first, axis=0) / counts[:, None]
    return means
