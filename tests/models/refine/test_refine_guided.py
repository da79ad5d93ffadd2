"""The guided filter against the regression of every window, and what it does to heat."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from models.base import HeatMap, Image
from models.metrics import f_measure
from models.refine import guided, threshold

EPSILON = 1e-3


def scene(height_px: int = 22, width_px: int = 31, seed: int = 0) -> tuple[Image, HeatMap]:
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 256, (height_px, width_px, 3), np.uint8), (0, 0), 1)
    return np.asarray(image, np.uint8), rng.random((height_px, width_px), np.float32)


def by_regressions(image: Image, heat: HeatMap, radius_px: int) -> npt.NDArray[np.float64]:
    """The definition: a ridge regression per window, averaged over the windows of a pixel."""
    guide, (height_px, width_px) = image / 255, heat.shape
    total, count = np.zeros((2, height_px, width_px))
    for y in range(height_px):
        for x in range(width_px):
            rows = slice(max(0, y - radius_px), y + radius_px + 1)
            columns = slice(max(0, x - radius_px), x + radius_px + 1)
            colours = guide[rows, columns].reshape(-1, 3)
            centred = colours - colours.mean(axis=0)
            level = heat[rows, columns].mean()
            moment = centred.T @ centred / len(centred) + EPSILON * np.eye(3)
            joint = centred.T @ (heat[rows, columns].ravel() - level) / len(centred)
            slope = np.linalg.solve(moment, joint)
            total[rows, columns] += (guide[rows, columns] - colours.mean(axis=0)) @ slope + level
            count[rows, columns] += 1
    return np.asarray(total / count)


@pytest.mark.parametrize("radius_px", [1, 3, 8, 40])
def test_it_is_the_regression_of_every_window(radius_px: int) -> None:
    image, heat = scene()
    found = guided.filter_heat(image, heat, radius_px, EPSILON)
    assert np.abs(found - by_regressions(image, heat, radius_px)).max() < 2e-5


def test_grey_images_are_no_singular_case() -> None:
    image, heat = scene()
    grey = np.repeat(image[..., :1], 3, axis=2)
    found = guided.filter_heat(grey, heat, 4, EPSILON)
    assert np.abs(found - by_regressions(grey, heat, 4)).max() < 1e-4


def test_tiles_give_what_the_whole_image_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    image, heat = scene(70, 83)
    heat[:40] = 0
    whole = guided.filter_heat(image, heat, 5)
    monkeypatch.setattr(guided, "_TILE_PX", 16)
    assert np.abs(guided.filter_heat(image, heat, 5) - whole).max() < 1e-5


def test_without_contrast_it_only_blurs() -> None:
    image, heat = np.full((20, 20, 3), 90, np.uint8), np.zeros((20, 20), np.float32)
    heat[10, 10] = 1
    found = guided.filter_heat(image, heat, 1)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert found[10, 10] == pytest.approx(1 / 9, abs=1e-5)


def test_a_blurred_blob_gets_the_outline_of_the_colour() -> None:
    truth = np.zeros((120, 120), np.uint8)
    cv2.ellipse(truth, (60, 60), (30, 20), 30, 0, 360, 1, -1)
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(150, 6, (120, 120, 3)) - 60 * truth[..., None], 0, 255)
    heat = cv2.GaussianBlur(np.roll(truth, 6, axis=1).astype(np.float32), (0, 0), 8)
    pictures = image.astype(np.uint8), np.asarray(heat, np.float32)
    ours = guided.refine(*pictures, threshold=0.4, min_area_px=20)
    plain = threshold.refine(*pictures, threshold=0.4, min_area_px=20)
    assert f_measure(ours, truth > 0) > 0.95
    assert f_measure(plain, truth > 0) < 0.9


@pytest.mark.parametrize(
    ("width_px", "radius_px"), [(None, 8), (3, 4), (20, 8), (40, 16), (900, 32)]
)
def test_the_radius_follows_the_width_within_bounds(width_px: float, radius_px: int) -> None:
    assert guided.radius_for(width_px) == radius_px
