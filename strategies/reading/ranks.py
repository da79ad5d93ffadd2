"""Utilities of different units, made comparable by their ranks."""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray


def mean_ranks(values: FloatArray) -> FloatArray:
    """(N,) -> (N,) in [0, 1]: 1 for the largest; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    ranks: FloatArray = middle[place] / max(1, len(values) - 1)
    return ranks
