"""Figures over thresholds against scikit-learn and against a loop over masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import auc, average_precision_score, precision_recall_curve

from models.base import Mask
from models.curves import HALF, LEVELS, Curves, Levels, ranking_levels
from models.metrics import Matches, f_measure, matches

THRESHOLDS = range(1, LEVELS)


def scene(seed: int, share: float = 0.2) -> tuple[Levels, Mask]:
    """Levels that know something of the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.random((17, 23)) < share
    noise = rng.integers(0, 180, truth.shape)
    levels = np.where(rng.random(truth.shape) < 0.1, 0, noise + 70 * truth)
    return levels.astype(np.uint8), truth


SCENES = [scene(0), scene(1, 0.05), scene(2, 0.5), scene(3, 0.0)]


@pytest.fixture(scope="module")
def curves() -> Curves:
    made = Curves()
    for levels, truth in SCENES:
        made.add(levels, truth)
    return made


def table() -> np.ndarray:
    """F-measure of each image (row) at each threshold (column), mask by mask."""
    return np.array([[f_measure(lv >= t, truth) for t in THRESHOLDS] for lv, truth in SCENES])


def test_ods_is_the_best_mean_and_ois_the_mean_of_the_bests(curves: Curves) -> None:
    assert curves.ods == pytest.approx(table().mean(axis=0).max())
    assert curves.ois == pytest.approx(table().max(axis=1).mean())


def test_pooled_ods_adds_up_pixels_first(curves: Curves) -> None:
    pooled = [
        sum((matches(lv >= t, truth) for lv, truth in SCENES), Matches()).f_measure
        for t in THRESHOLDS
    ]
    assert curves.ods_pooled == pytest.approx(max(pooled))
    assert curves.ods_pooled != pytest.approx(curves.ods, abs=0.01)


def pooled_pixels() -> tuple[np.ndarray, np.ndarray]:
    levels = np.concatenate([lv.ravel() for lv, _ in SCENES])
    return np.concatenate([truth.ravel() for _, truth in SCENES]), levels


def test_areas_are_scikit_learns(curves: Curves) -> None:
    truth, levels = pooled_pixels()
    precision, recall, _ = precision_recall_curve(truth, levels)
    assert curves.auprc == pytest.approx(average_precision_score(truth, levels))
    assert curves.auprc_trapezoid == pytest.approx(auc(recall, precision))


def test_average_precision_leaves_out_what_no_threshold_finds(curves: Curves) -> None:
    truth, levels = pooled_pixels()
    at_zero = truth[levels == 0].sum() / truth.sum() * truth.mean()
    assert at_zero > 0
    assert curves.average_precision == pytest.approx(curves.auprc - at_zero)


@given(
    st.lists(
        st.tuples(
            arrays(np.float32, (6, 7), elements=st.floats(0, 1, width=32)),
            arrays(bool, (6, 7), elements=st.booleans()),
            arrays(bool, (6, 7), elements=st.booleans()),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=50, deadline=None)
def test_choosing_a_threshold_never_does_worse_than_the_proposal(
    images: list[tuple[np.ndarray, Mask, Mask]],
) -> None:
    made = Curves()
    for heat, mask, truth in images:
        levels = ranking_levels(mask, heat)
        np.testing.assert_array_equal(levels >= HALF, mask)
        made.add(levels, truth)
    pooled = sum((matches(mask, truth) for _, mask, truth in images), Matches())
    mean = np.mean([f_measure(mask, truth) for _, mask, truth in images])
    assert made.ods_pooled >= pooled.f_measure - 1e-9
    assert made.ods >= mean - 1e-9
    assert made.ois >= made.ods - 1e-9


def test_within_each_part_heat_decides_the_order() -> None:
    mask = np.array([[True, True, True, False, False, False]])
    heat = np.array([[0.0, 0.5, 1.0, 0.0, 0.5, 1.0]], np.float32)
    assert ranking_levels(mask, heat).tolist() == [[128, 192, 255, 0, 64, 127]]


def test_a_perfect_proposal_has_perfect_figures() -> None:
    made = Curves()
    truth = np.eye(8, dtype=bool)
    made.add(ranking_levels(truth, np.zeros((8, 8), np.float32)), truth)
    figures = (made.ods, made.ods_pooled, made.ois, made.average_precision, made.auprc)
    assert figures == (1, 1, 1, 1, 1)


def test_without_truth_or_images_there_is_no_curve() -> None:
    made = Curves()
    assert (made.ods, made.ods_pooled, made.ois) == (None, None, None)
    made.add(np.zeros((3, 3), np.uint8), np.zeros((3, 3), bool))
    assert (made.ods, made.ois) == (1, 1)
    assert (made.average_precision, made.auprc, made.auprc_trapezoid) == (None, None, None)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, np.nan])
def test_heat_that_is_no_share_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        ranking_levels(np.zeros((2, 2), bool), np.full((2, 2), wrong, np.float32))


def test_arrays_of_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong"):
        ranking_levels(np.zeros((2, 2), bool), np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="do not belong"):
        Curves().add(np.zeros((2, 2), np.uint8), np.zeros((2, 3), bool))
