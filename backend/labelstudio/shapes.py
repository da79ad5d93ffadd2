"""Polygons and rectangles in Label Studio's percent coordinates, to masks and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from models.base import Mask

Points = npt.NDArray[np.float64]  # (P, 2) x, y
ROUNDING = 1e-6  # percent


def from_polygon(points_percent: Points, height_px: int, width_px: int) -> Mask:
    """Return the (H, W) mask of the pixels whose centres lie inside; (P, 2) x, y in 0-100.

    Non-zero winding, as browsers fill; parts outside the image are cut off.
    """
    mask = np.zeros((height_px, width_px), dtype=np.bool_)
    points = points_percent * (width_px / 100, height_px / 100)
    rows, columns, turns = _crossings(points, height_px, width_px)
    if not len(rows):
        return mask
    top, left = int(rows.min()), int(columns.min())
    bottom, right = int(rows.max()) + 1, int(columns.max()) + 1
    winding = np.zeros((bottom - top, right - left), dtype=np.int32)
    np.add.at(winding, (rows - top, columns - left), turns)
    inside = np.cumsum(winding, axis=1, out=winding) != 0
    stop = min(right, width_px)
    mask[top:bottom, left:stop] = inside[:, : stop - left]
    return mask


def from_rectangle(value: Mapping[str, float], height_px: int, width_px: int) -> Mask:
    """Return the (H, W) mask of a rectangle: x, y, width, height in 0-100 of the image.

    `rotation` is in degrees, clockwise, about the corner (x, y), as Label Studio stores it.
    """
    width, height = value["width"] / 100 * width_px, value["height"] / 100 * height_px
    corners = np.array([(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)])
    angle = np.deg2rad(value.get("rotation", 0.0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corner = np.array([value["x"], value["y"]])
    turned = corners @ turn / (width_px / 100, height_px / 100)
    return from_polygon(corner + turned, height_px, width_px)


def to_rectangle(mask: Mask) -> dict[str, float]:
    """Return the bounding box of a mask with any pixel: x, y, width, height in 0-100."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height_px, width_px = mask.shape
    return {
        "x": float(columns[0] / width_px * 100),
        "y": float(rows[0] / height_px * 100),
        "width": float((columns[-1] + 1 - columns[0]) / width_px * 100),
        "height": float((rows[-1] + 1 - rows[0]) / height_px * 100),
        "rotation": 0.0,
    }


def is_inside(value: Mapping[str, Any]) -> bool:
    """Return whether a polygon's points, or a rectangle with some area, lie within 0-100."""
    if "points" in value:
        corners = np.array(value["points"], dtype=np.float64)
    else:
        x, y, width, height = (value[name] for name in ("x", "y", "width", "height"))
        if width <= 0 or height <= 0:
            return False
        corners = np.array([(x, y), (x + width, y + height)], dtype=np.float64)
    return bool((corners >= -ROUNDING).all() and (corners <= 100 + ROUNDING).all())


def points(value: Any) -> Points | None:
    """Return (P, 2) finite points with P >= 3 from JSON, or None when it holds none such."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    pairs = [p for p in value if isinstance(p, Sequence) and len(p) == 2 and all(map(number, p))]
    if len(pairs) != len(value) or len(pairs) < 3:
        return None
    return np.array(pairs, dtype=np.float64)


def number(value: Any) -> TypeGuard[float]:
    """Return whether a JSON value is a number of use as a percentage."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e6


def _crossings(
    points: Points, height_px: int, width_px: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return where edges cross the centre lines of rows: row, first column right of it, +1 or -1.

    Columns lie in 0..W; W means right of the image.
    """
    start, end = points, np.roll(points, -1, axis=0)
    first = np.clip(np.ceil(np.minimum(start[:, 1], end[:, 1]) - 0.5), 0, height_px).astype(
        np.int64
    )
    last = np.clip(np.ceil(np.maximum(start[:, 1], end[:, 1]) - 0.5), 0, height_px).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(points)), counts)
    rows = (
        np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    )
    # both ways of a bridge of no width must meet each row at the same place, so that they cancel
    falls = (end[:, 1] > start[:, 1])[:, None]
    upper, lower = np.where(falls, start, end)[edge], np.where(falls, end, start)[edge]
    along = (rows + 0.5 - upper[:, 1]) / (lower[:, 1] - upper[:, 1])
    x = upper[:, 0] + along * (lower[:, 0] - upper[:, 0])
    columns = np.clip(np.ceil(x - 0.5), 0, width_px).astype(np.int64)
    turns = np.where(falls[edge, 0], 1, -1).astype(np.int32)
    return rows, columns, turns
