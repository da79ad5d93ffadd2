"""How well a proposed mask matches the true one.

With a tolerance, a proposed pixel is right within `tolerance_px` (Euclidean) of a true one, and a
true pixel is found within `tolerance_px` of a proposed one. Counts of several images add up: the
figures of their sum are the pooled ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models.base import Mask

PATCH_PX = 32  # SCNet's patches for the region F-measure
LEAST_IN_PATCH = 0.05  # share of a patch's area that makes it positive
LEAST_HIT = 0.5  # share of the true pixels of a patch, or of an instance, that counts as found
SAVING_GROUPS = (0.95, 0.75, 0.50)  # lower bounds of the share of time saved


@dataclass(frozen=True)
class Matches:
    """Pixels of one or more images: `right` of the `proposed`, `found` of the `true` ones."""

    proposed: int = 0
    right: int = 0
    true: int = 0
    found: int = 0

    def __add__(self, other: Matches) -> Matches:
        return Matches(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def precision(self) -> float:
        """Share of proposed pixels that are right, in [0, 1]; 1 when nothing is proposed."""
        return self.right / self.proposed if self.proposed else 1.0

    @property
    def recall(self) -> float:
        """Share of true pixels that are found, in [0, 1]; 1 when nothing is there."""
        return self.found / self.true if self.true else 1.0

    @property
    def f_measure(self) -> float:
        """Harmonic mean of both, in [0, 1]; without true pixels 1 if nothing is proposed, or 0."""
        if not (self.proposed and self.true):
            return float(self.proposed == self.true)
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class Counts:
    """Right, wrong and missed decisions about patches."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def f_measure(self) -> float:
        """F-measure in [0, 1]; 1 when there was nothing to find and nothing was proposed."""
        if not any(astuple(self)):
            return 1.0
        return f_measure_of_counts(*astuple(self))


@dataclass(frozen=True)
class Instances:
    """How many of the true instances were found."""

    found: int = 0
    total: int = 0

    def __add__(self, other: Instances) -> Instances:
        return Instances(self.found + other.found, self.total + other.total)

    @property
    def recall(self) -> float | None:
        """Share found, in [0, 1]; None without instances."""
        return self.found / self.total if self.total else None


def matches(pred: Mask, truth: Mask, tolerance_px: int = 0) -> Matches:
    """Count matching pixels of two (H, W) bool masks; raises ValueError if their shapes differ."""
    _check_shapes(pred, truth)
    return Matches(
        proposed=_count(pred),
        right=_count(pred & grown(truth, tolerance_px)),
        true=_count(truth),
        found=_count(truth & grown(pred, tolerance_px)),
    )


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
    return matches(pred, truth, tolerance_px).f_measure


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


def region_counts(pred: Mask, truth: Mask, *, symmetric: bool = False) -> Counts:
    """Decide for each patch of PATCH_PX (cut off at the image's edge) whether it was found.

    SCNet: a patch is positive when LEAST_IN_PATCH of its area is true, and found when LEAST_HIT of
    its true pixels are proposed. A negative patch is a false alarm when LEAST_IN_PATCH of its area
    is proposed, which SCNet leaves open. symmetric: the area rule for both masks instead.
    """
    _check_shapes(pred, truth)
    least = LEAST_IN_PATCH * _per_patch(np.ones_like(truth))
    true, proposed = _per_patch(truth), _per_patch(pred)
    positive, alarm = true >= least, proposed >= least
    hit = alarm if symmetric else _per_patch(pred & truth) >= LEAST_HIT * true
    return Counts(_count(positive & hit), _count(~positive & alarm), _count(positive & ~hit))


def instances(pred: Mask, truth: Mask, tolerance_px: int = 0) -> Instances:
    """Count the 8-connected parts of the truth, and those covered to LEAST_HIT of their pixels."""
    _check_shapes(pred, truth)
    number, labels = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
    sizes = np.bincount(labels.ravel(), minlength=number)[1:]
    covered = np.bincount(labels[grown(pred, tolerance_px)], minlength=number)[1:]
    return Instances(_count(covered >= LEAST_HIT * sizes), number - 1)


def relative_time_saving(shares: Sequence[float]) -> float:
    """Janouskova et al.: measured shares of annotation time saved, per instance -> [0, 0.95].

    Each share counts as the lower bound of its group, [0.95, 1], [0.75, 0.95), [0.50, 0.75), and
    as nothing below. Raises ValueError without instances.
    """
    if not shares:
        raise ValueError("no instances to average over; give the time saved for at least one")
    counted = [next((low for low in SAVING_GROUPS if share >= low), 0.0) for share in shares]
    return float(np.mean(counted))


def outline(mask: Mask) -> Mask:
    """Return the pixels of the (H, W) mask with one of four neighbours outside it or the image."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(np.pad(mask.astype(np.uint8), 1), cross)[1:-1, 1:-1]
    return np.asarray(mask & (inner == 0), dtype=np.bool_)


def outline_px(mask: Mask) -> int:
    """Count the pixels of `outline`."""
    return _count(outline(mask))


def grown(mask: Mask, radius_px: int) -> Mask:
    """Return all pixels within `radius_px` of the mask: dilation by a disc."""
    if radius_px == 0:
        return mask
    offsets = np.arange(-radius_px, radius_px + 1)
    disc = (offsets[:, None] ** 2 + offsets**2 <= radius_px**2).astype(np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc), dtype=bool)


def _count(mask: npt.NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask))


def _per_patch(mask: Mask) -> npt.NDArray[np.int64]:
    """Count the pixels of a mask in each patch; (H, W) -> (rows, columns) of patches."""
    rows, columns = (-(-side // PATCH_PX) for side in mask.shape)
    padded = np.zeros((rows * PATCH_PX, columns * PATCH_PX), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    patches = padded.reshape(rows, PATCH_PX, columns, PATCH_PX)
    return np.asarray(patches.sum(axis=(1, 3)), dtype=np.int64)


def _check_shapes(pred: Mask, truth: Mask) -> None:
    if pred.shape != truth.shape:
        raise ValueError(f"masks of {pred.shape} and {truth.shape} pixels cannot be compared")
