"""The predicted cost of a correction against its stated formula."""

from __future__ import annotations

import numpy as np
import pytest

from models.base import Mask
from models.masks import correction as surrogate
from models.masks.correction import correction, correction_cost_s
from models.metrics import grown, outline, outline_px


def box(top: int, left: int, bottom: int, right: int) -> Mask:
    mask = np.zeros((400, 400), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


NOTHING = np.zeros((400, 400), dtype=bool)
BLOB = box(100, 100, 200, 200)


def test_a_right_proposal_costs_nothing() -> None:
    assert correction_cost_s(BLOB, BLOB) == 0
    assert correction_cost_s(NOTHING, NOTHING) == 0
    assert correction_cost_s(BLOB, box(102, 100, 200, 202)) == 0  # within the tolerance


def test_costs_follow_the_stated_formula() -> None:
    draw = 2.0 + 0.01 * (4 * 100 - 4) * 1000 / 400
    assert outline_px(BLOB) == 396
    assert correction_cost_s(NOTHING, BLOB) == pytest.approx(draw)
    assert correction_cost_s(BLOB, NOTHING) == pytest.approx(2.0)  # one region is deleted
    # a tail of 38 px is trimmed along the 15 px of the true outline that it touches (its 10 rows,
    # and the disc of the tolerance around their ends)
    tail = box(120, 200, 130, 240)
    near = outline(BLOB) & grown(tail & ~grown(BLOB, 2), 3)
    assert 10 <= near.sum() <= 15
    trim = 2.0 + 0.01 * near.sum() * 1000 / 400
    assert correction_cost_s(BLOB | tail, BLOB) == pytest.approx(trim)


def test_parts_of_which_nothing_is_right_are_wiped_away_without_care() -> None:
    one, beside, far = (box(300, x, 310, x + 10) for x in (300, 330, 380))
    assert correction_cost_s(BLOB | one, BLOB) == pytest.approx(2.0)
    assert correction_cost_s(BLOB | one | beside, BLOB) == pytest.approx(2.0)  # one sweep
    assert correction_cost_s(BLOB | one | far, BLOB) == pytest.approx(4.0)


def test_noise_hides_no_outline() -> None:
    noise = BLOB ^ (np.random.default_rng(1).random(BLOB.shape) > 0.5)
    scratch = correction_cost_s(NOTHING, BLOB)
    assert scratch <= correction_cost_s(noise, BLOB) <= scratch + surrogate.REGION_S


def test_costs_grow_with_what_is_wrong_up_to_drawing_anew() -> None:
    scratch = correction_cost_s(NOTHING, BLOB)
    costs = [correction_cost_s(box(100, 100, 200, right), BLOB) for right in (190, 160, 120)]
    assert costs == sorted(costs) and costs[0] < costs[-1] <= scratch + surrogate.REGION_S
    chaos = np.random.default_rng(0).random(BLOB.shape) > 0.9
    assert scratch <= correction_cost_s(chaos, BLOB) <= scratch + surrogate.REGION_S


def test_the_same_surface_photographed_finer_costs_the_same() -> None:
    def doubled(mask: Mask) -> Mask:
        return mask.repeat(2, axis=0).repeat(2, axis=1)

    coarse, fine = (
        correction_cost_s(NOTHING, BLOB),
        correction_cost_s(doubled(NOTHING), doubled(BLOB)),
    )
    assert fine == pytest.approx(coarse, rel=0.01)


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        correction_cost_s(BLOB, BLOB[:-1])


def test_what_agrees_well_enough_counts_as_accepted() -> None:
    same, close = correction(BLOB, BLOB), correction(box(103, 103, 202, 202), BLOB)
    assert close.f_strict < same.f_strict == 1.0
    assert (close.cost_s, close.f) == (same.cost_s, same.f) == (0.0, surrogate.GOOD_ENOUGH_F)
    far = correction(box(150, 150, 400, 400), BLOB)
    assert far.cost_s == correction_cost_s(box(150, 150, 400, 400), BLOB) > 0
    assert far.f < surrogate.GOOD_ENOUGH_F
