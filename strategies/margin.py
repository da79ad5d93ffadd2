"""Margin: the tasks whose windows lie nearest to the decision (Scheffer et al., 2001).

Per window and class 1 - |2p - 1|, that is 1 minus the gap between "defect" and "none"; per window
the maximum over classes; per task the mean of the top quarter of its windows.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Pool, mean_of_top, window_probs

reads = ("tile_probs", "tile_offsets")
summary = "Closest calls first: images with windows nearest to the line between defect and none."


def utilities(pool: Pool, rng: np.random.Generator) -> FloatArray:  # noqa: ARG001 - the protocol
    """Return (N,) utilities in [0, 1]."""
    probs, offsets = window_probs(pool)
    return mean_of_top((1 - np.abs(2 * probs - 1)).max(axis=1), offsets)
