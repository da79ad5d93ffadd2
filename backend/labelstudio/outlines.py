"""A mask as one polygon that a person can edit: simplified, its holes and parts kept.

Label Studio's polygon is one ring of points. Holes and further parts are joined to it by bridges
of no width: the ring goes there, around it, and back the same way. Holes run against the sense of
the outline, so that both browsers and we (non-zero winding) leave them empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from models.base import Mask

TOLERANCE_PX = 1.0  # on images of up to 1000 px; Label Studio makes each point a handle
MOST_POINTS = 1000  # more make Label Studio's editor slow; then the tolerance grows
MOST_RINGS = 64  # outlines and holes, the largest ones
_SCALE = 2  # an outline through the corners of pixels, not through their centres

_Ring = npt.NDArray[np.int32]  # (P, 2) x, y of sub-pixels


def to_polygon(mask: Mask, *, tolerance_px: float | None = None) -> list[list[float]]:
    """Return the outline of a (H, W) mask as [x, y] in 0-100; empty for an empty mask.

    tolerance_px: how far the outline may leave the mask's; 0 = not at all. None = TOLERANCE_PX, in
    proportion on images of more than 1000 px, and at most a quarter of how wide the defect is.
    """
    if not mask.any():
        return []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    if tolerance_px is None:
        tolerance_px = _tolerance_px(part, max(mask.shape))
    ring = _joined(_simplified(_rings(part), tolerance_px * _SCALE))
    corner, extent = np.array([left, top]), np.array([mask.shape[1], mask.shape[0]])
    percent: list[list[float]] = (((ring + 0.5) / _SCALE + corner) / extent * 100).tolist()
    return percent


def _tolerance_px(part: Mask, side_px: int) -> float:
    """Return the tolerance for a defect on an image whose longer side is `side_px`."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(part.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    area_px = np.count_nonzero(part)
    width_px = 2 * area_px / (area_px - np.count_nonzero(inner))
    return float(min(TOLERANCE_PX * max(1.0, side_px / 1000), max(0.5, width_px / 4)))


def _rings(part: Mask) -> list[_Ring]:
    """Return the largest outlines, and holes within them; an outline stands before its holes."""
    grown = cv2.resize(
        part.astype(np.uint8), None, fx=_SCALE, fy=_SCALE, interpolation=cv2.INTER_NEAREST
    )
    found, tree = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    areas = np.array([cv2.contourArea(ring) for ring in found])
    kept: list[int] = []
    for n in np.argsort(-areas, kind="stable").tolist():
        owner = int(tree[0][n][3])
        if owner < 0 or owner in kept:
            kept.append(n)
    return [found[n][:, 0, :] for n in kept[:MOST_RINGS]]


def _simplified(rings: Sequence[_Ring], tolerance: float) -> list[_Ring]:
    """Simplify rings, the more the more points they have."""
    while True:
        simple = [_simplified_one(ring, tolerance) for ring in rings]
        if sum(map(len, simple)) <= MOST_POINTS or tolerance > max(map(np.ptp, rings)):
            return simple
        tolerance = max(0.5, 1.5 * tolerance)


def _simplified_one(ring: _Ring, tolerance: float) -> _Ring:
    """Simplify a ring; one that is thinner than the tolerance gets a smaller one."""
    while True:
        simple = cv2.approxPolyDP(ring, tolerance, closed=True)[:, 0, :]
        if len(simple) >= 3 or len(ring) < 3:
            return np.asarray(simple, dtype=np.int32)
        tolerance = tolerance / 2 if tolerance > 0.1 else 0.0


def _joined(rings: Sequence[_Ring]) -> npt.NDArray[np.float64]:
    """Return one ring that visits all, each from the nearest point of those before it."""
    nearest = {n: _nearest(rings, 0, n) for n in range(1, len(rings))}
    bridges: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    while nearest:
        new = min(nearest, key=lambda n: (nearest[n], n))
        _, ring, point, own = nearest.pop(new)
        bridges[ring, point].append((new, own))
        nearest = {n: min(known, _nearest(rings, new, n)) for n, known in nearest.items()}
    path: list[npt.NDArray[np.int32]] = []

    def walk(ring: int, start: int) -> None:
        for step in range(len(rings[ring])):
            point = (start + step) % len(rings[ring])
            path.append(rings[ring][point])
            for other, entry in bridges[ring, point]:
                walk(other, entry)
                path.extend((rings[other][entry], rings[ring][point]))

    walk(0, 0)
    return np.array(path, dtype=np.float64)


def _nearest(rings: Sequence[_Ring], one: int, other: int) -> tuple[float, int, int, int]:
    """Return (squared distance, `one`, its point, the other's point) of the nearest points."""
    apart = (rings[one][:, None, :].astype(np.float64) - rings[other][None, :, :]) ** 2
    squared = apart.sum(axis=2)
    point, own = divmod(int(squared.argmin()), squared.shape[1])
    return float(squared[point, own]), one, point, own
