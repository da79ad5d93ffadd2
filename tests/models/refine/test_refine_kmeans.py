"""Heat and clusters of colour: what is kept, what is damped, and that it repeats itself."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from models.base import HeatMap, Image, Mask
from models.metrics import f_measure
from models.refine import kmeans, threshold


def rust(seed: int = 0) -> tuple[Image, Mask, HeatMap]:
    """A brown patch on grey steel; the heat covers it and as much steel around it."""
    rng = np.random.default_rng(seed)
    image = rng.normal(130, 10, (90, 110, 3))
    truth, heat = np.zeros((90, 110), bool), np.zeros((90, 110), np.float32)
    truth[30:60, 40:70] = True
    heat[20:70, 30:80] = 0.9
    image[truth] += (20, -50, -90)
    return np.clip(image, 0, 255).astype(np.uint8), truth, heat


def test_heat_on_colours_of_the_surroundings_is_damped() -> None:
    image, truth, heat = rust()
    for clusters in (2, 6):
        damped = kmeans.damp(image, heat, clusters)
        assert damped[truth].min() > 0.85
        steel = damped[(heat > 0) & ~truth]
        assert steel.mean() < 0.55
    ours = kmeans.refine(image, heat, threshold=0.6, min_area_px=20)
    plain = threshold.refine(image, heat, threshold=0.6, min_area_px=20)
    assert f_measure(ours, truth) > 0.95 > 0.6 > f_measure(plain, truth)


def test_it_never_adds_heat_and_repeats_itself() -> None:
    image, _, heat = rust(1)
    once = kmeans.damp(image, heat)
    assert (once <= heat).all()
    np.random.default_rng().random()
    assert np.array_equal(once, kmeans.damp(image, heat))


def test_bands_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _, heat = rust(2)
    whole = kmeans.damp(image, heat)
    monkeypatch.setattr(kmeans, "_BAND_ROWS", 7)
    assert np.allclose(kmeans.damp(image, heat), whole, atol=1e-6)


def test_clusters_are_those_of_lloyds_method() -> None:
    rng = np.random.default_rng(0)
    middles = np.array([[2, 3, 4], [20, 8, 9], [9, 25, 24]])
    colours = np.concatenate([rng.normal(m, 1.5, (60, 3)) for m in middles])
    weights = rng.uniform(1, 5, len(colours))
    ours = kmeans.cluster_colours(colours, weights, 3, np.random.default_rng(0))
    theirs = KMeans(3, n_init=5, random_state=0).fit(colours, sample_weight=weights).labels_
    assert len(set(zip(ours.tolist(), theirs.tolist(), strict=True))) == 3  # the same, renumbered


def test_fewer_colours_than_clusters_are_no_problem() -> None:
    colours = np.array([[0.0, 0, 0], [9, 9, 9]])
    numbers = kmeans.cluster_colours(colours, np.ones(2), 6, np.random.default_rng(0))
    assert numbers[0] != numbers[1]
    heat = np.full((5, 6), 0.5, np.float32)
    one_colour = kmeans.damp(np.full((5, 6, 3), 77, np.uint8), heat)
    assert np.allclose(one_colour, heat)
