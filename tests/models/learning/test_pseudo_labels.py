"""Masks that a teacher makes: what people said stands, what it is unsure of counts less."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from models.base import HeatMap, Image, Mask, Sample, WeakPoint
from models.learning import pseudo_labels
from models.learning.dense_crops import DenseSample, checked
from models.learning.pseudo_labels import compact, labelled, scaled, shrunk, thin
from models.masks.settings import Settings

PLAIN = Settings("threshold", 1, 0.5, 12, closing_px=1)
SOFT = Settings("guided", 1, 0.5, 12, width_px=8)


def image() -> Image:
    return np.random.default_rng(0).integers(90, 110, (48, 64, 3)).astype(np.uint8)


def heat_of_a_line() -> HeatMap:
    """A line at 0.9 and, apart from it, a speck that is hot and too small."""
    heat = np.full((48, 64), 0.1, np.float32)
    heat[20:23, 8:56] = 0.9
    heat[40:42, 40:43] = 0.8
    return heat


def test_a_thin_class_gets_its_refined_mask() -> None:
    heat = heat_of_a_line()
    target, weight = thin(image(), heat, PLAIN)
    expected = np.zeros((48, 64), np.float32)
    expected[20:23, 8:56] = 1
    assert np.array_equal(target, expected) and target.dtype == weight.dtype == np.float32
    assert np.all(weight[40:42, 40:43] == pseudo_labels.UNSURE_WEIGHT)
    assert np.all(weight[18:20, 10:50] == pseudo_labels.RING_WEIGHT)
    assert np.all(weight[:12] == 1) and np.all(weight[target > 0] == 1)


def test_a_compact_class_gets_its_heat_drawn_to_the_edges_of_colour() -> None:
    """The heat ends 3 px beside the stain; what it says is drawn towards the stain's edge."""
    picture = np.full((48, 64, 3), 200, np.uint8)
    picture[10:38, 20:44] = 60, 30, 20
    heat = np.zeros((48, 64), np.float32)
    heat[13:35, 23:41] = 0.9
    target, weight = compact(picture, cv2.GaussianBlur(heat, (0, 0), 3), SOFT)
    assert target.min() >= 0 and target.max() <= 1
    inside, outside = target[11:13, 24:40].mean(), target[6:9, 24:40].mean()
    assert inside > 2 * outside
    expected = np.clip(np.abs(target - 0.5) / 0.4, 0.1, 1)
    np.testing.assert_allclose(weight, expected, atol=1e-6)
    assert weight.min() < 0.3 and weight.max() == 1  # unsure at the edge, sure far away


def said(*points: tuple[float, float, bool], mask: Mask | None = None) -> Sample:
    own = tuple(WeakPoint("rust", x, y, positive) for x, y, positive in points)
    masks = {} if mask is None else {"rust": lambda: mask}
    return Sample("a", image, own, masks)


def made(sample: Sample, heat: HeatMap, *, is_thin: bool = True, scale: float = 1.0) -> DenseSample:
    return labelled(
        sample,
        "rust",
        lambda _: heat,
        PLAIN if is_thin else SOFT,
        is_thin=is_thin,
        scale=scale,
        patch_px=8,
        radius_px=2.0,
    )()


@pytest.mark.parametrize("is_thin", [True, False])
def test_what_people_said_overrules_the_teacher(is_thin: bool) -> None:
    """A positive click where the teacher sees nothing, a negative one on its line."""
    heat = heat_of_a_line()
    found = made(said((10, 8, True), (32, 21, False)), heat, is_thin=is_thin)
    rows, columns = np.mgrid[:48, :64]
    disc = (rows - 8) ** 2 + (columns - 10) ** 2 <= 4
    assert np.all(found.target[disc] == 1) and np.all(found.weight[disc] == 1)
    assert np.all(found.target[17:26, 28:37] == 0) and np.all(found.weight[17:26, 28:37] == 1)
    alone = made(said(), heat, is_thin=is_thin)
    spoken = disc.copy()
    spoken[17:26, 28:37] = True
    assert np.array_equal(found.target[~spoken], alone.target[~spoken])
    assert np.array_equal(found.weight[~spoken], alone.weight[~spoken])
    assert alone.target[21, 32] > 0.3  # the teacher would have said rust


def test_points_of_other_classes_say_nothing() -> None:
    other = replace(said(), points=(WeakPoint("moss", 32, 21, False),))
    assert np.array_equal(
        made(other, heat_of_a_line()).target, made(said(), heat_of_a_line()).target
    )


def test_a_verified_mask_leaves_nothing_to_the_teacher() -> None:
    mask = np.zeros((48, 64), dtype=bool)
    mask[5:9, 5:30] = True

    def teacher(_: Image) -> HeatMap:
        raise AssertionError("the teacher was asked")

    load = labelled(
        said((32, 21, True), mask=mask),
        "rust",
        teacher,
        PLAIN,
        is_thin=True,
        scale=1.0,
        patch_px=8,
        radius_px=2.0,
    )
    found = load()
    assert np.array_equal(found.target > 0, mask) and np.all(found.weight == 1)


@pytest.mark.parametrize("is_thin", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25])
def test_targets_and_weights_are_in_range_at_every_scale(is_thin: bool, scale: float) -> None:
    found = checked(made(said((32, 21, True)), heat_of_a_line(), is_thin=is_thin, scale=scale))
    assert found.image.shape == (48 * scale, 64 * scale, 3)
    assert found.target.min() >= 0 and found.target.max() <= 1
    assert found.weight.min() > 0 and found.weight.max() <= 1


def test_a_smaller_sample_is_the_mean_of_its_areas() -> None:
    rng = np.random.default_rng(1)
    target, weight = (rng.random((8, 12), np.float32) for _ in range(2))
    found = scaled(DenseSample(image()[:8, :12], target, weight), 0.5)
    expected = target.reshape(4, 2, 6, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(found.target, expected, atol=1e-6)
    of_image = image()[:8, :12].reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(found.image - of_image).max() <= 0.5 and found.image.dtype == np.uint8
    np.testing.assert_allclose(
        found.weight, weight.reshape(4, 2, 6, 2).mean(axis=(1, 3)), atol=1e-6
    )


def test_scale_one_leaves_a_sample_as_it_is() -> None:
    sample = made(said(), heat_of_a_line())
    assert scaled(sample, 1) is sample


def test_an_image_is_never_reduced_to_nothing() -> None:
    assert shrunk(np.zeros((1, 3, 3), np.uint8), 0.25).shape == (1, 1, 3)


def test_what_the_teacher_gave_is_not_changed() -> None:
    heat = heat_of_a_line()
    for is_thin in (True, False):
        made(said((32, 21, False)), heat, is_thin=is_thin)
        assert np.array_equal(heat, heat_of_a_line())
