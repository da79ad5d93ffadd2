"""How well a score map ranks pixels: figures over all its thresholds, summed up image by image.

Scores are ranked in LEVELS steps; a threshold k proposes the pixels of level k and above. ODS and
OIS after Koenig et al., who use 99 thresholds; here there are 255, level 1 to 255.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.base import HeatMap, Mask

LEVELS = 256
HALF = LEVELS // 2
ROUNDING = 1e-3  # what filters may add to heat at its ends

Levels = npt.NDArray[np.uint8]  # (H, W)
Values = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def ranking_levels(mask: Mask, heat: HeatMap) -> Levels:
    """Rank pixels as they are shown: inside the proposed mask first, within each part by heat.

    The score is 0.5 + 0.5 heat inside and 0.5 heat outside, in steps of 1 / LEVELS; no pixel
    outside reaches one inside, so that threshold HALF gives the proposal itself.
    mask: (H, W) bool; heat: (H, W) in [0, 1]. Raises ValueError for heat beyond that by more
    than ROUNDING, or that is not a number.
    """
    if mask.shape != heat.shape:
        raise ValueError(f"mask of {mask.shape} and heat of {heat.shape} pixels do not belong")
    if not (heat.min(initial=0.0) >= -ROUNDING and heat.max(initial=0.0) <= 1 + ROUNDING):
        raise ValueError(
            f"heat from {heat.min()} to {heat.max()} cannot be ranked; it must lie in [0, 1]"
        )
    within = np.clip(heat * HALF, 0, HALF - 1).astype(np.uint8)
    return np.asarray(within + np.uint8(HALF) * mask, dtype=np.uint8)


class Curves:
    """Sums over any number of images, in memory that does not depend on them.

    Without a true pixel in all images, `average_precision` and the areas are None; without
    images, all figures are.
    """

    def __init__(self) -> None:
        self.images = 0
        self._true = np.zeros(LEVELS, np.int64)  # true pixels of each level
        self._false = np.zeros(LEVELS, np.int64)
        self._f_sums = np.zeros(LEVELS - 1)  # at thresholds 1 to 255
        self._best_f_sum = 0.0

    def add(self, levels: Levels, truth: Mask) -> None:
        """Take in one image: (H, W) uint8 and bool; raises ValueError if their shapes differ."""
        if levels.shape != truth.shape:
            raise ValueError(f"levels of {levels.shape} and truth of {truth.shape} do not belong")
        true = np.bincount(levels[truth], minlength=LEVELS)
        false = np.bincount(levels.ravel(), minlength=LEVELS) - true
        f = _f_measures(true, false)[1:]
        self.images += 1
        self._true += true
        self._false += false
        self._f_sums += f
        self._best_f_sum += float(f.max())

    @property
    def true_share(self) -> float:
        """Share of all pixels that are true, in [0, 1]; 0 without images."""
        return float(self._true.sum()) / max(1, int((self._true + self._false).sum()))

    @property
    def ods(self) -> float | None:
        """Best mean over images of the F-measure at one threshold for all (Koenig's ODS)."""
        return float(self._f_sums.max()) / self.images if self.images else None

    @property
    def ods_pooled(self) -> float | None:
        """Best F-measure of the pooled pixels at one threshold (the ODS of edge detection)."""
        f = _f_measures(self._true, self._false)[1:]
        return float(f.max()) if self.images else None

    @property
    def ois(self) -> float | None:
        """Mean over images of the best F-measure at a threshold of their own."""
        return self._best_f_sum / self.images if self.images else None

    @property
    def average_precision(self) -> float | None:
        """Sum over thresholds 1 to 255 of the recall gained there times the precision, pooled.

        Koenig's equation 11 without its factor 1/T; true pixels of level 0 are never found.
        """
        return self._area(first=1)

    @property
    def auprc(self) -> float | None:
        """Area under the pooled precision-recall curve by steps, down to threshold 0."""
        return self._area(first=0)

    @property
    def auprc_trapezoid(self) -> float | None:
        """The same area with straight lines between the points, from (recall 0, precision 1)."""
        if not self._true.sum():
            return None
        precision, recall = self._precision_recall()
        points = np.append(precision, 1.0), np.append(recall, 0.0)
        return float(-np.trapezoid(*points))

    def _area(self, first: int) -> float | None:
        if not self._true.sum():
            return None
        precision, recall = self._precision_recall()
        gained = recall - np.append(recall[1:], 0.0)
        return float((precision * gained)[first:].sum())

    def _precision_recall(self) -> tuple[Values, Values]:
        """Return both at thresholds 0 to 255; precision 1 where nothing is proposed."""
        found, proposed = _at_least(self._true), _at_least(self._true + self._false)
        precision = np.where(proposed > 0, found / np.maximum(proposed, 1), 1.0)
        return precision, found / found[0]


def _at_least(histogram: Ints) -> Ints:
    """Turn counts per level into counts of that level and above."""
    return np.asarray(np.cumsum(histogram[::-1])[::-1], dtype=np.int64)


def _f_measures(true: Ints, false: Ints) -> Values:
    """F-measure at thresholds 0 to 255; 1 where nothing is true and nothing proposed."""
    found, proposed = _at_least(true), _at_least(true + false)
    both = proposed + int(true.sum())
    return np.where(both > 0, 2 * found / np.maximum(both, 1), 1.0)
