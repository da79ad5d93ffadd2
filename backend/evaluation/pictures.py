"""One picture per image: image, truth, heat map and proposal side by side."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models.base import HeatMap, Image, Mask

PANEL_PX = (320, 640)  # smallest and largest long side of a panel
TITLE_PX, GAP_PX = 26, 6
TRUE_COLOUR, PROPOSED_COLOUR = (0, 200, 0), (255, 60, 0)  # RGB
TINT = 0.35
JPEG_QUALITY = 90

Pixels = npt.NDArray[np.uint8]


def write_picture(
    path: Path, image: Image, truth: Mask, heat: HeatMap, mask: Mask, note: str
) -> None:
    """Write the four panels as a JPEG; `note` stands above the proposal."""
    joined = side_by_side(image, truth, heat, mask, note)
    bgr = cv2.cvtColor(joined, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise OSError(f"{path} cannot be encoded")
    path.write_bytes(data.tobytes())


def side_by_side(image: Image, truth: Mask, heat: HeatMap, mask: Mask, note: str) -> Pixels:
    """Draw image | truth | heat map | proposal with the truth's outline; (H, W, 3) uint8 RGB."""
    size = _panel_size(image.shape[0], image.shape[1])
    photo = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    true, proposed = (_shrunk(one, size) for one in (truth, mask))
    drawn = _outlined(_tinted(photo, true, TRUE_COLOUR), true, TRUE_COLOUR)
    tried = _outlined(_tinted(photo, proposed, PROPOSED_COLOUR), proposed, PROPOSED_COLOUR)
    panels = {
        "image": photo,
        "truth": drawn,
        "heat map": _heated(photo, np.asarray(cv2.resize(heat, size), dtype=np.float32)),
        f"proposal {note}": _outlined(tried, true, TRUE_COLOUR),
    }
    gap = np.full((size[1] + TITLE_PX, GAP_PX, 3), 255, np.uint8)
    titled = [_titled(panel, title) for title, panel in panels.items()]
    parts = [part for panel in titled for part in (panel, gap)][:-1]
    return np.hstack(parts)


def _panel_size(height_px: int, width_px: int) -> tuple[int, int]:
    """Return (width, height) of a panel; neither side vanishes."""
    longest = max(height_px, width_px)
    scale = float(np.clip(longest, *PANEL_PX)) / longest
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def _shrunk(mask: Mask, size: tuple[int, int]) -> Pixels:
    """Resize a mask so that thin parts stay visible: any true pixel makes a pixel true."""
    shares = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    enlarged = size[0] >= mask.shape[1]
    return np.asarray(shares > (0.5 if enlarged else 0), dtype=np.uint8)


def _tinted(photo: Pixels, mask: Pixels, colour: tuple[int, int, int]) -> Pixels:
    mixed = (1 - TINT) * photo + TINT * np.array(colour)
    return np.where(mask[:, :, None] > 0, mixed, photo).astype(np.uint8)


def _outlined(photo: Pixels, mask: Pixels, colour: tuple[int, int, int]) -> Pixels:
    outlines = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    canvas = photo.copy()
    cv2.drawContours(canvas, outlines, -1, colour, 1)
    return canvas


def _heated(photo: Pixels, heat: HeatMap) -> Pixels:
    levels = np.clip(heat * 255, 0, 255).astype(np.uint8)
    coloured = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.addWeighted(photo, 0.35, coloured, 0.65, 0), dtype=np.uint8)


def _titled(panel: Pixels, title: str) -> Pixels:
    bar = np.full((TITLE_PX, panel.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack((bar, panel))
