"""The permutohedral lattice against the sums over all pairs of points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from models.masks import lattice

Floats = npt.NDArray[np.float64]


def weighted_means(points: Floats, values: Floats) -> Floats:
    squared = ((points[:, None] - points) ** 2).sum(axis=2)
    kernel = np.exp(-squared / 2)
    return np.asarray(kernel @ values / kernel.sum(axis=1))


@pytest.mark.parametrize(("dimensions", "least"), [(1, 0.99), (2, 0.99), (3, 0.94), (5, 0.9)])
def test_it_is_close_to_the_gaussian_filter(dimensions: int, least: float) -> None:
    rng = np.random.default_rng(dimensions)
    points, values = rng.normal(0, 1.2, (700, dimensions)), rng.normal(0.5, 1, 700)
    built = lattice.build(points)
    found = built.filter(values) / built.filter(np.ones(700))
    wanted = weighted_means(points, values)
    assert np.corrcoef(found, wanted)[0, 1] > least
    assert np.abs(found - wanted).mean() < 0.3 * wanted.std()


def test_the_width_of_the_kernel_is_one() -> None:
    line = np.linspace(-8, 8, 1601)[:, None]
    response = lattice.build(line).filter(np.eye(1, 1601, 800)[0])
    weights = response / response.sum()
    assert weights @ line[:, 0] == pytest.approx(0, abs=0.5)
    spread = [
        float(np.sqrt(r @ line[:, 0] ** 2 / r.sum() - (r @ line[:, 0] / r.sum()) ** 2))
        for r in (lattice.build(line + shift).filter(np.eye(1, 1601, 800)[0]) for shift in (0, 0.3))
    ]
    assert np.mean(spread) == pytest.approx(1, abs=0.12)


def test_shares_of_corners_are_those_of_a_simplex() -> None:
    points = np.random.default_rng(0).normal(0, 3, (200, 5))
    built = lattice.build(points)
    assert built.share.min() > -1e-9
    assert np.allclose(built.share.sum(axis=1), 1)
    assert all(len(set(corners)) == 6 for corners in built.corner.tolist())


def test_neighbours_are_mutual() -> None:
    built = lattice.build(np.random.default_rng(1).normal(0, 1, (300, 3)))
    size = built.neighbours.shape[2]
    for before, after in built.neighbours:
        there = np.flatnonzero(after < size)
        assert len(there)
        assert np.array_equal(before[after[there]], there)


def test_far_points_do_not_mix_and_one_point_keeps_its_value() -> None:
    points = np.array([[0.0, 0.0], [0.1, 0.0], [50.0, 50.0]])
    built = lattice.build(points)
    found = built.filter(np.array([1.0, 1.0, 0.0])) / built.filter(np.ones(3))
    assert found == pytest.approx([1, 1, 0], abs=1e-12)
    alone = lattice.build(np.zeros((1, 5)))
    assert alone.filter(np.array([3.0]))[0] > 0
