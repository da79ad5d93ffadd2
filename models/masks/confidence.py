"""How sure each region of a proposed mask is: the chance that at least half of it is defect.

A logistic regression on what a region shows of itself, fitted on the regions that were proposed on
verified masks. Its reliability is measured on images that were left out of the fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from models.base import HeatMap, Mask, Region
from models.masks.components import label, largest_first

FEATURES = ("mean heat", "max heat", "log area", "score")
LEAST_REGIONS = 20  # proposed on verified masks; fewer teach nothing
LEAST_IMAGES = 4  # that they lie on
FOLDS = 5
BINS = 10
_RIDGE = 1.0  # on standardised weights: a prior that a feature matters little
_ROUNDS = 30  # of Newton's method at most

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Confidence:
    """A fitted model, JSON-able by `dataclasses.asdict` and back by its fields.

    mean, scale, weights: of FEATURES, (4,) each; probability = sigmoid(bias + weights . z) with
    z = (feature - mean) / scale. Without weights, nothing was learnt: see `of`.
    """

    mean: Sequence[float] = ()
    scale: Sequence[float] = ()
    weights: Sequence[float] = ()
    bias: float = 0.0

    def of(self, features: Floats) -> Floats:
        """(N, 4) -> (N,) probabilities in [0, 1].

        Without weights: the score of the class times the region's largest heat. So the hottest
        region is as sure as the class is; a ranking, not a calibrated probability.
        """
        if not self.weights:
            return np.asarray(np.clip(features[:, 1] * features[:, 3], 0, 1))
        z = (features - np.array(self.mean)) / np.array(self.scale)
        return _sigmoid(z @ np.array(self.weights) + self.bias)


@dataclass(frozen=True)
class Proposed:
    """A mask proposed on an image whose true mask is known; `score` that the class is present."""

    mask: Mask
    heat: HeatMap
    score: float
    truth: Mask


def regions(mask: Mask, heat: HeatMap, score: float, confidence: Confidence) -> tuple[Region, ...]:
    """Describe the 8-connected parts of a mask, largest first, upper ones first among equals."""
    labels, boxes = label(mask)
    if not len(boxes):
        return ()
    sure = confidence.of(_features(labels, boxes, heat, score))
    order = largest_first(boxes)
    found = zip(boxes[order].tolist(), sure[order].tolist(), strict=True)
    return tuple(
        Region(x, y, width, height, area, chance) for (x, y, width, height, area), chance in found
    )


def fit(proposals: Iterable[Proposed]) -> tuple[Confidence, dict[str, Any]]:
    """Learn from the regions proposed on verified masks; returns the model and its reliability.

    The reliability, see `reliability`, is that of models fitted on the other images: each image is
    left out once, in FOLDS groups. Below LEAST_REGIONS regions on LEAST_IMAGES images nothing is
    learnt, and the report says why.
    """
    features, right, image = _examples(proposals)
    images = np.unique(image)
    if len(right) < LEAST_REGIONS or len(images) < LEAST_IMAGES:
        why = (
            f"{len(right)} regions on {len(images)} verified images; {LEAST_REGIONS} on "
            f"{LEAST_IMAGES} are needed"
        )
        return Confidence(), {"calibrated": False, "regions": len(right), "why": why}
    fold = np.searchsorted(images, image) % FOLDS
    predicted = np.zeros(len(right))
    for number in np.unique(fold):
        left_out = fold == number
        model = _fit(features[~left_out], right[~left_out])
        predicted[left_out] = model.of(features[left_out])
    report = {"calibrated": True, "images": len(images), **reliability(predicted, right)}
    return _fit(features, right), report


def reliability(predicted: Floats, right: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """(N,) probabilities and (N,) outcomes -> how well they agree, JSON-able; N >= 1.

    bins: of equal width, empty ones left out; in each the mean `predicted`, the share `observed`
    and the `count`. ece: the mean distance of the two, weighted by count. brier: the mean squared
    error; `brier_of_the_share`: that of always answering the share of right ones, to beat.
    """
    place = np.minimum((predicted * BINS).astype(int), BINS - 1)
    bins = []
    for number in np.unique(place):
        inside = place == number
        bins.append(
            {
                "predicted": float(predicted[inside].mean()),
                "observed": float(right[inside].mean()),
                "count": int(inside.sum()),
            }
        )
    gaps = [entry["count"] * abs(entry["predicted"] - entry["observed"]) for entry in bins]
    share = float(right.mean())
    return {
        "regions": len(right),
        "right": int(right.sum()),
        "ece": sum(gaps) / len(right),
        "brier": float(np.mean((predicted - right) ** 2)),
        "brier_of_the_share": share * (1 - share),
        "bins": bins,
    }


def _examples(
    proposals: Iterable[Proposed],
) -> tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """Return (N, 4) features, (N,) whether half of the region is defect, (N,) image numbers."""
    features: list[Floats] = [np.zeros((0, len(FEATURES)))]
    right: list[npt.NDArray[np.bool_]] = [np.zeros(0, bool)]
    image: list[int] = []
    for number, proposed in enumerate(proposals):
        labels, boxes = label(proposed.mask)
        features.append(_features(labels, boxes, proposed.heat, proposed.score))
        hit = np.bincount(labels[proposed.truth], minlength=len(boxes) + 1)[1:]
        right.append(2 * hit >= boxes[:, cv2.CC_STAT_AREA])
        image += [number] * len(boxes)
    return np.concatenate(features), np.concatenate(right), np.array(image, dtype=np.intp)


def _features(
    labels: npt.NDArray[np.int32], boxes: npt.NDArray[np.int32], heat: HeatMap, score: float
) -> Floats:
    """Return (N, 4), see FEATURES, of the regions 1 to N."""
    inside = labels > 0
    part, hot = labels[inside] - 1, heat[inside].astype(np.float64)
    area = boxes[:, cv2.CC_STAT_AREA].astype(np.float64)
    hottest = np.zeros(len(boxes))
    np.maximum.at(hottest, part, hot)
    mean = np.bincount(part, hot, len(boxes)) / area
    return np.stack((mean, hottest, np.log(area), np.full(len(boxes), score)), axis=1)


def _fit(features: Floats, right: npt.NDArray[np.bool_]) -> Confidence:
    """Fit by Newton's method, with Platt's targets: never quite 0 or 1, so finite for any data."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale < 1e-9] = 1.0  # a feature that never varies
    z = np.column_stack(((features - mean) / scale, np.ones(len(features))))
    yes, no = int(right.sum()), int((~right).sum())
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    ridge = np.diag([_RIDGE] * len(FEATURES) + [1e-6])
    weights = np.zeros(z.shape[1])
    for _ in range(_ROUNDS):
        chance = _sigmoid(z @ weights)
        slope = z.T @ (target - chance) - ridge @ weights
        step = np.linalg.solve((z * (chance * (1 - chance))[:, None]).T @ z + ridge, slope)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    return Confidence(
        tuple(mean.tolist()),
        tuple(scale.tolist()),
        tuple(weights[:-1].tolist()),
        float(weights[-1]),
    )


def _sigmoid(z: Floats) -> Floats:
    return np.asarray(0.5 + 0.5 * np.tanh(z / 2))
