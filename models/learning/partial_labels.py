"""What people have said of a class, per pixel: verified masks, and clicks that speak of little."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from models.base import Sample, WeakPoint
from models.learning.dense_crops import DenseSample, Ints, Load


def verified(sample: Sample, class_name: str) -> Load:
    """Give the verified mask of the class, every pixel of it with the weight of the sample."""

    def load() -> DenseSample:
        target = sample.masks[class_name]().astype(np.float32)
        return DenseSample(sample.load(), target, np.full_like(target, sample.weight))

    return load


def clicked(
    sample: Sample, class_name: str, *, patch_px: int, radius_px: float, weight: float
) -> Load:
    """Give what the weak points of the class say; all other pixels have weight 0.

    A positive point speaks of the disc of `radius_px` around it, a negative one of the square of
    `patch_px` around it, with `weight` x its own. A negative whose square holds a positive says
    nothing; where both speak, the positive is believed.
    """
    points = [p for p in sample.points if p.class_name == class_name and p.weight > 0]
    positives = [p for p in points if p.positive]
    negatives = [p for p in points if not p.positive and not _near(p, positives, patch_px // 2)]

    def load() -> DenseSample:
        image = sample.load()
        target, weights = (np.zeros(image.shape[:2], dtype=np.float32) for _ in range(2))
        for point in sorted(negatives, key=lambda p: p.weight):
            rows, columns = (_span(at, patch_px / 2) for at in (point.y_px, point.x_px))
            weights[rows, columns] = weight * point.weight
        for point in sorted(positives, key=lambda p: p.weight):
            disc = _disc(point, image.shape[:2], radius_px)
            target[disc], weights[disc] = 1, weight * point.weight
        return DenseSample(image, target, weights)

    return load


def has_points(sample: Sample, class_name: str) -> bool:
    """Tell whether any weak point of the sample counts for the class."""
    return any(p.class_name == class_name and p.weight > 0 for p in sample.points)


def _near(point: WeakPoint, others: Sequence[WeakPoint], reach_px: int) -> bool:
    return any(
        max(abs(point.x_px - other.x_px), abs(point.y_px - other.y_px)) <= reach_px
        for other in others
    )


def _span(at_px: float, reach_px: float) -> slice:
    """Whole pixels within reach, those before the image's edge left out."""
    return slice(max(math.ceil(at_px - reach_px), 0), max(math.floor(at_px + reach_px) + 1, 0))


def _disc(point: WeakPoint, shape: tuple[int, ...], radius_px: float) -> tuple[Ints, Ints]:
    """Return rows and columns of the pixels within `radius_px` of the point's own."""
    at = int(point.y_px), int(point.x_px)
    rows, columns = (np.arange(shape[axis])[_span(at[axis], radius_px)] for axis in range(2))
    near = (rows[:, None] - at[0]) ** 2 + (columns - at[1]) ** 2 <= radius_px**2
    inside = np.nonzero(near)
    return rows[inside[0]], columns[inside[1]]
