"""F-measure and IoU against distances computed pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from models import metrics
from models.base import Mask


def random_mask(seed: int, share: float = 0.05) -> Mask:
    return np.random.default_rng(seed).random((23, 31)) < share


def share_within(these: Mask, those: Mask, tolerance_px: float) -> float:
    """By the definition: the distance from each pixel to the nearest of the others."""
    a, b = np.argwhere(these), np.argwhere(those)
    distances = np.sqrt(((a[:, None] - b) ** 2).sum(axis=2)).min(axis=1)
    return float((distances <= tolerance_px).mean())


@pytest.mark.parametrize("tolerance_px", [0, 1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_precision_and_recall_count_pixels_within_the_distance(
    seed: int, tolerance_px: int
) -> None:
    pred, truth = random_mask(seed), random_mask(seed + 10, 0.1)
    p = share_within(pred, truth, tolerance_px)
    r = share_within(truth, pred, tolerance_px)
    assert metrics.precision(pred, truth, tolerance_px) == pytest.approx(p)
    assert metrics.recall(pred, truth, tolerance_px) == pytest.approx(r)
    expected = 2 * p * r / (p + r) if p + r else 0.0
    assert metrics.f_measure(pred, truth, tolerance_px) == pytest.approx(expected)


def test_a_line_shifted_by_two_is_right_only_with_tolerance() -> None:
    truth = np.zeros((20, 20), bool)
    truth[10] = True
    assert metrics.f_measure(np.roll(truth, 2, axis=0), truth) == 0
    assert metrics.f_measure(np.roll(truth, 2, axis=0), truth, 1) == 0
    assert metrics.f_measure(np.roll(truth, 2, axis=0), truth, 2) == 1


@pytest.mark.parametrize("tolerance_px", [0, 2])
def test_an_empty_truth_wants_an_empty_proposal(tolerance_px: int) -> None:
    nothing, something = np.zeros((5, 5), bool), np.eye(5, dtype=bool)
    assert metrics.f_measure(nothing, nothing, tolerance_px) == 1
    assert metrics.f_measure(something, nothing, tolerance_px) == 0
    assert metrics.f_measure(nothing, something, tolerance_px) == 0


def test_iou() -> None:
    a, b = np.zeros((2, 4, 4), bool)
    a[:2], b[1:3] = True, True
    assert metrics.iou(a, b) == pytest.approx(1 / 3)
    assert metrics.iou(a & ~a, b & ~b) == 1
    assert metrics.iou(a, a & ~a) == 0


def test_the_mean_is_over_images_not_pixels() -> None:
    tiny, large = np.zeros((2, 9, 9), bool)
    tiny[0, 0], large[:] = True, True
    pairs = [(tiny, tiny), (~large, large)]
    assert metrics.mean_f_measure(pairs) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no masks to compare"):
        metrics.mean_f_measure([])


def test_counts_give_the_f_measure_of_their_precision_and_recall() -> None:
    assert metrics.f_measure_of_counts(6, 2, 4) == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert metrics.f_measure_of_counts(0, 0, 5) == 0


@pytest.mark.parametrize("measure", [metrics.f_measure, metrics.iou, metrics.precision])
def test_masks_of_different_images_are_refused(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="cannot be compared"):
        measure(np.ones((3, 3), bool), np.ones((3, 4), bool))
