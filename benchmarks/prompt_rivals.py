"""Other ways to choose the threshold of a clicked part, which `prompts.py` compares with ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models.base import Mask
from models.prompting import parts
from models.prompting.parts import Box, Pixel
from models.prompting.score_map import Levels

STEPS = 28  # thresholds tried, geometrically from LOWEST of the level at the click
LOWEST = 0.1
STEADY = (0.8, 1.25)  # the factors of the threshold between which a part is to be stable
HALF = 0.5
MARGIN_PX = 16  # of the surroundings that Otsu's method sees


@dataclass(frozen=True)
class Growth:
    """The nested parts around a seed; part k is `reach > k` at thresholds[k], in a box."""

    levels: Levels
    seed: Pixel
    thresholds: npt.NDArray[np.int64]
    box: Box
    reach: npt.NDArray[np.uint8]

    def whole(self, index: int) -> Mask:
        """Return a part in the whole image, (H, W)."""
        mask = np.zeros(self.levels.shape, dtype=bool)
        mask[self.box] = self.reach > index
        return mask

    def all(self) -> Iterator[Mask]:
        """Yield the parts of all thresholds, each in the whole image."""
        return (self.whole(index) for index in range(len(self.thresholds)))

    def at(self, threshold: float) -> int:
        """Return the first part cut at this threshold or above, at most the seed's own level."""
        return min(int(np.searchsorted(self.thresholds, threshold)), len(self.thresholds) - 1)


def grow(levels: Levels, seed: Pixel) -> Growth:
    """Return the nested parts around a seed with a level of 1 or more."""
    top = int(levels[seed])
    tried = np.unique(np.geomspace(max(1.0, LOWEST * top), top, STEPS).round().astype(int))
    largest = parts.connected(levels, seed, int(tried[0]))
    box = parts.bounds(largest)
    inside = (seed[0] - box[0].start, seed[1] - box[1].start)
    inner, reach = np.ascontiguousarray(levels[box]), largest[box].astype(np.uint8)
    for threshold in tried[1:]:
        reach += parts.connected(inner, inside, int(threshold))
    return Growth(levels, seed, tried, box, reach)


def version_threshold(growth: Growth, cut: int) -> int:
    """The version's own threshold, the same for all parts."""
    return growth.at(cut)


def half_of_the_click(growth: Growth, _cut: int) -> int:
    """Half of the level at the click."""
    return growth.at(HALF * growth.thresholds[-1])


def steepest_outline(growth: Growth, _cut: int) -> int:
    """The outline along which the map is steepest, on average."""
    inner = growth.levels[growth.box].astype(np.float32)
    slope = np.hypot(cv2.Sobel(inner, -1, 1, 0), cv2.Sobel(inner, -1, 0, 1))
    steepness = []
    for index in range(len(growth.thresholds)):
        part = (growth.reach > index).astype(np.uint8)
        outline = (part > 0) & (cv2.erode(part, np.ones((3, 3), np.uint8), borderValue=1) == 0)
        steepness.append(float(slope[outline].mean()) if outline.any() else 0.0)
    return int(np.argmax(steepness))


def most_stable(growth: Growth, _cut: int) -> int:
    """The part whose area changes least between STEADY thresholds, as in MSER."""
    areas = np.array([(growth.reach > n).sum() for n in range(len(growth.thresholds))], float)
    lower, upper = ([growth.at(f * t) for t in growth.thresholds] for f in STEADY)
    change = (areas[lower] - areas[upper]) / areas
    change[growth.thresholds > 0.9 * growth.thresholds[-1]] = np.inf
    return int(np.argmin(change))


def otsu(growth: Growth, _cut: int) -> int:
    """Otsu's threshold between the part and its surroundings."""
    rows, columns = (
        slice(max(0, side.start - MARGIN_PX), side.stop + MARGIN_PX) for side in growth.box
    )
    around = np.ascontiguousarray(growth.levels[rows, columns])
    threshold, _ = cv2.threshold(around, 0, 255, cv2.THRESH_OTSU)
    return growth.at(threshold + 1)


RIVALS = {
    "version's threshold": version_threshold,
    "half of the click": half_of_the_click,
    "steepest outline": steepest_outline,
    "most stable": most_stable,
    "Otsu around it": otsu,
}
