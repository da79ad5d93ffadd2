import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from backend.labelstudio import outlines, shapes

MASKS = arrays.arrays(
    bool,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.booleans(),
    fill=st.nothing(),
)


def drawn(outline, mask):
    return shapes.from_polygon(np.array(outline), *mask.shape)


def ellipse(height_px, width_px, share=0.4):
    rows, columns = np.mgrid[:height_px, :width_px]
    return np.hypot(rows / height_px - 0.5, columns / width_px - 0.5) <= share


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


@given(MASKS)
@settings(max_examples=300, deadline=None)
def test_without_tolerance_the_polygon_is_the_mask_with_its_holes_and_parts(mask):
    outline = outlines.to_polygon(mask, tolerance_px=0)
    assert (outline == []) == (not mask.any())
    if outline:
        assert (drawn(outline, mask) == mask).all()
        assert np.min(outline) >= 0 and np.max(outline) <= 100


def test_a_simplified_outline_has_few_points_and_the_same_area():
    mask = ellipse(120, 160)
    outline = outlines.to_polygon(mask)
    assert iou(drawn(outline, mask), mask) > 0.97
    assert 8 < len(outline) < 60
    assert len(outlines.to_polygon(mask, tolerance_px=4)) < len(outline)


def test_holes_and_other_parts_survive_simplification():
    mask = ellipse(300, 300) & ~ellipse(300, 300, 0.2)
    mask[5:30, 5:30] = True
    again = drawn(outlines.to_polygon(mask), mask)
    assert iou(again, mask) > 0.97
    assert not again[150, 150] and again[15, 15]


def test_the_outline_of_a_thin_defect_stays_on_it():
    mask = np.zeros((100, 200), bool)
    for column in range(10, 190):
        row = 50 + round(20 * np.sin(column / 20))
        mask[row : row + 2, column] = True
    assert iou(drawn(outlines.to_polygon(mask), mask), mask) > 0.5


def test_the_tolerance_grows_with_the_image():
    large = ellipse(1800, 1800)
    assert len(outlines.to_polygon(large)) < 0.9 * len(outlines.to_polygon(large, tolerance_px=1))


def test_ten_thousand_specks_are_cut_to_what_an_editor_bears():
    rng, mask = np.random.default_rng(0), np.zeros((5000, 5000), bool)
    for y, x, side in zip(*rng.integers(0, 4980, (2, 10_000)), range(10_000), strict=True):
        mask[y : y + 3 + side % 15, x : x + 3 + side % 15] = True
    start = time.perf_counter()
    outline = outlines.to_polygon(mask)
    assert time.perf_counter() - start < 10
    assert len(outline) <= outlines.MOST_POINTS + 2 * outlines.MOST_RINGS
    assert not (drawn(outline, mask) & ~mask).sum() > 2000


@pytest.mark.parametrize("pixels", [[], [(3, 4)], [(0, 0), (9, 19)]])
def test_outlines_of_almost_nothing(pixels):
    mask = np.zeros((10, 20), bool)
    for pixel in pixels:
        mask[pixel] = True
    outline = outlines.to_polygon(mask)
    assert (outline == []) == (not pixels)
    if pixels:
        assert (drawn(outline, mask) == mask).all()
