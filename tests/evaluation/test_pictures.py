"""The four panels show what they are called."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from backend.evaluation import pictures
from backend.evaluation.pictures import GAP_PX, PROPOSED_COLOUR, TITLE_PX, TRUE_COLOUR


def panels(height: int, width: int) -> list[np.ndarray]:
    image = np.full((height, width, 3), 120, np.uint8)
    truth, mask = np.zeros((2, height, width), bool)
    truth[: height // 2 or 1, : width // 2 or 1] = True
    mask[height // 2 :, width // 2 :] = True
    heat = np.zeros((height, width), np.float32)
    heat[:, width // 2 :] = 1
    joined = pictures.side_by_side(image, truth, heat, mask, "F1 0.00")[TITLE_PX:]
    wide = (joined.shape[1] - 3 * GAP_PX) // 4
    return [joined[:, n * (wide + GAP_PX) :][:, :wide] for n in range(4)]


def has(panel: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((panel == colour).all(axis=2).any())


def test_panels_are_image_truth_heat_and_proposal() -> None:
    image, truth, heat, proposal = panels(400, 400)
    assert np.unique(image).tolist() == [120]
    assert (has(truth, TRUE_COLOUR), has(truth, PROPOSED_COLOUR)) == (True, False)
    assert (has(proposal, TRUE_COLOUR), has(proposal, PROPOSED_COLOUR)) == (True, True)
    assert heat[:, 300].mean() > heat[:, 100].mean() + 50
    assert (truth[50, 50] != 120).any()
    assert (truth[300, 300] == 120).all()


@pytest.mark.parametrize(
    ("shape", "panel"),
    [
        ((4000, 2000), (640, 320)),
        ((100, 50), (320, 160)),
        ((1, 3000), (1, 640)),
        ((1, 1), (320, 320)),
    ],
)
def test_any_image_fits_on_a_screen(shape: tuple[int, int], panel: tuple[int, int]) -> None:
    assert {one.shape[:2] for one in panels(*shape)} == {panel}


def test_a_thin_line_stays_visible_in_a_small_panel() -> None:
    image, truth = np.zeros((3000, 3000, 3), np.uint8), np.zeros((3000, 3000), bool)
    truth[1501] = True
    nothing = np.zeros_like(truth)
    shown = pictures.side_by_side(image, truth, nothing.astype(np.float32), nothing, "")
    assert has(shown, TRUE_COLOUR)


def test_the_file_is_a_picture(tmp_path: Path) -> None:
    image, mask = np.zeros((32, 48, 3), np.uint8), np.ones((32, 48), bool)
    pictures.write_picture(tmp_path / "a.jpg", image, mask, mask.astype(np.float32), mask, "F1 1")
    height, width, _ = cv2.imread(str(tmp_path / "a.jpg")).shape
    assert width == 4 * 320 + 3 * GAP_PX
    assert height == TITLE_PX + 213
