"""Points given by factors: squared distances between a few of them and many, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from strategies.base import FloatArray, IntArray

BLOCK = 1 << 21  # distances that are held at once
SAME = 1e-12  # squared distances below this share of the squared lengths are rounding: 0


class Points:
    """N points; each is the outer product of its rows in `factors`, which is never formed.

    factors: arrays (N, D_1), (N, D_2), ...: the inner product of two points is the product of
    their factors' inner products. One factor (N, D) = N plain vectors. squared_lengths: (N,).
    """

    def __init__(self, *factors: FloatArray, squared_lengths: FloatArray | None = None) -> None:
        self.factors = factors
        self.squared_lengths = (
            _squared_lengths(factors) if squared_lengths is None else squared_lengths
        )

    def __len__(self) -> int:
        return len(self.squared_lengths)

    def of(self, rows: IntArray | slice) -> Points:
        """Return some of the points."""
        factors = (factor[rows] for factor in self.factors)
        return Points(*factors, squared_lengths=self.squared_lengths[rows])

    def squared_distances(self, others: Points) -> FloatArray:
        """Return (N, J) to J others; exactly 0 where two points are the same up to rounding."""
        inner: FloatArray = np.ones(())
        for own, other in zip(self.factors, others.factors, strict=True):
            inner = inner * (own @ other.T)  # (N, J)
        scale = self.squared_lengths[:, None] + others.squared_lengths
        found: FloatArray = scale - 2 * inner
        found[found <= SAME * scale] = 0.0
        return found

    def blocks(self, others: int) -> Iterator[slice]:
        """Cut the points so that a block has at most BLOCK distances to so many others."""
        step = max(1, BLOCK // max(1, others))
        return (slice(first, first + step) for first in range(0, len(self), step))

    def nearest(self, others: Points) -> tuple[IntArray, FloatArray]:
        """Return (N,) the index of the nearest of the others, and the squared distance to it."""
        index = np.zeros(len(self), dtype=np.int64)
        squared = np.full(len(self), np.inf)
        for block in self.blocks(len(others)) if len(others) else ():
            found = self.of(block).squared_distances(others)
            index[block] = found.argmin(axis=1)
            squared[block] = np.take_along_axis(found, index[block, None], axis=1)[:, 0]
        return index, squared


def _squared_lengths(factors: tuple[FloatArray, ...]) -> FloatArray:
    lengths: FloatArray = np.ones(len(factors[0]))
    for factor in factors:
        lengths = lengths * np.einsum("nd,nd->n", factor, factor)
    return lengths
