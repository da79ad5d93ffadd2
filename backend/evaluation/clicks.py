"""Clicks as a person would give them, derived from a true mask."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from models.base import Mask, WeakPoint

MARGIN = 0.06  # of a patch: clean beyond its edge, since crops around negatives move a little

Points = npt.NDArray[np.int64]  # (N, 2) row, column


def clicks(
    truth: Mask, class_name: str, count: int, patch_px: int, rng: np.random.Generator
) -> tuple[WeakPoint, ...]:
    """Return `count` clicks on the defect and `count` amid clean patches; fewer where none fit."""
    signs = (
        (on_defect(truth, count, rng), True),
        (in_clean_patches(truth, count, patch_px, rng), False),
    )
    return tuple(
        WeakPoint(class_name, float(x), float(y), positive)
        for places, positive in signs
        for y, x in places.tolist()
    )


def on_defect(truth: Mask, count: int, rng: np.random.Generator) -> Points:
    """Draw pixels of the truth, each at most once.

    Each click chooses a connected part in proportion to the square root of its area, so that
    large parts do not take all clicks and specks not most, and any pixel of it.
    """
    places = np.flatnonzero(truth)
    parts = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)[1].ravel()[places]
    _, part_of, areas = np.unique(parts, return_inverse=True, return_counts=True)
    weights = (1 / np.sqrt(areas))[part_of]
    return _drawn(places, count, truth.shape[1], rng, weights)


def in_clean_patches(truth: Mask, count: int, patch_px: int, rng: np.random.Generator) -> Points:
    """Draw centres of square patches within the image that hold nothing of the truth.

    An image smaller than a patch in one direction has its middle there.
    """
    side = patch_px + 2 * round(MARGIN * patch_px) + 1
    near = cv2.boxFilter(
        truth.astype(np.uint8),
        cv2.CV_32S,
        (side, side),
        normalize=False,
        borderType=cv2.BORDER_CONSTANT,
    )
    clean = np.zeros_like(truth)
    inside = tuple(_centres(length_px, patch_px) for length_px in truth.shape)
    clean[inside] = near[inside] == 0
    places = np.flatnonzero(clean)
    return _drawn(places, count, truth.shape[1], rng)


def _centres(length_px: int, patch_px: int) -> slice:
    """Return where a patch's centre may lie along one side; the middle when none fits."""
    half = patch_px // 2
    if length_px <= 2 * half:
        return slice(length_px // 2, length_px // 2 + 1)
    return slice(half, length_px - half)


def _drawn(
    places: npt.NDArray[np.intp],
    count: int,
    width_px: int,
    rng: np.random.Generator,
    weights: npt.NDArray[np.float64] | None = None,
) -> Points:
    """Draw up to `count` different flat indices, equally often or in proportion to weights."""
    number = min(count, len(places))
    if number == 0:
        return np.zeros((0, 2), np.int64)
    chances = None if weights is None else weights / weights.sum()
    drawn = rng.choice(places, size=number, replace=False, p=chances)
    return np.stack(np.divmod(drawn, width_px), axis=1).astype(np.int64)
