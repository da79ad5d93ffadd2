"""BADGE: doubtful and different at once (Ash et al., 2020).

A task's gradient embedding is the gradient of the last layer's loss at the model's own answer; for
independent classes that is |p_c - answer_c| times the embedding, for every class c, with
|p - answer| = min(p, 1 - p). There is one embedding per task, so the doubt of class c is the mean
of the top quarter of its windows. The first `batch` tasks are the seeds of k-means++ on these
(the longest first): long gradients, far from each other; the rest follow by their distance to them.
Reads window probabilities and `embeddings`. Use it for batches once the first version is there.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Option, Pool, shuffle_keys
from strategies.coreset import chosen_first
from strategies.geometry.points import Points
from strategies.geometry.seeding import spread
from strategies.reading.fields import embeddings, window_probs
from strategies.reading.windows import mean_of_top

reads = ("tile_probs", "tile_offsets", "embeddings")
summary = "Uncertain and varied: images where the model hesitates, each unlike the ones before."
because = "uncertain in another way than the images before it"
depends_on_pool = True
diverse = True


def options() -> tuple[Option, ...]:
    """Return how many tasks are chosen one after the other."""
    return (Option("batch", 1000, "tasks chosen one by one", low=1, high=100_000),)


def utilities(pool: Pool, rng: np.random.Generator, batch: float = 1000) -> FloatArray:
    """Return (N,): above 1 for the chosen, the first the largest; below 1 for the rest."""
    gradients = Points(doubts(pool), embeddings(pool))
    keys = shuffle_keys(pool.ids, rng)
    lengths = gradients.squared_lengths
    first = int(np.lexsort((keys, -lengths))[0]) if len(pool) else 0
    chosen, squared = spread(gradients, first, int(batch), rng)
    return chosen_first(chosen, np.sqrt(squared))


def doubts(pool: Pool) -> FloatArray:
    """Return (N, C): per class the mean of min(p, 1 - p) over the top quarter of the windows."""
    probs, offsets = window_probs(pool)
    columns = [mean_of_top(np.minimum(p, 1 - p), offsets) for p in probs.T]
    stacked: FloatArray = np.stack(columns, axis=1)
    return stacked
