"""How well a proposed mask matches the true one.

With a tolerance, a proposed pixel is right within `tolerance_px` (Euclidean) of a true one, and a
true pixel is found within `tolerance_px` of a proposed one.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from models.base import Mask


def precision(pred: Mask, truth: Mask, tolerance_px: int = 0) -> float:
    """Share of proposed pixels that are right, in [0, 1]; 1 when nothing is proposed."""
    return _share_within(pred, truth, tolerance_px)


def recall(pred: Mask, truth: Mask, tolerance_px: int = 0) -> float:
    """Share of true pixels that are found, in [0, 1]; 1 when nothing is there."""
    return _share_within(truth, pred, tolerance_px)


def f_measure(pred: Mask, truth: Mask, tolerance_px: int = 0) -> float:
    """Harmonic mean of precision and recall, in [0, 1].

    Empty truth: 1 when the proposal is empty, else 0. pred, truth: (H, W) bool.
    Raises ValueError for masks of different shapes.
    """
    if not truth.any() or not pred.any():
        _check_shapes(pred, truth)
        return float(pred.any() == truth.any())
    p = precision(pred, truth, tolerance_px)
    r = recall(pred, truth, tolerance_px)
    return 2 * p * r / (p + r) if p + r > 0 else 0.0


def iou(pred: Mask, truth: Mask) -> float:
    """Intersection over union, in [0, 1]; two empty masks are equal: 1."""
    _check_shapes(pred, truth)
    union = int(np.count_nonzero(pred | truth))
    return int(np.count_nonzero(pred & truth)) / union if union else 1.0


def mean_f_measure(pairs: Iterable[tuple[Mask, Mask]], tolerance_px: int = 0) -> float:
    """Mean over images of the F-measure of (pred, truth); raises ValueError without images."""
    values = [f_measure(pred, truth, tolerance_px) for pred, truth in pairs]
    if not values:
        raise ValueError("no masks to compare; give at least one pair")
    return float(np.mean(values))


def f_measure_of_counts(
    true_positive: float, false_positive: float, false_negative: float
) -> float:
    """F-measure of a classifier from its (weighted) counts; 0 when nothing was right."""
    wrong = false_positive + false_negative
    return 2 * true_positive / (2 * true_positive + wrong) if true_positive > 0 else 0.0


def _share_within(these: Mask, those: Mask, tolerance_px: int) -> float:
    _check_shapes(these, those)
    total = int(np.count_nonzero(these))
    return int(np.count_nonzero(these & grown(those, tolerance_px))) / total if total else 1.0


def outline_px(mask: Mask) -> int:
    """Count the pixels of the (H, W) mask with one of four neighbours outside it or the image."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(np.pad(mask.astype(np.uint8), 1), cross)
    return int(np.count_nonzero(mask)) - int(np.count_nonzero(inner))


def grown(mask: Mask, radius_px: int) -> Mask:
    """Return all pixels within `radius_px` of the mask: dilation by a disc."""
    if radius_px == 0:
        return mask
    offsets = np.arange(-radius_px, radius_px + 1)
    disc = (offsets[:, None] ** 2 + offsets**2 <= radius_px**2).astype(np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc), dtype=bool)


def _check_shapes(pred: Mask, truth: Mask) -> None:
    if pred.shape != truth.shape:
        raise ValueError(f"masks of {pred.shape} and {truth.shape} pixels cannot be compared")
