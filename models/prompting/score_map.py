"""The refined score map of a class on one image: all masks that a threshold could have given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models import refine
from models.base import HeatMap, Image
from models.masks.settings import Settings

TOP = 255
THRESHOLDS = 64  # tried, evenly spaced
THRESHOLDS_SLOW = 8  # of a refinement that takes long
LARGE_PX, THRESHOLDS_LARGE = 4_000_000, 24  # larger images are cut less finely

GAP_SHARE, MOST_GAP_PX = 0.03, 40  # of the longer side
SMOOTHING_PX = 1.5  # of the colours

Levels = npt.NDArray[np.uint8]  # (H, W)
Picture = npt.NDArray[np.uint8]  # (H, W, 3) smoothed, CIE L*a*b* as OpenCV scales it


@dataclass(frozen=True)
class ScoreMap:
    """What prompts about a class on an image are answered from.

    levels: (H, W) uint8, TOP x the largest threshold at which the refinement puts a pixel into
        the mask, gaps closed; 0 = never.
    cut: the version's own threshold on the same scale, 1 to TOP: its mask is `levels >= cut`, up
        to the specks that it drops.
    closing_px: width up to which the refinement closes gaps.
    gap_px: width of the gaps over which a part goes on: thin defects are seen in pieces.
    """

    levels: Levels
    cut: int
    closing_px: int
    gap_px: int


@dataclass(frozen=True)
class Seen:
    """What prompts on an image need: its colours, and a score map per class, all of one size."""

    picture: Picture
    maps: Mapping[str, ScoreMap]

    @property
    def nbytes(self) -> int:
        """Return the bytes of the arrays."""
        return self.picture.nbytes + sum(one.levels.nbytes for one in self.maps.values())


def of(image: Image, heat: HeatMap, settings: Settings) -> ScoreMap:
    """Refine a heat map (H, W) in [0, 1] at many thresholds at once.

    Refinements are nested: a higher threshold never adds a pixel. So one number per pixel holds
    the masks of all thresholds, and closing the gaps of that map closes them in each mask.
    """
    method = refine.get(settings.refine)
    cut, own = method.prepare(image, heat, width_px=settings.width_px), as_level(settings.threshold)
    levels = np.zeros(heat.shape, dtype=np.uint8)
    for level in _grid(heat.size, own, is_slow=method.is_slow):
        mask = cut(settings.threshold if level == own else (level - 0.5) / TOP)
        if not mask.any():
            break
        levels[mask] = level
    closing_px = settings.closing_px
    if closing_px is None:
        closing_px = method.closing_for(settings.width_px)
    is_thin = np.isfinite(method.most_width_px)
    gap_px = min(round(GAP_SHARE * max(heat.shape)), MOST_GAP_PX) if is_thin else 0
    return ScoreMap(closed(levels, closing_px), own, closing_px, gap_px)


def smoothed(image: Image) -> Image:
    """Return the image without its grain, (H, W, 3) uint8 RGB."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), SMOOTHING_PX), dtype=np.uint8)


def colours(image: Image) -> Picture:
    """Return the colours of a smoothed image as distances between them are measured."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), dtype=np.uint8)


def as_level(threshold: float) -> int:
    """Return a threshold in [0, 1] as the least level that exceeds it, 1 to TOP."""
    return int(min(max(np.floor(threshold * TOP) + 1, 1), TOP))


def _grid(pixels: int, own: int, *, is_slow: bool) -> list[int]:
    """Return the levels to cut at, rising; the version's `own` is among them."""
    number = THRESHOLDS_LARGE if pixels > LARGE_PX else THRESHOLDS
    number = THRESHOLDS_SLOW if is_slow else number
    even = np.linspace(TOP / number, TOP, number).round().astype(int).tolist()
    return sorted({*even, own})


def closed(levels: Levels, diameter_px: int) -> Levels:
    """Close gaps in the masks of all thresholds: flat closing and thresholding commute."""
    diameter_px |= 1
    if diameter_px == 1 or not levels.any():
        return levels
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter_px, diameter_px))
    return np.asarray(cv2.morphologyEx(levels, cv2.MORPH_CLOSE, element), dtype=np.uint8)
