"""TypiClust: with few labels, typical images of many groups (Hacohen et al., 2022).

The embeddings are cut into groups by k-means. Groups with the fewest finished tasks come first,
among these the largest; each gives its most typical member (typicality 1 / (1 + mean distance to
its 20 nearest in the group)), then each its second, and so on. Reads `embeddings`, and
`labelled_embeddings` where known; no model's opinion. Use it for the first annotations: there,
uncertainty is noise. Embeddings come from a version, so that before any training there are none
and the order is random, as it says.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, IntArray, Option, Pool
from strategies.geometry.groups import k_means, typicality
from strategies.geometry.points import Points
from strategies.reading.fields import embeddings, labelled

reads = ("embeddings",)
summary = "A good start: typical images of every kind, kinds without finished images first."
instead = "random_order"
because = "typical of its kind of image"
depends_on_pool = True
diverse = True

PER_GROUP = 512  # tasks of a group at most, on average: larger pools have more groups


def options() -> tuple[Option, ...]:
    """Return the number of groups."""
    return (Option("groups", 20, "kinds of images that are told apart", low=1, high=500),)


def utilities(pool: Pool, rng: np.random.Generator, groups: float = 20) -> FloatArray:
    """Return (N,) in (0, 1]; one task of each group, then the second of each."""
    vectors = embeddings(pool)
    k = max(int(groups), -(-len(vectors) // PER_GROUP))
    group, means = k_means(vectors, k, rng)
    done, _ = Points(labelled(pool, vectors.shape[1])).nearest(Points(means))
    typical, turn = np.ones(len(vectors)), np.zeros(len(vectors), dtype=np.int64)
    for one in range(len(means)):
        members = np.flatnonzero(group == one)
        typical[members] = typicality(vectors[members], rng)
        turn[members] = _places(-typical[members])
    size = np.bincount(group, minlength=len(means))
    finished = np.bincount(done, minlength=len(means))
    first = _places(np.lexsort((-size, finished)).argsort())  # place of each group
    found: FloatArray = 1 / (1 + turn + first[group] / max(1, len(means)))
    return found


def _places(values: FloatArray | IntArray) -> IntArray:
    """Return (N,) how many distinct values are smaller; equal values share a place."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
