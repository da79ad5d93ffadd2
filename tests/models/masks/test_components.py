"""Parts and widths of masks, on shapes whose width is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from models.base import Mask
from models.masks.components import label, typical_width_px, width_px


def bar(thickness_px: int, length_px: int = 120) -> Mask:
    mask = np.zeros((80, length_px + 20), bool)
    mask[20 : 20 + thickness_px, 10 : 10 + length_px] = True
    return mask


@pytest.mark.parametrize("thickness_px", [1, 3, 5, 9, 15])
def test_a_bar_is_as_wide_as_it_was_drawn(thickness_px: int) -> None:
    assert width_px(bar(thickness_px)) == pytest.approx(thickness_px, abs=0.1)
    assert width_px(bar(thickness_px).T) == pytest.approx(thickness_px, abs=0.1)


def test_a_disc_is_as_wide_as_its_diameter() -> None:
    disc = np.zeros((100, 100), np.uint8)
    cv2.circle(disc, (50, 50), 20, 1, -1)
    assert width_px(disc > 0) == pytest.approx(41, abs=3)


def test_specks_weigh_as_little_as_their_area() -> None:
    mask = bar(15)
    mask[50:80:3, ::3] = True
    assert width_px(mask) == pytest.approx(15, abs=1)


def test_the_edge_of_the_image_is_outside() -> None:
    assert width_px(np.ones((9, 200), bool)) == pytest.approx(9, abs=0.1)
    assert width_px(np.ones((1, 1), bool)) == 1


def test_one_image_full_of_defect_does_not_decide() -> None:
    masks = [bar(3), bar(5), np.ones((80, 140), bool), bar(3), np.zeros((5, 5), bool)]
    assert typical_width_px(masks) == pytest.approx(4, abs=0.1)
    assert typical_width_px([np.zeros((5, 5), bool)]) is None
    assert width_px(np.zeros((5, 5), bool)) == 0


def test_parts_that_touch_at_a_corner_are_one() -> None:
    mask = np.zeros((6, 8), bool)
    mask[0:2, 1:3], mask[2, 3], mask[4, 6:8] = True, True, True
    labels, boxes = label(mask)
    assert boxes.tolist() == [[1, 0, 3, 3, 5], [6, 4, 2, 1, 2]]
    assert np.array_equal(labels > 0, mask)
    assert label(np.zeros((3, 3), bool))[1].shape == (0, 5)
