"""The tally against the same figures of all images at once."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from backend.evaluation.scoring import Figures, Tally
from models.base import HeatMap, Mask
from models.masks.correction import correction, draw_s

Case = tuple[Mask, HeatMap, Mask]  # proposal, heat, truth


def case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    truth = np.zeros((48, 64), bool)
    truth[10 + seed : 20 + seed, 5:40] = True
    heat = np.clip(rng.normal(0.3 + 0.3 * truth, 0.2), 0, 1).astype(np.float32)
    return heat > 0.5, heat, truth


CASES = [case(seed) for seed in range(3)]


def tallied(cases: list[Case]) -> Figures:
    tally = Tally()
    for n, one in enumerate(cases):
        tally.add(str(n), *one)
    return tally.figures()


def pixels(which: int) -> np.ndarray:
    return np.concatenate([one[which].ravel() for one in CASES])


def test_pixel_figures_are_scikit_learns_over_all_pixels() -> None:
    got, pred, truth = tallied(CASES), pixels(0), pixels(2)
    assert got["f1"] == pytest.approx(f1_score(truth, pred))
    assert got["precision"] == pytest.approx(precision_score(truth, pred))
    assert got["recall"] == pytest.approx(recall_score(truth, pred))
    singles = [f1_score(t.ravel(), p.ravel()) for p, _, t in CASES]
    assert got["f1_per_image"] == pytest.approx(np.mean(singles))


def test_ranking_figures_are_those_of_the_stated_score_map() -> None:
    got, inside = tallied(CASES), pixels(0)
    heat = np.minimum(pixels(1), 1 - 1e-6)
    scores = np.where(inside, 0.5 + 0.5 * heat, 0.5 * heat)
    steps = np.floor(scores * 256)
    assert got["auprc"] == pytest.approx(average_precision_score(pixels(2), steps))
    assert got["auprc"] == pytest.approx(average_precision_score(pixels(2), scores), abs=0.01)


def test_a_perfect_proposal_is_perfect_throughout() -> None:
    perfect = [(truth, heat, truth) for _, heat, truth in CASES]
    assert set(tallied(perfect).values()) == {1.0}


def test_time_saving_is_estimated_over_all_images_together() -> None:
    cost = sum(correction(mask, truth).cost_s for mask, _, truth in CASES)
    scratch = sum(draw_s(truth) for _, _, truth in CASES)
    assert tallied(CASES)["time_saving_estimate"] == pytest.approx(1 - cost / scratch)


def test_a_proposal_that_is_good_enough_saves_all_the_time() -> None:
    _, heat, truth = CASES[0]
    close = truth | np.roll(truth, 1, axis=0)
    assert not np.array_equal(close, truth)
    assert tallied([(close, heat, truth)])["time_saving_estimate"] == 1.0


def test_proposals_that_only_cost_time_save_less_than_none() -> None:
    _, heat, truth = CASES[0]
    elsewhere = np.roll(truth, 24, axis=0)
    saving = tallied([(elsewhere, heat, truth)])["time_saving_estimate"]
    assert saving is not None
    assert saving < 0
    nothing = np.zeros_like(truth)
    assert tallied([(nothing, heat * 0, truth)])["time_saving_estimate"] == pytest.approx(0)


def test_clean_images_left_clean_are_right_and_have_no_ranking() -> None:
    nothing = np.zeros((30, 30), bool)
    got = tallied([(nothing, nothing.astype(np.float32), nothing)])
    absent = {name for name, value in got.items() if value is None}
    assert absent == {
        "ap", "auprc", "auprc_trapezoid", "instance_recall", "instance_recall_2px",
        "time_saving_estimate",
    }  # fmt: skip
    assert {value for value in got.values() if value is not None} == {1.0}


def test_order_does_not_matter() -> None:
    assert tallied(CASES) == pytest.approx(tallied(CASES[::-1]))


def test_without_images_there_are_no_figures() -> None:
    with pytest.raises(ValueError, match="no image was scored"):
        Tally().figures()
