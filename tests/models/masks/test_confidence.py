"""Confidence of regions: its shape, its fit, and a reliability that tells good from bad."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from models.base import HeatMap, Mask, Region
from models.masks import confidence
from models.masks.confidence import Confidence, Proposed

CELL = 12  # a square of 8 px in each cell of a grid
GRID = 6


def proposed(seed: int, images_that_lie: bool = False) -> Proposed:
    """A grid of regions, each defect with a chance that its heat gives."""
    rng = np.random.default_rng(seed)
    side = CELL * GRID
    mask, truth = np.zeros((2, side, side), bool)
    heat = np.zeros((side, side), np.float32)
    for top in range(0, side, CELL):
        for left in range(0, side, CELL):
            part = slice(top, top + 8), slice(left, left + 8)
            level = rng.uniform(0.2, 0.9)
            chance = 1 / (1 + np.exp(-10 * (level - 0.55)))
            heat[part], mask[part] = level, True
            truth[part] = rng.random() < (1 - chance if images_that_lie else chance)
    return Proposed(mask, heat, float(rng.uniform(0.5, 1)), truth)


def scattered() -> tuple[Mask, HeatMap]:
    mask, heat = np.zeros((20, 30), bool), np.zeros((20, 30), np.float32)
    mask[1:3, 1:3], mask[5:10, 20:24], mask[3, 3] = True, True, True  # the last touches at a corner
    mask[15:17, 2:4] = True
    heat[mask] = 0.5
    heat[6, 21] = 0.9
    return mask, heat


def test_regions_are_boxes_of_connected_parts_largest_first() -> None:
    mask, heat = scattered()
    found = confidence.regions(mask, heat, 0.8, Confidence())
    assert found == (
        Region(20, 5, 4, 5, 20, pytest.approx(0.72, abs=1e-6)),
        Region(1, 1, 3, 3, 5, pytest.approx(0.4, abs=1e-6)),
        Region(2, 15, 2, 2, 4, pytest.approx(0.4, abs=1e-6)),
    )
    assert confidence.regions(np.zeros((1, 7), bool), heat[:1, :7], 0.8, Confidence()) == ()


def test_features_are_those_of_the_region() -> None:
    model = Confidence((0.0,) * 4, (1.0,) * 4, (3.0, 1.0, 0.5, -2.0), bias=0.25)
    mask, heat = scattered()
    region = confidence.regions(mask, heat, 0.8, model)[0]
    mean = (19 * 0.5 + 0.9) / 20
    z = 3 * mean + 0.9 + 0.5 * np.log(20) - 2 * 0.8 + 0.25
    assert region.confidence == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-6)


def test_what_was_fitted_on_some_images_is_reliable_on_others() -> None:
    model, report = confidence.fit(proposed(seed) for seed in range(12))
    assert report["calibrated"]
    assert report["regions"] == 12 * GRID**2
    assert report["ece"] < 0.07
    assert report["brier"] < 0.75 * report["brier_of_the_share"]
    new = [proposed(seed) for seed in range(100, 120)]
    predicted, right = outcomes(new, model)
    fresh = confidence.reliability(predicted, right)
    assert fresh["ece"] < 0.05
    assert abs(report["brier"] - fresh["brier"]) < 0.03


def test_reliability_is_measured_on_images_that_were_left_out() -> None:
    """Where each image says something else, the fit on all would look better than it is."""
    mixed = [proposed(seed, images_that_lie=seed % 5 == 0) for seed in range(5)]  # one fold lies
    _, report = confidence.fit(mixed)
    liar = outcomes([mixed[0]], confidence.fit(mixed[1:])[0])
    assert confidence.reliability(*liar)["ece"] > 0.25
    others = outcomes(mixed, confidence.fit(mixed)[0])
    assert report["brier"] > confidence.reliability(*others)["brier"] + 0.01


def outcomes(
    proposals: list[Proposed], model: Confidence
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    predicted, right = [], []
    for p in proposals:
        for region in confidence.regions(p.mask, p.heat, p.score, model):
            rows = slice(region.y_px, region.y_px + region.height_px)
            part = p.truth[rows, region.x_px : region.x_px + region.width_px]
            predicted.append(region.confidence)
            right.append(part.mean() >= 0.5)
    return np.array(predicted), np.array(right)


def test_a_wrong_model_is_found_out() -> None:
    model, _ = confidence.fit(proposed(seed) for seed in range(6))
    inverted = Confidence(model.mean, model.scale, [-w for w in model.weights], -model.bias)
    predicted, right = outcomes([proposed(seed) for seed in range(50, 60)], inverted)
    report = confidence.reliability(predicted, right)
    assert report["ece"] > 0.3
    assert report["brier"] > report["brier_of_the_share"]


def test_reliability_by_hand() -> None:
    predicted = np.array([0.05, 0.05, 0.92, 0.98, 1.0])
    report = confidence.reliability(predicted, np.array([False, True, True, True, False]))
    low, high = report["bins"]
    assert (low["count"], low["predicted"], low["observed"]) == (2, pytest.approx(0.05), 0.5)
    assert (high["count"], high["observed"]) == (3, pytest.approx(2 / 3))
    assert report["ece"] == pytest.approx((2 * 0.45 + 3 * (2.9 / 3 - 2 / 3)) / 5)
    assert report["brier"] == pytest.approx(
        (0.05**2 + 0.95**2 + 0.08**2 + 0.02**2 + 1) / 5, abs=1e-12
    )
    assert report["brier_of_the_share"] == pytest.approx(0.6 * 0.4)


def test_the_fit_is_the_ridge_regression_of_scikit_learn() -> None:
    proposals = [proposed(seed) for seed in range(8)]
    features, right, _ = confidence._examples(proposals)
    model = confidence._fit(features, right)
    z = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    z[:, 2] = 0  # all areas are equal
    share = [(right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2)]
    weight = np.concatenate((np.where(right, *share), 1 - np.where(right, *share)))
    twice = np.concatenate((z, z))
    theirs = LogisticRegression(C=1.0, tol=1e-9, max_iter=500).fit(
        twice, np.repeat([1, 0], len(z)), sample_weight=weight
    )
    assert model.weights == pytest.approx(theirs.coef_[0].tolist(), abs=1e-3)
    assert model.bias == pytest.approx(theirs.intercept_[0], abs=1e-3)


@pytest.mark.parametrize("outcome", [True, False])
def test_regions_that_are_all_right_or_all_wrong_do_not_diverge(outcome: bool) -> None:
    cases = [proposed(seed) for seed in range(5)]
    same = [Proposed(p.mask, p.heat, p.score, np.full_like(p.mask, outcome)) for p in cases]
    model, report = confidence.fit(same)
    sure = [r.confidence for p in cases for r in confidence.regions(p.mask, p.heat, 0.7, model)]
    assert np.abs(np.array(sure) - outcome).max() < 0.05
    assert 0 < min(sure) <= max(sure) < 1
    json.dumps(report, allow_nan=False)


def test_half_of_a_region_is_enough_and_less_is_not() -> None:
    mask, heat = np.zeros((4, 20), bool), np.full((4, 20), 0.5, np.float32)
    mask[:, 0:4], mask[:, 10:14] = True, True
    truth = np.zeros_like(mask)
    truth[:2, 0:4], truth[:2, 10:13] = True, True
    _, right, _ = confidence._examples([Proposed(mask, heat, 1.0, truth)])
    assert right.tolist() == [True, False]


@pytest.mark.parametrize("cases", [[], [proposed(0)] * 3, [proposed(0)]])
def test_too_few_regions_or_images_teach_nothing_and_say_so(cases: list[Proposed]) -> None:
    model, report = confidence.fit(cases)
    assert (model, report["calibrated"]) == (Confidence(), False)
    images = len(cases)
    assert f"{36 * images} regions on {images} verified images; 20 on 4" in report["why"]


def test_it_survives_json() -> None:
    model, report = confidence.fit(proposed(seed) for seed in range(5))
    again = Confidence(**json.loads(json.dumps(asdict(model), allow_nan=False)))
    mask, heat = scattered()
    assert confidence.regions(mask, heat, 0.6, again) == confidence.regions(mask, heat, 0.6, model)
    json.dumps(report, allow_nan=False)
    assert Confidence(**json.loads(json.dumps(asdict(Confidence())))).weights == []
