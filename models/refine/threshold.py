"""The refinement of Janouskova et al.: threshold, morphological closing, small regions dropped."""

from __future__ import annotations

import cv2
import numpy as np

from models.base import HeatMap, Image, Mask

summary = "Everything hot, gaps closed, specks dropped: for compact defects of any colour."
default_threshold = 0.1  # the paper's; measured best on rust, too
default_min_area_px = 60


def refine(
    image: Image,  # noqa: ARG001  # every refinement is called alike
    heat: HeatMap,
    *,
    threshold: float,
    min_area_px: int,
    closing_px: int = 5,
) -> Mask:
    """Keep what is hotter than `threshold`, close gaps, drop regions below `min_area_px`.

    closing_px: diameter of the round structuring element, about the widest gap to be bridged; an
        odd number, 1 = no closing. The paper sets it and the area by eye; 5 and 60 suit images of
        about 500 px.
    """
    return drop_small(close(heat > threshold, closing_px), min_area_px)


def close(mask: Mask, diameter_px: int) -> Mask:
    """Close gaps up to `diameter_px`; what lies outside the image neither fills nor erodes."""
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter_px, diameter_px))
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, element)
    return np.asarray(closed, dtype=bool)


def drop_small(mask: Mask, min_area_px: int) -> Mask:
    """Drop the 8-connected regions of fewer than `min_area_px` pixels."""
    if min_area_px <= 1 or not mask.any():
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= min_area_px
    kept[0] = False  # the background
    return np.asarray(kept[labels], dtype=bool)
