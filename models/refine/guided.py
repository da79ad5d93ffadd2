"""Heat filtered with the image as a guide: its outline moves to the edges of colour.

He, Sun and Tang, "Guided Image Filtering" (PAMI 2013), with a colour guide: around every pixel the
heat is regressed on red, green and blue (their eq. 19 and 20, the full 3 x 3 covariance); the
regressions of all windows over a pixel are averaged. Box filters make the time independent of the
radius. What lies outside the image belongs to no window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from models.base import HeatMap, Image, Mask
from models.refine import Cut, threshold
from models.refine.threshold import finish, scaled

summary = "Heat drawn to the edges of colour, gaps closed, specks dropped: for compact defects."
default_threshold = 0.1
default_min_area_px = 60
is_slow = False
is_scaled = True
least_width_px, most_width_px = 0.0, float("inf")
closing_for = threshold.closing_for

Plane = npt.NDArray[np.floating[Any]]  # (H, W), float32
RADIUS_PX = 8
RADIUS_PER_WIDTH = 0.4  # rust 21 px and spalling 17 px wide were best with 8
EPSILON = 1e-3  # on colours in [0, 1]: contrast below its root, 8 of 255, is no edge
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of channels
_TILE_PX = 1024  # bounds the memory: about 150 bytes per pixel of a tile


def refine(
    image: Image,
    heat: HeatMap,
    *,
    threshold: float,
    min_area_px: int,
    closing_px: int | None = None,
    width_px: float | None = None,
) -> Mask:
    """Keep where the filtered heat exceeds `threshold`, close gaps, drop small regions."""
    mask = prepare(image, heat, width_px=width_px)(threshold)
    return finish(mask, closing_for(width_px) if closing_px is None else closing_px, min_area_px)


def prepare(image: Image, heat: HeatMap, *, width_px: float | None = None) -> Cut:
    """Return the cut at a threshold of the filtered heat."""
    filtered = filter_heat(image, heat, radius_for(width_px))
    return lambda threshold: np.asarray(filtered > threshold, dtype=bool)


def radius_for(width_px: float | None) -> int:
    """Return the radius that suits defects of this width: from 4 to 32, RADIUS_PX for None."""
    return RADIUS_PX if width_px is None else scaled(RADIUS_PER_WIDTH * width_px, 4, 32)


def filter_heat(image: Image, heat: HeatMap, radius_px: int, epsilon: float = EPSILON) -> HeatMap:
    """Filter tile by tile, where there is heat; equals `guided_filter` of the whole image."""
    filtered = np.zeros(heat.shape, np.float32)
    for inner, outer in _tiles(heat.shape, halo_px=2 * radius_px):
        if not heat[outer].any():
            continue
        guide = image[outer].astype(np.float32) / 255
        part = guided_filter(guide, heat[outer], radius_px, epsilon)
        rows, columns = (
            slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)
        )
        filtered[inner] = part[rows, columns]
    return filtered


def guided_filter(guide: Plane, field: Plane, radius_px: int, epsilon: float) -> Plane:
    """(H, W, 3) and (H, W) float32 -> (H, W) float32; windows are 2 radius_px + 1 wide.

    epsilon: ridge on the coefficients of a window, in squared units of the guide.
    """
    mean = _window_mean(field.shape, radius_px)
    colours = [np.ascontiguousarray(guide[..., channel]) for channel in range(3)]
    centres, level = [mean(colour) for colour in colours], mean(field)
    covariance = {
        (i, j): mean(colours[i] * colours[j]) - centres[i] * centres[j] + epsilon * (i == j)
        for i, j in _PAIRS
    }
    joint = [mean(c * field) - m * level for c, m in zip(colours, centres, strict=True)]
    slopes = _solve(covariance, joint)
    intercept = level - _dot(slopes, centres)
    return _dot([mean(slope) for slope in slopes], colours) + mean(intercept)


def _solve(covariance: Mapping[tuple[int, int], Plane], joint: Sequence[Plane]) -> list[Plane]:
    """Solve the symmetric 3 x 3 system of each pixel by cofactors."""
    rr, rg, rb, gg, gb, bb = (covariance[pair] for pair in _PAIRS)
    c_rr, c_rg, c_rb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    c_gg, c_gb, c_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    inverse = 1 / _dot((rr, rg, rb), (c_rr, c_rg, c_rb))
    cofactors = (c_rr, c_rg, c_rb), (c_rg, c_gg, c_gb), (c_rb, c_gb, c_bb)
    return [_dot(row, joint) * inverse for row in cofactors]


def _dot(left: Sequence[Plane], right: Sequence[Plane]) -> Plane:
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]


def _window_mean(shape: tuple[int, ...], radius_px: int) -> Callable[[Plane], Plane]:
    """Make the mean over the window of each pixel, of as many pixels as it has in the image."""
    window = (2 * radius_px + 1, 2 * radius_px + 1)

    def total(plane: Plane) -> Plane:
        return np.asarray(
            cv2.boxFilter(
                plane, cv2.CV_32F, window, normalize=False, borderType=cv2.BORDER_CONSTANT
            )
        )

    share = 1 / total(np.ones(shape, np.float32))
    return lambda plane: total(plane) * share


def _tiles(
    shape: tuple[int, ...], halo_px: int
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Yield the tiles of an image, each without and with its halo."""
    height_px, width_px = shape
    for top in range(0, height_px, _TILE_PX):
        for left in range(0, width_px, _TILE_PX):
            inner = _slice(top, 0, height_px), _slice(left, 0, width_px)
            yield inner, (_slice(top, halo_px, height_px), _slice(left, halo_px, width_px))


def _slice(start: int, halo_px: int, side_px: int) -> slice:
    return slice(max(0, start - halo_px), min(side_px, start + _TILE_PX + halo_px))
