"""Least confidence: the model's best guess for a window is the least likely (Lewis & Gale, 1994).

Per window 1 - prod over classes of max(p, 1 - p), the probability that the likeliest joint answer
is wrong, classes being independent; per task the mean of the top quarter of its windows. Reads the
window probabilities. With one class it orders windows as `margin` does; with several it adds up
doubts that `margin` and `entropy` look at one by one: use it where every class must be right.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Pool
from strategies.reading.fields import window_probs
from strategies.reading.windows import mean_of_top

reads = ("tile_probs", "tile_offsets")
summary = "Least sure answer first: images where some class is probably wrong, all classes counted."


def utilities(pool: Pool, rng: np.random.Generator) -> FloatArray:  # noqa: ARG001 - the protocol
    """Return (N,) utilities in [0, 1 - 2**-C]."""
    probs, offsets = window_probs(pool)
    return mean_of_top(1 - np.maximum(probs, 1 - probs).prod(axis=1), offsets)
