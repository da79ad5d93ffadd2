"""What people said, pixel by pixel: the rest has no weight."""

from __future__ import annotations

import numpy as np
import pytest

from models.base import Image, Mask, Sample, WeakPoint
from models.learning import partial_labels
from models.learning.dense_crops import DenseSample

IMAGE: Image = np.zeros((40, 60, 3), np.uint8)


def click(x_px: float, y_px: float, *, positive: bool, weight: float = 1.0) -> WeakPoint:
    return WeakPoint("rust", x_px, y_px, positive, weight)


def spoken(*points: WeakPoint, patch_px: int = 8, radius_px: float = 2.0) -> DenseSample:
    sample = Sample("a", lambda: IMAGE, points)
    return partial_labels.clicked(
        sample, "rust", patch_px=patch_px, radius_px=radius_px, weight=0.5
    )()


def test_a_verified_mask_speaks_of_every_pixel() -> None:
    mask: Mask = np.zeros((40, 60), dtype=bool)
    mask[3:9, 4:8] = True
    found = partial_labels.verified(
        Sample("a", lambda: IMAGE, (), {"rust": lambda: mask}), "rust"
    )()
    assert np.array_equal(found.target > 0, mask) and found.target.dtype == np.float32
    assert np.all(found.weight == 1)


def test_a_positive_point_speaks_of_its_disc() -> None:
    found = spoken(click(20.7, 10.2, positive=True))
    rows, columns = np.mgrid[:40, :60]
    disc = (rows - 10) ** 2 + (columns - 20) ** 2 <= 4
    assert disc.sum() == 13
    assert np.array_equal(found.target, disc.astype(np.float32))
    assert np.array_equal(found.weight, disc * np.float32(0.5))


def test_a_negative_point_speaks_of_its_patch() -> None:
    found = spoken(click(30, 20, positive=False, weight=0.5))
    assert not found.target.any()
    rows, columns = np.nonzero(found.weight)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 24, 26, 34)
    assert set(np.unique(found.weight)) == {np.float32(0), np.float32(0.25)}


def test_a_negative_beside_a_positive_says_nothing() -> None:
    alone = spoken(click(20, 20, positive=True))
    both = spoken(click(20, 20, positive=True), click(23, 20, positive=False))
    assert np.array_equal(both.weight, alone.weight)
    apart = spoken(click(20, 20, positive=True), click(25, 20, positive=False), patch_px=8)
    assert apart.weight[20, 29] == 0.5 and apart.target[20, 29] == 0
    assert apart.target[20, 22] == 1  # the positive is believed where both speak


def test_the_weightier_of_two_that_overlap_counts() -> None:
    for order in (1, -1):
        points = [click(20, 20, positive=True, weight=w) for w in (0.2, 1.0)][::order]
        assert spoken(*points).weight.max() == 0.5
        assert set(np.unique(spoken(*points).weight)) == {np.float32(0), np.float32(0.5)}


@pytest.mark.parametrize("positive", [True, False])
def test_points_at_and_beyond_the_edge_speak_of_what_is_inside(positive: bool) -> None:
    assert spoken(click(0, 0, positive=positive)).weight[0, 0] == 0.5
    assert spoken(click(59.9, 39.9, positive=positive)).weight[39, 59] == 0.5
    assert not spoken(click(500, 500, positive=positive)).weight.any()
    assert not spoken(click(-50, 3, positive=positive)).weight.any()


def test_other_classes_and_weightless_points_are_silent() -> None:
    other = WeakPoint("crack", 20, 20, True)
    ignored = click(20, 20, positive=True, weight=0.0)
    assert not spoken(other, ignored).weight.any()
    sample = Sample("a", lambda: IMAGE, (other, ignored))
    assert not partial_labels.has_points(sample, "rust")
    assert partial_labels.has_points(sample, "crack")
