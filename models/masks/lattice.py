"""Gaussian filtering of values at points of any dimension, in time linear in the points.

The permutohedral lattice of Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the
Permutohedral Lattice" (2010), in arrays: values are shared out to the corners of the simplex around
each point ("splat"), blurred along the d + 1 directions of the lattice, and read back ("slice").
Corners that no point touches do not exist; blurring passes nothing through them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lattice:
    """The corners that N points touch; M of them.

    corner, share: (N, d + 1), which corners a point lies between and how much it gives to each.
    neighbours: (d + 1, 2, M), the corners before and after in each direction; M = there is none.
    """

    corner: Ints
    share: Floats
    neighbours: Ints

    def filter(self, values: Floats) -> Floats:
        """(N,) -> (N,): sums weighted by exp(-|difference of points|^2 / 2), up to one factor."""
        size = self.neighbours.shape[2]
        weights = (self.share * values[:, None]).ravel()
        held = np.zeros(size + 1)  # the last one is the corner that does not exist
        held[:size] = np.bincount(self.corner.ravel(), weights, size)
        for before, after in self.neighbours:
            held[:size] += 0.5 * (held[before] + held[after])
        return np.asarray(np.einsum("nc,nc->n", held[self.corner], self.share))


def build(points: Floats) -> Lattice:
    """Place (N, d) points, in units of the standard deviation of the filter, N >= 1."""
    elevated = _elevate(points)
    origin, rank = _simplex(elevated)
    size = elevated.shape[1]
    canonical = np.array(
        [[k if j < size - k else k - size for k in range(size)] for j in range(size)]
    )
    keys = origin[:, None, :-1] + canonical[rank].transpose(0, 2, 1)[:, :, :-1]
    low, span = keys.min(axis=(0, 1)) - size, np.ptp(keys, axis=(0, 1)) + 2 * size + 1
    strides = np.concatenate((np.cumprod(span[:0:-1])[::-1], [1]))
    found, corner = np.unique(((keys - low) * strides).sum(axis=2), return_inverse=True)
    return Lattice(
        corner.reshape(len(points), size), _shares(elevated, origin, rank), _links(found, strides)
    )


def _elevate(points: Floats) -> Floats:
    """(N, d) -> (N, d + 1) on the plane of sum 0, scaled so that the blurs have unit variance."""
    d = points.shape[1]
    axis = np.arange(1, d + 1)
    scaled = points * ((d + 1) * np.sqrt(2 / 3) / np.sqrt(axis * (axis + 1)))
    above = np.cumsum(scaled[:, ::-1], axis=1)[:, ::-1]  # of this coordinate and those after
    after = np.concatenate((above[:, 1:], np.zeros((len(points), 1))), axis=1)
    return np.concatenate((above[:, :1], after - axis * scaled), axis=1)


def _simplex(elevated: Floats) -> tuple[Ints, Ints]:
    """Return the corner of remainder 0 of each point's simplex, and the ranks of its coordinates.

    The coordinate that lies furthest above that corner has rank 0.
    """
    size = elevated.shape[1]
    origin = np.rint(elevated / size).astype(np.int64) * size
    order = np.argsort(origin - elevated, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(size)[None], axis=1)
    rank += origin.sum(axis=1, keepdims=True) // size
    shift = (rank < 0).astype(np.int64) - (rank >= size)
    return origin + size * shift, rank + size * shift


def _shares(elevated: Floats, origin: Ints, rank: Ints) -> Floats:
    """Return the barycentric coordinates: (N, d + 1), of the corners of remainder 0, 1 to d."""
    size = elevated.shape[1]
    height = np.empty_like(elevated)
    np.put_along_axis(height, rank, (elevated - origin) / size, axis=1)  # falling
    shares = np.empty_like(height)
    shares[:, 1:] = (height[:, :-1] - height[:, 1:])[:, ::-1]
    shares[:, 0] = 1 - (height[:, 0] - height[:, -1])
    return shares


def _links(found: Ints, strides: Ints) -> Ints:
    """Find the neighbours of the sorted packed keys in each direction."""
    size = len(strides) + 1
    total = int(strides.sum())
    steps = [total - size * int(stride) for stride in strides] + [total]
    return np.stack(
        [np.stack([_places(found, found - step), _places(found, found + step)]) for step in steps]
    )


def _places(found: Ints, wanted: Ints) -> Ints:
    place = np.searchsorted(found, wanted)
    hit = found[np.minimum(place, len(found) - 1)] == wanted
    return np.where(hit, place, len(found))
