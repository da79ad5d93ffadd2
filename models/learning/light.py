"""Crops in other light, so that a network does not learn the weather: contrast, colours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CONTRAST, BRIGHTNESS = 0.3, 0.12  # largest change; of the contrast, of the full range
SATURATION, HUE_RADIANS = 0.25, 0.1  # largest change at a colour jitter of 1


def relight(
    x: Tensor,
    rng: np.random.Generator,
    colour_jitter: float = 0.0,
    *,
    of: int | None = None,
    rows: slice = slice(None),
) -> Tensor:
    """Change contrast about the crop's mean, brightness and colours of each crop (B, 3, H, W).

    of, rows: x is these rows of a batch of so many crops, for all of which numbers are drawn.
    """
    count = (of or len(x), 1, 1, 1)

    def drawn(least: float, most: float) -> npt.NDArray[np.float64]:
        return rng.uniform(least, most, count)[rows]

    if colour_jitter:
        saturation = 1 + colour_jitter * drawn(-SATURATION, SATURATION)
        hue = colour_jitter * drawn(-HUE_RADIANS, HUE_RADIANS)
        x = recolour(x, _as(x, saturation), _as(x, hue))
    contrast = _as(x, drawn(1 - CONTRAST, 1 + CONTRAST))
    brightness = _as(x, drawn(-BRIGHTNESS, BRIGHTNESS))
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return ((x - mean) * contrast + mean + brightness).clamp(0, 1)


def recolour(x: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Scale the colours of (B, 3, H, W) about the grey axis and turn them around it.

    saturation, hue: (B, 1, 1, 1), factor and radians; the mean of the channels stays.
    """
    grey = x.mean(dim=1, keepdim=True)
    across = (x.roll(1, dims=1) - x.roll(-1, dims=1)) / 3**0.5  # the axis' cross product
    return grey + saturation * (hue.cos() * (x - grey) + hue.sin() * across)


def _as(x: Tensor, values: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values).to(device=x.device, dtype=x.dtype)
