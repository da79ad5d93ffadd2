"""Sequential: tasks in the order in which they arrived.

Utility: -id, as Label Studio numbers tasks in order of import. Reads nothing. Use it where the
order itself matters (a tunnel walked along, a video), or where people must find a task again.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Pool

reads: tuple[str, ...] = ()
summary = "In order of arrival: images one after the other, as they were imported."
because = "next in order of arrival"


def utilities(pool: Pool, rng: np.random.Generator) -> FloatArray:  # noqa: ARG001 - the protocol
    """Return (N,) negative ids."""
    return -pool.ids.astype(np.float64)
