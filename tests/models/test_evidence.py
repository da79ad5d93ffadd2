"""Evidence: the shape of a proposal in numbers, and several classes joined."""

from __future__ import annotations

import numpy as np
import pytest

from models import evidence
from models.base import HeatMap, Mask
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
        "outline_doubt": 0,
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


def halves(height: int, width: int) -> tuple[Mask, HeatMap]:
    """Give a proposal of the left half, and a heat that agrees with it for certain."""
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    return mask, mask.astype(np.float32)


def test_doubt_counts_in_the_band_around_the_outline_alone() -> None:
    mask, heat = halves(20, 40)
    assert evidence.outline_doubt(mask, heat) == 0
    heat[:, :17], heat[:, 23:] = 0.5, 0.5
    assert evidence.outline_doubt(mask, heat) == 0, "far from the outline nobody corrects"
    heat[:, 17:23] = 0.5  # BAND_PX to either side of the outline between columns 19 and 20
    assert evidence.outline_doubt(mask, heat) == pytest.approx(1)
    heat[:, 17:20] = 1.0
    assert evidence.outline_doubt(mask, heat) == pytest.approx(1 / 2)
    heat[:, 17:23] = 0.25  # H(1/4) = 2 / 4 + (3 / 4) log2(4 / 3) bits
    assert evidence.outline_doubt(mask, heat) == pytest.approx(0.5 + 0.75 * np.log2(4 / 3))


def test_a_large_defect_or_image_has_no_more_doubt_than_a_small_one() -> None:
    found = []
    for side_px, image_px in ((20, 60), (200, 400), (20, 400)):
        mask, heat = np.zeros((2, image_px, image_px), np.float32)
        mask[20 : 20 + side_px, 20 : 20 + side_px] = 1
        heat[:] = np.where(mask > 0, 0.8, 0.2)
        found.append(evidence.outline_doubt(mask > 0, heat))
    assert found == pytest.approx([found[0]] * 3)
    assert found[0] == pytest.approx(-0.8 * np.log2(0.8) - 0.2 * np.log2(0.2))


def test_where_nothing_is_proposed_what_is_nearly_proposed_is_doubtful() -> None:
    nothing, heat = np.zeros((50, 50), bool), np.zeros((50, 50), np.float32)
    assert evidence.outline_doubt(nothing, heat) == 0
    heat[10:12, 10:12] = 0.5
    assert evidence.outline_doubt(nothing, heat) == pytest.approx(1), "clean pixels do not dilute"
    heat[30:32, 30:32] = 1.0  # weights 0.5 and 1
    assert evidence.outline_doubt(nothing, heat) == pytest.approx(1 / 3)


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
    assert seen.samples.shape == (0, 0, 0)
