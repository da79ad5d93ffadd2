"""Margin: the tasks whose windows lie nearest to the decision (Scheffer et al., 2001).

Per window and class 1 - |2p - 1|, that is 1 minus the gap between "defect" and "none"; per window
the maximum over classes; per task the mean of the top quarter of its windows. Reads the window
probabilities. Use it where what matters is the decision itself; it falls off linearly, so it cares
more for windows that are fairly sure than `entropy` does.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Pool
from strategies.reading.fields import window_probs
from strategies.reading.windows import mean_of_top

reads = ("tile_probs", "tile_offsets")
summary = "Closest calls first: images with windows nearest to the line between defect and none."


def utilities(pool: Pool, rng: np.random.Generator) -> FloatArray:  # noqa: ARG001 - the protocol
    """Return (N,) utilities in [0, 1]."""
    probs, offsets = window_probs(pool)
    return mean_of_top((1 - np.abs(2 * probs - 1)).max(axis=1), offsets)
