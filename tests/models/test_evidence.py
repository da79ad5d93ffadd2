"""Evidence: the shape of a proposal in numbers, and several classes joined."""

from __future__ import annotations

import numpy as np
import pytest

from models import evidence
from models.metrics import outline_px


def test_stats_of_a_ring_and_a_square() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:7, 2:7] = True  # 16 of 25 pixels on its outline
    mask[10:13, 10:13] = True
    mask[11, 11] = False  # a ring of 8
    heat = mask.astype(np.float32)
    assert evidence.proposal_stats(mask, heat) == {
        "area_px": 33,
        "outline_px": 24,
        "components": 2,
        "heat_sharpness": 1,
    }


def test_the_edge_of_the_image_is_outline() -> None:
    assert outline_px(np.ones((5, 5), bool)) == 16
    assert outline_px(np.ones((1, 1), bool)) == 1


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    diagonal = np.eye(6, dtype=bool)
    assert evidence.proposal_stats(diagonal, diagonal.astype(np.float32))["components"] == 1


def test_nothing_has_no_shape() -> None:
    nothing = np.zeros((4, 6), bool)
    stats = evidence.proposal_stats(nothing, nothing.astype(np.float32))
    assert set(stats.values()) == {0}


def test_sharpness_falls_as_heat_becomes_undecided() -> None:
    heats = [np.array([[0, level, 1]], np.float32) for level in (0.0, 0.1, 0.5)]
    values = [evidence.heat_sharpness(heat) for heat in heats]
    assert values == pytest.approx([1, 1 - 2 * 0.09, 0.5])
    assert evidence.heat_sharpness(np.full((3, 3), 0.5, np.float32)) == 0


def test_classes_are_columns_and_their_features_lie_end_to_end() -> None:
    probs = [np.array([0.1, 0.2, 0.3], np.float32), np.array([0.9, 0.8, 0.7], np.float32)]
    parts = [np.array([1, 2], np.float32), np.array([3, 4], np.float32)]
    seen = evidence.gather(["crack", "rust"], probs, parts, {"crack": {"area_px": 3.0}})
    assert seen.tile_probs[:, 1].tolist() == probs[1].tolist()
    assert seen.embedding.tolist() == [1, 2, 3, 4]
    assert seen.stats["crack"]["area_px"] == 3


def test_without_classes_there_is_nothing_to_read() -> None:
    seen = evidence.gather([], [], [], {})
    assert (seen.tile_probs.shape, seen.embedding.shape, seen.classes) == ((0, 0), (0,), ())
