"""Clicks lie where they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.evaluation.clicks import clicks, in_clean_patches, on_defect
from models.base import Mask


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(0, 10**6), st.integers(2, 40),
    st.floats(0, 0.02),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_each_click_is_what_it_says(
    height: int, width: int, seed: int, patch: int, share: float
) -> None:
    truth = rng(seed).random((height, width)) < share
    points = clicks(truth, "rust", 4, patch, rng(seed + 1))
    for point in points:
        x, y = int(point.x_px), int(point.y_px)
        assert (point.x_px, point.y_px, point.class_name) == (x, y, "rust")
        if point.positive:
            assert truth[y, x]
        else:
            top, left = y - patch // 2, x - patch // 2
            rows, columns = max(top, 0), max(left, 0)
            assert not truth[rows : top + patch, columns : left + patch].any()
            assert height <= patch or (top >= 0 and top + patch <= height + patch % 2)
    assert len({(p.x_px, p.y_px) for p in points}) == len(points)
    assert sum(p.positive for p in points) == min(4, int(truth.sum()))


def test_large_parts_are_clicked_more_but_not_in_proportion() -> None:
    truth = np.zeros((60, 60), bool)
    truth[:40, :40] = True  # 1600 px: root 40
    truth[50:60, 50:60] = True  # 100 px: root 10
    drawn = np.concatenate([on_defect(truth, 1, rng(seed)) for seed in range(400)])
    assert (drawn[:, 0] >= 50).mean() == pytest.approx(0.2, abs=0.06)


def test_all_of_a_large_part_is_clicked() -> None:
    truth = np.zeros((20, 20), bool)
    truth[:10] = True
    drawn = on_defect(truth, 200, rng())
    assert len(np.unique(drawn, axis=0)) == 200


def test_without_defect_there_are_negatives_alone() -> None:
    points = clicks(np.zeros((50, 50), bool), "rust", 5, 16, rng())
    assert [point.positive for point in points] == [False] * 5


def test_without_clean_patch_there_are_positives_alone() -> None:
    truth = np.zeros((50, 50), bool)
    truth[::10, ::10] = True
    assert [p.positive for p in clicks(truth, "rust", 5, 16, rng())] == [True] * 5


def test_an_image_smaller_than_a_patch_is_clean_only_as_a_whole() -> None:
    clean: Mask = np.zeros((10, 12), bool)
    assert in_clean_patches(clean, 5, 64, rng()).tolist() == [[5, 6]]
    clean[0, 0] = True
    assert len(in_clean_patches(clean, 5, 64, rng())) == 0


def test_the_same_seed_clicks_the_same() -> None:
    truth = rng(3).random((40, 40)) < 0.01
    assert clicks(truth, "a", 5, 8, rng(1)) == clicks(truth, "a", 5, 8, rng(1))
    assert clicks(truth, "a", 5, 8, rng(1)) != clicks(truth, "a", 5, 8, rng(2))
