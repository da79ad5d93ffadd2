"""Entropy: the tasks whose most doubtful windows are the most doubtful (Shannon, 1948).

Per window and class the Bernoulli entropy H(p) = -p ln p - (1 - p) ln(1 - p) in nats; per window
the maximum over classes; per task the mean of the top quarter of its windows.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Pool, mean_of_top, window_probs

reads = ("tile_probs", "tile_offsets")
summary = "Most uncertain first: images where the model hesitates between defect and no defect."


def utilities(pool: Pool, rng: np.random.Generator) -> FloatArray:  # noqa: ARG001 - the protocol
    """Return (N,) utilities in [0, ln 2] nats."""
    probs, offsets = window_probs(pool)
    return mean_of_top(bernoulli_entropy(probs).max(axis=1), offsets)


def bernoulli_entropy(probs: FloatArray) -> FloatArray:
    """Return H(p) in nats, elementwise; 0 for p = 0 and p = 1, ln 2 for p = 0.5."""
    return _minus_p_log_p(probs) + _minus_p_log_p(1 - probs)


def _minus_p_log_p(p: FloatArray) -> FloatArray:
    log: FloatArray = np.log(p, where=p > 0, out=np.zeros_like(p))
    return -p * log
