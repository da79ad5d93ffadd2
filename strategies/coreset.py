"""Core-set: cover all kinds of images with few (Sener & Savarese, 2018).

k-center greedy on the embeddings: the next task is the one whose distance to the nearest of the
finished and already chosen tasks is the largest (at most twice the optimal radius; Gonzalez, 1985).
The first `batch` tasks are chosen so, the rest follow by their distance to them. Reads
`embeddings`, and `labelled_embeddings` where known. Use it for variety, and together with an
uncertainty in `hybrid`: alone it spends people's time on odd images that are easy, or no defects.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, IntArray, Option, Pool, shuffle_keys
from strategies.geometry.centres import farthest_first
from strategies.reading.fields import embeddings, labelled

reads = ("embeddings",)
summary = "Variety first: each next image is the one least like all that came before it."
because = "unlike the images before it"
depends_on_pool = True
diverse = True


def options() -> tuple[Option, ...]:
    """Return how many tasks are chosen one after the other."""
    return (Option("batch", 1000, "tasks chosen one by one", low=1, high=100_000),)


def utilities(pool: Pool, rng: np.random.Generator, batch: float = 1000) -> FloatArray:
    """Return (N,): above 1 for the chosen, the first the largest; below 1 for the rest."""
    vectors = embeddings(pool)
    start = labelled(pool, vectors.shape[1])
    keys = shuffle_keys(pool.ids, rng)
    chosen, squared = farthest_first(vectors, start, int(batch), keys)
    return chosen_first(chosen, np.sqrt(squared))


def chosen_first(chosen: IntArray, rest: FloatArray) -> FloatArray:
    """Return (N,): in (1, 2] for the chosen by their order; `rest` scaled to [0, 1) elsewhere."""
    found: FloatArray = rest / (1 + rest.max(initial=0.0))
    found[chosen] = 2 - np.arange(len(chosen)) / max(1, len(chosen))
    return found
