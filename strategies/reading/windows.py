"""From windows to tasks: one value per task, whatever the number of its windows."""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, IntArray

TOP_SHARE = 0.25  # of a task's windows, the most uncertain ones, that make its utility
BLOCK = 1 << 21  # values that are sorted at once


def mean_of_top(values: FloatArray, offsets: IntArray, share: float = TOP_SHARE) -> FloatArray:
    """Return per task the mean of the ceil(share * n) largest of its n windows' values; (N,).

    A maximum would favour large images (more windows, more chances) and a mean would bury a small
    defect under clean windows; a fixed upper share depends on neither the number of windows nor
    on the clean rest. values: (M,); offsets: (N + 1,), every task with at least one window.
    """
    counts = np.diff(offsets)
    means: FloatArray = np.empty(len(counts))
    for count in np.unique(counts).tolist():
        of_size = np.flatnonzero(counts == count)
        clean = count - int(np.ceil(share * count))  # windows that do not count
        for rows in np.array_split(of_size, 1 + of_size.size * count // BLOCK):
            block = values[offsets[rows][:, None] + np.arange(count)]  # (R, count)
            block.partition(min(clean, count - 1), axis=1)
            means[rows] = block[:, clean:].mean(axis=1)
    return means


def largest(values: FloatArray, offsets: IntArray) -> FloatArray:
    """Return per task and class the largest probability of its windows; (M, C) -> (N, C)."""
    found: FloatArray = np.maximum.reduceat(values, offsets[:-1], axis=0)
    return found
