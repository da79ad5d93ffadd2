"""The refinement of Janouskova et al.: threshold, morphological closing, small regions dropped."""

from __future__ import annotations

import cv2
import numpy as np

from models.base import HeatMap, Image, Mask
from models.masks.components import label
from models.refine import Cut

summary = "Everything hot, gaps closed, specks dropped: the paper's, for defects of any colour."
default_threshold = 0.1  # the paper's; measured best on rust, too
default_min_area_px = 60
is_slow = False
is_scaled = False
least_width_px, most_width_px = 0.0, float("inf")
CLOSING_PX = 5


def refine(
    image: Image,
    heat: HeatMap,
    *,
    threshold: float,
    min_area_px: int,
    closing_px: int | None = None,
    width_px: float | None = None,
) -> Mask:
    """Keep what is hotter than `threshold`, close gaps, drop regions below `min_area_px`.

    The paper sets closing and area by eye; 5 and 60 suit images of about 500 px.
    """
    mask = prepare(image, heat, width_px=width_px)(threshold)
    return finish(mask, closing_for(width_px) if closing_px is None else closing_px, min_area_px)


def prepare(
    image: Image,  # noqa: ARG001  # every refinement is called alike
    heat: HeatMap,
    *,
    width_px: float | None = None,  # noqa: ARG001
) -> Cut:
    """Return the cut at a threshold of the heat itself."""
    return lambda threshold: np.asarray(heat > threshold, dtype=bool)


def closing_for(width_px: float | None) -> int:
    """Return a quarter of the width, odd, from 3 to 15; CLOSING_PX for None."""
    return CLOSING_PX if width_px is None else scaled(width_px / 4, 3, 15) | 1


def scaled(size_px: float, least_px: int, most_px: int) -> int:
    """Round a size that follows the width of a class, within bounds."""
    return round(min(max(size_px, least_px), most_px))


def finish(mask: Mask, closing_px: int, min_area_px: int) -> Mask:
    """Close gaps, then drop small regions."""
    return drop_small(close(mask, closing_px), min_area_px)


def close(mask: Mask, diameter_px: int) -> Mask:
    """Close gaps up to `diameter_px`; what lies outside the image neither fills nor erodes.

    An even diameter has no middle: the next odd one is taken.
    """
    diameter_px |= 1
    if diameter_px == 1 or not mask.any():
        return mask
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter_px, diameter_px))
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, element)
    return np.asarray(closed, dtype=bool)


def drop_small(mask: Mask, min_area_px: int) -> Mask:
    """Drop the 8-connected regions of fewer than `min_area_px` pixels."""
    if min_area_px <= 1 or not mask.any():
        return mask
    labels, boxes = label(mask)
    kept = np.concatenate(([False], boxes[:, cv2.CC_STAT_AREA] >= min_area_px))
    return np.asarray(kept[labels], dtype=bool)
