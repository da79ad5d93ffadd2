"""What a person asks for on an image: a click or a box, for more or for less."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Prompt:
    """A click (one point) or a box (four corners), (x, y) in pixels, also outside the image.

    positive: the person wants what is there; otherwise they do not.
    """

    corners: tuple[tuple[float, float], ...]
    positive: bool

    @property
    def is_click(self) -> bool:
        """Whether it is a point."""
        return len(self.corners) == 1

    def pixel(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return row and column of a click, the nearest that the image has."""
        ((x_px, y_px),) = self.corners
        row, column = np.clip(np.floor((y_px, x_px)), 0, (height_px - 1, width_px - 1)).astype(int)
        return int(row), int(column)

    def outline(self) -> npt.NDArray[np.float64]:
        """Return the corners of a box, (4, 2) x, y."""
        return np.array(self.corners, dtype=np.float64)
