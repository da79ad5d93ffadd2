"""Whether the confidences of two versions' regions can be believed, on validation tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.base import Mask, Region
from models.masks.components import label
from models.masks.confidence import BINS, reliability

LEAST_REGIONS = 20  # of each version: fewer say nothing of ten bins
WORSE_ECE = 0.1

Sure = tuple[float, bool]  # confidence of a region in [0, 1]; whether half of it is defect
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """ece_rise: by how much the expected calibration error is larger; at_least: with 95 %."""

    ece_rise: float
    at_least: float

    @property
    def is_clearly_worse(self) -> bool:
        """Say whether it is larger by more than WORSE_ECE, and not by chance."""
        return self.ece_rise > WORSE_ECE and self.at_least > 0


def of_regions(mask: Mask, regions: Sequence[Region], truth: Mask) -> tuple[Sure, ...]:
    """Pair the confidence of each region of a proposed mask with whether it was right.

    mask, truth: (H, W) bool. Regions that are no part of the mask say nothing here.
    """
    labels, boxes = label(mask)
    hits = np.bincount(labels[truth], minlength=len(boxes) + 1)[1:]
    right = {
        tuple(box): bool(2 * hit >= box[-1])
        for box, hit in zip(boxes.tolist(), hits.tolist(), strict=True)
    }
    places = [(r.x_px, r.y_px, r.width_px, r.height_px, r.area_px) for r in regions]
    pairs = zip(regions, places, strict=True)
    return tuple((float(r.confidence), right[place]) for r, place in pairs if place in right)


def figures(regions: Sequence[Sure]) -> dict[str, Any]:
    """Return the expected calibration error and the Brier score of some regions, JSON-able."""
    if not regions:
        return {"regions": 0}
    predicted, right = _arrays(regions)
    found = reliability(predicted, right)
    return {name: found[name] for name in ("regions", "ece", "brier")}


def compare(
    before: Sequence[Sequence[Sure]], after: Sequence[Sequence[Sure]], drawn: npt.NDArray[np.int64]
) -> Comparison | None:
    """Compare two versions' regions, given by task in the same order; None with too few.

    drawn: (R, T) indices of resampled tasks. The expected calibration error (Naeini et al. 2015,
    ten bins) of so few regions is too large, but for both versions alike.
    """
    tables = [_table(by_task) for by_task in (before, after)]
    if min(float(counts.sum()) for _, counts in tables) < LEAST_REGIONS:
        return None
    resamples, tasks = drawn.shape
    places = (np.arange(resamples)[:, None] * tasks + drawn).ravel()
    times = np.bincount(places, minlength=resamples * tasks).reshape(resamples, tasks)
    old, new = (_ece(times @ gaps, times @ counts) for gaps, counts in tables)
    whole_old, whole_new = (
        float(_ece(gaps.sum(axis=0)[None], counts.sum()[None])[0]) for gaps, counts in tables
    )
    return Comparison(whole_new - whole_old, float(np.quantile(new - old, 0.05)))


def _table(by_task: Sequence[Sequence[Sure]]) -> tuple[Values, Values]:
    """Return (T, BINS) sums of confidence minus outcome, and (T,) numbers of regions."""
    gaps = []
    for regions in by_task:
        predicted, right = _arrays(regions)
        bins = np.minimum((predicted * BINS).astype(int), BINS - 1)
        gaps.append(np.bincount(bins, predicted - right, BINS))
    return np.array(gaps), np.array([len(regions) for regions in by_task], dtype=np.float64)


def _ece(gaps: Values, counts: Values) -> Values:
    """(R, BINS) and (R,) -> (R,); 0 without regions."""
    errors: Values = np.abs(gaps).sum(axis=1) / np.maximum(counts, 1)
    return errors


def _arrays(regions: Sequence[Sure]) -> tuple[Values, npt.NDArray[np.bool_]]:
    predicted = np.array([confidence for confidence, _ in regions], dtype=np.float64)
    return predicted, np.array([right for _, right in regions], dtype=np.bool_)
