"""The dense CRF against the mean field over all pairs of pixels, with one field per label."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from models.base import HeatMap, Image, Mask
from models.metrics import f_measure
from models.refine import crf

Floats = npt.NDArray[np.float64]
SMALL = crf.Potentials(place_px=6, colour_levels=20, near_px=1.5)


def patch(height_px: int = 20, width_px: int = 26, seed: int = 0) -> tuple[Image, Mask, HeatMap]:
    """A brown rectangle and heat with as much noise as signal."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((height_px, width_px), bool)
    truth[5:-5, 7:-6] = True
    image = rng.normal(0, 6, (height_px, width_px, 3)) + 130 + truth[..., None] * (20, -30, -60)
    heat = np.clip(0.3 + 0.25 * truth + rng.normal(0, 0.2, truth.shape), 0, 1)
    return np.clip(image, 0, 255).astype(np.uint8), truth, heat.astype(np.float32)


def by_pairs(image: Image, unary: Floats, potentials: crf.Potentials) -> Floats:
    """Kraehenbuehl and Koltun's update, literally: two labels, Potts, all pairs. Returns Q(1)."""
    y, x = np.indices(unary.shape)
    place = np.stack((y.ravel(), x.ravel()), axis=1).astype(float)
    colour = image.reshape(-1, 3).astype(float)
    apart = ((place[:, None] - place) ** 2).sum(axis=2)
    unlike = ((colour[:, None] - colour) ** 2).sum(axis=2)
    both = apart / potentials.place_px**2 + unlike / potentials.colour_levels**2
    kernels = [np.exp(-both / 2), np.exp(-apart / potentials.near_px**2 / 2)]
    weights = potentials.colour_weight, potentials.near_weight
    normalised = [k / np.sqrt(np.outer(k.sum(axis=1), k.sum(axis=0))) for k in kernels]
    energy = np.stack((np.zeros(unary.size), -unary.ravel()), axis=1)
    q = softmax(-energy)
    for _ in range(potentials.steps):
        penalty = sum(w * (k @ q[:, ::-1]) for w, k in zip(weights, normalised, strict=True))
        q = softmax(-energy - penalty)
    return q[:, 1].reshape(unary.shape)


def softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def probability(image: Image, unary: Floats, potentials: crf.Potentials) -> Floats:
    return np.asarray(1 / (1 + np.exp(-unary - crf.mean_field(image, unary, potentials))))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_field_is_the_mean_field_of_two_labels(seed: int) -> None:
    image, _, heat = patch(seed=seed)
    unary = crf.log_odds(heat, 0.4)
    found, wanted = probability(image, unary, SMALL), by_pairs(image, unary, SMALL)
    assert np.abs(found - wanted).mean() < 0.02
    assert ((found > 0.5) != (wanted > 0.5)).mean() < 0.02
    alone = 1 / (1 + np.exp(-unary))
    assert np.abs(alone - wanted).mean() > 0.2  # there was something to do


def test_the_near_kernel_alone_is_exact() -> None:
    image, _, heat = patch()
    unary, near = crf.log_odds(heat, 0.4), replace(SMALL, colour_weight=0)
    found, wanted = probability(image, unary, near), by_pairs(image, unary, near)
    assert np.abs(found - wanted).max() < 1e-3


def test_noisy_heat_becomes_the_patch_of_one_colour() -> None:
    image, truth, heat = patch(60, 70)
    mask = crf.refine(image, heat, threshold=0.4, min_area_px=1, closing_px=1)
    assert f_measure(mask, truth) > 0.97 > 0.85 > f_measure(heat > 0.4, truth)


def test_a_reduced_solution_is_close_to_the_full_one() -> None:
    image, truth, heat = patch(90, 80)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), 1), np.uint8)
    unary = crf.log_odds(heat, 0.4)
    full, half = (
        unary + crf._messages(image, unary, replace(crf.Potentials(), most_px=most)) > 0
        for most in (90 * 80, 90 * 80 // 4)
    )
    assert f_measure(half, full) > 0.97
    assert f_measure(half, truth) > 0.95
    assert crf.Potentials().reduced(2) == crf.Potentials(place_px=25, near_px=1.5)


def test_the_unary_is_zero_at_the_threshold_and_bounded() -> None:
    heat = np.array([[0.0, 0.1, 0.35, 1.0]], np.float32)
    limit = np.log(0.98 / 0.02)
    u = crf.log_odds(heat, 0.35)[0]
    assert u[2] == pytest.approx(0, abs=1e-6)
    assert u[1] == pytest.approx(np.log(0.1 / 0.9) - np.log(0.35 / 0.65), abs=1e-6)
    assert np.abs(u).max() <= limit
    assert (crf.log_odds(heat, 0.0)[0] >= 0).all()
    assert (crf.log_odds(heat, 1.0)[0] <= 0).all()


def test_far_from_heat_nothing_is_looked_at() -> None:
    image, heat = np.full((400, 300, 3), 90, np.uint8), np.zeros((400, 300), np.float32)
    heat[350:380, 100:140] = 0.9
    image[350:380, 100:140] = 200
    potentials = crf.Potentials(place_px=10)
    mask = crf._cut(image, heat, potentials, 0.5)
    other = image.copy()
    other[:300] = np.random.default_rng(0).integers(0, 255, (300, 300, 3))
    assert mask.any()
    assert np.array_equal(mask, crf._cut(other, heat, potentials, 0.5))
