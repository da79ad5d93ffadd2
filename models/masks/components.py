"""What a mask consists of: its connected parts, and how wide they are."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt
from skimage.morphology import skeletonize

from models.base import Mask


def label(mask: Mask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Number the 8-connected parts of a mask.

    Returns (H, W) labels, 0 = outside, and (N, 5): x, y, width, height and area in px of the parts
    1 to N, in the order of their labels.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return np.asarray(labels, dtype=np.int32), np.asarray(stats[1:], dtype=np.int32)


def largest_first(boxes: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return the indices of parts (N, 5) as of `label`, the largest first.

    Of equally large ones the upper comes first, then the left one: the order of labels says
    nothing, as it changes when a mask is cut out of its image.
    """
    x, y, width, height, area = boxes.T
    return np.asarray(np.lexsort((height, width, x, y, -area)), dtype=np.int64)


def typical_width_px(masks: Iterable[Mask]) -> float | None:
    """Return how wide the defects of a class typically are; None when no mask shows any.

    The median over the masks of `width_px`, so that one image full of defect does not decide.
    """
    widths = [width_px(mask) for mask in masks if mask.any()]
    return float(np.median(widths)) if widths else None


def width_px(mask: Mask) -> float:
    """Return the width that half of the area of a mask exceeds; 0 for an empty mask.

    Measured on the skeleton, as twice the distance to the nearest pixel outside, less one: 1 for a
    line of one pixel, n for a bar of n, odd. A place counts as much as the area that it stands for,
    its width; so the spurs of a ragged outline weigh little. The image's edge is outside.
    """
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    widths = np.sort(2 * distance[skeletonize(padded > 0)] - 1)
    if not widths.size:
        return 0.0
    area = np.cumsum(widths, dtype=np.float64)
    return float(widths[np.searchsorted(area, area[-1] / 2)])
