"""Figures of masks against distances computed pair by pair, scikit-learn and printed tables."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import precision_recall_fscore_support

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


@pytest.mark.parametrize(
    "measure", [metrics.f_measure, metrics.iou, metrics.region_counts, metrics.instances]
)
def test_masks_of_different_images_are_refused(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="cannot be compared"):
        measure(np.ones((3, 3), bool), np.ones((3, 4), bool))


class TestPooled:
    """Counts of images add up to the figures of all their pixels together."""

    @pytest.mark.parametrize("tolerance_px", [0, 2])
    def test_pooling_equals_one_wide_image(self, tolerance_px: int) -> None:
        pairs = [(random_mask(seed), random_mask(seed + 50, 0.1)) for seed in range(4)]
        added = sum((metrics.matches(*pair, tolerance_px) for pair in pairs), metrics.Matches())
        gap = np.zeros((23, 5), bool)  # wider than the tolerance
        wide = [np.hstack([part for pair in pairs for part in (pair[k], gap)]) for k in (0, 1)]
        assert added == metrics.matches(wide[0], wide[1], tolerance_px)
        assert added.f_measure == pytest.approx(metrics.f_measure(wide[0], wide[1], tolerance_px))

    def test_pooled_strict_figures_are_scikit_learns(self) -> None:
        pred, truth = random_mask(1, 0.3), random_mask(2, 0.3)
        counted = metrics.matches(pred, truth)
        p, r, f, _ = precision_recall_fscore_support(truth.ravel(), pred.ravel(), average="binary")
        got = (counted.precision, counted.recall, counted.f_measure)
        assert got == pytest.approx((p, r, f))

    def test_nothing_at_all_is_right(self) -> None:
        assert metrics.Matches().f_measure == 1
        assert metrics.Matches(proposed=3).f_measure == 0
        assert metrics.Matches(true=3).f_measure == 0


def brute_regions(pred: Mask, truth: Mask, symmetric: bool) -> tuple[int, int, int]:
    tp = fp = fn = 0
    for top in range(0, truth.shape[0], 32):
        for left in range(0, truth.shape[1], 32):
            p, t = (m[top : top + 32, left : left + 32] for m in (pred, truth))
            positive, alarm = t.mean() >= 0.05, p.mean() >= 0.05
            hit = alarm if symmetric else positive and p[t].mean() >= 0.5
            tp += bool(positive and hit)
            fn += bool(positive and not hit)
            fp += bool(not positive and alarm)
    return tp, fp, fn


class TestRegions:
    @given(
        arrays(bool, (70, 45), elements=st.booleans()),
        arrays(bool, (70, 45), elements=st.booleans()),
        st.booleans(),
    )
    @settings(max_examples=30, deadline=None)
    def test_any_masks_count_as_by_the_definition(
        self, pred: Mask, truth: Mask, symmetric: bool
    ) -> None:
        counted = metrics.region_counts(pred, truth, symmetric=symmetric)
        assert astuple(counted) == brute_regions(pred, truth, symmetric)

    def test_52_pixels_make_a_patch_positive_and_26_find_it(self) -> None:
        truth = np.zeros((32, 32), bool)
        truth.ravel()[:51] = True
        assert metrics.region_counts(truth, truth) == metrics.Counts()
        truth.ravel()[51] = True
        assert metrics.region_counts(truth, truth) == metrics.Counts(true_positive=1)
        pred = np.zeros_like(truth)
        pred.ravel()[:26] = True
        assert metrics.region_counts(pred, truth).true_positive == 1
        assert metrics.region_counts(pred, truth, symmetric=True).false_negative == 1
        pred[0, 0] = False
        assert metrics.region_counts(pred, truth).false_negative == 1

    def test_painting_everything_is_no_way_to_a_good_figure(self) -> None:
        truth = np.zeros((128, 128), bool)
        truth[:32, :32] = True
        counted = metrics.region_counts(np.ones_like(truth), truth)
        assert counted == metrics.Counts(true_positive=1, false_positive=15)
        assert counted.f_measure == pytest.approx(2 / 17)

    def test_a_clean_image_without_proposal_is_right(self) -> None:
        nothing = np.zeros((40, 40), bool)
        assert metrics.region_counts(nothing, nothing).f_measure == 1


class TestInstances:
    def test_a_part_is_found_when_half_of_it_is_covered(self) -> None:
        truth = np.zeros((12, 30), bool)
        truth[2, :10], truth[6, :10], truth[10, 20:] = True, True, True
        pred = np.zeros_like(truth)
        pred[2, :5], pred[6, :4] = True, True  # half of the first, less of the second
        assert metrics.instances(pred, truth) == metrics.Instances(found=1, total=3)
        assert metrics.instances(pred, truth, 1) == metrics.Instances(found=2, total=3)
        assert metrics.instances(truth, truth).recall == 1

    def test_diagonal_neighbours_are_one_instance(self) -> None:
        assert metrics.instances(np.eye(5, dtype=bool), np.eye(5, dtype=bool)).total == 1

    def test_without_instances_there_is_no_recall(self) -> None:
        nothing = np.zeros((4, 4), bool)
        assert metrics.instances(~nothing, nothing).recall is None


# Janouskova et al., Table 2: instances, then how many of them in each group of time saved.
TABLE_2 = {"crack": (111, 19, 40, 30), "spalling": (65, 17, 19, 14), "rust": (89, 22, 14, 9)}
PERCENT = {"crack": 56.8, "spalling": 57.5, "rust": 40.3}


def shares_of(total: int, most: int, much: int, half: int) -> list[float]:
    none = total - most - much - half
    return [0.99] * most + [0.80] * much + [0.74] * half + [0.49] * none


@pytest.mark.parametrize("name", sorted(TABLE_2))
def test_relative_time_saving_of_the_papers_table(name: str) -> None:
    saving = metrics.relative_time_saving(shares_of(*TABLE_2[name]))
    assert saving * 100 == pytest.approx(PERCENT[name], abs=0.05)


def test_relative_time_saving_of_all_defects() -> None:
    shares = [share for row in TABLE_2.values() for share in shares_of(*row)]
    assert len(shares) == 265
    assert metrics.relative_time_saving(shares) * 100 == pytest.approx(51.5, abs=0.05)
    with pytest.raises(ValueError, match="no instances"):
        metrics.relative_time_saving([])


def test_lower_bounds_belong_to_their_group() -> None:
    assert metrics.relative_time_saving([0.95]) == 0.95
    assert metrics.relative_time_saving([0.75, 0.5]) == pytest.approx(0.625)
