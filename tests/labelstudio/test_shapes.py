import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from backend.labelstudio import shapes


def test_a_rectangle_covers_exactly_its_pixels():
    mask = shapes.from_rectangle({"x": 60, "y": 60, "width": 20, "height": 25}, 320, 480)
    expected = np.zeros((320, 480), bool)
    expected[192:272, 288:384] = True
    assert (mask == expected).all()


@pytest.mark.parametrize("rotation", [30, 90, 130, -50])
def test_rotation_is_clockwise_about_the_corner(rotation):
    value = {"x": 50, "y": 40, "width": 20, "height": 10, "rotation": rotation}
    height_px, width_px = 200, 100
    mask = shapes.from_rectangle(value, height_px, width_px)
    rows, columns = np.mgrid[:height_px, :width_px] + 0.5
    angle = np.deg2rad(rotation)
    dx, dy = columns - 50, rows - 80
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = -dx * np.sin(angle) + dy * np.cos(angle)
    inside = (along > 0) & (along < 20) & (across > 0) & (across < 20)
    assert (mask != inside).sum() == 0


def test_what_lies_outside_the_image_is_cut_off():
    mask = shapes.from_rectangle({"x": -50, "y": 50, "width": 100, "height": 100}, 10, 20)
    assert mask[5:, :10].all()
    assert mask.sum() == 50
    assert not shapes.from_rectangle({"x": 200, "y": 0, "width": 9, "height": 9}, 10, 20).any()


@given(st.lists(st.tuples(st.integers(-20, 120), st.integers(-20, 120)), min_size=3, max_size=3))
@settings(max_examples=200, deadline=None)
def test_triangles_hold_the_centres_that_lie_inside(corners):
    points = np.array(corners, float) + 0.123
    mask = shapes.from_polygon(points, 50, 60)
    in_pixels = points * (0.6, 0.5) - 0.5
    oracle = polygon2mask((50, 60), in_pixels[:, ::-1])
    assert (mask != oracle).sum() <= 1


def test_overlapping_turns_are_filled_as_browsers_do():
    twice = np.array([(10, 10), (90, 10), (90, 90), (10, 90)] * 2, float)
    assert (shapes.from_polygon(twice, 20, 20) == shapes.from_polygon(twice[:4], 20, 20)).all()
    assert shapes.from_polygon(twice, 20, 20).sum() == 256


def test_boxes():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 4:9] = True
    box = shapes.to_rectangle(mask)
    assert box == {"x": 20, "y": 20, "width": 25, "height": 30, "rotation": 0}
    assert (shapes.from_rectangle(box, 10, 20) == mask).all()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=8))
@settings(max_examples=100, deadline=None)
def test_a_line_there_and_back_the_same_way_covers_nothing(stops):
    points = np.array([*stops, *stops[-2:0:-1]], float) * (100 / 60) + 0.5 / 0.6
    assert not shapes.from_polygon(points, 60, 60).any()


@pytest.mark.parametrize("value", [None, "abc", [], [[1, 2], [3, 4]], [[1, 2], [3, 4], [5]], [[1]]])
def test_what_is_no_polygon(value):
    assert shapes.points(value) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1", None, 1e300])
def test_what_is_no_percentage(value):
    assert not shapes.number(value)
