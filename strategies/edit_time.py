"""Edit time: the tasks whose proposals are predicted to cost people the most seconds."""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Pool, require_finite

reads = ("edit_seconds",)
summary = "Hardest first: images whose proposals are expected to need the most correction time."


def utilities(pool: Pool, rng: np.random.Generator) -> FloatArray:  # noqa: ARG001 - the protocol
    """Return (N,) predicted edit seconds."""
    if pool.edit_seconds is None:
        raise ValueError("the pool has no edit_seconds; predict them first (loop.difficulty)")
    require_finite(pool.edit_seconds, "predicted edit seconds", "retrain the difficulty model")
    return pool.edit_seconds.astype(np.float64)
