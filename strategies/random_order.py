"""A random order that stays the same for a seed: the control that other strategies must beat.

Utility: a uniform number from the task's id and the seed. Reads nothing. Use it as a comparison,
for a first unbiased overview, and for tasks that are to measure quality.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Pool, shuffle_keys

reads: tuple[str, ...] = ()
summary = "Random order: the fair comparison, and the best choice for a first overview."
because = "drawn by lot"


def utilities(pool: Pool, rng: np.random.Generator) -> FloatArray:
    """Return (N,) uniform values in [0, 1), one per task id."""
    return shuffle_keys(pool.ids, rng)
