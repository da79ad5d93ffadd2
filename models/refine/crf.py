"""Dense CRF of two labels by mean field (Kraehenbuehl and Koltun 2011, as RustSEG and AdvCAM use).

Two labels need one field, the log-odds z (Q = sigmoid(z), so 2Q - 1 = tanh(z / 2)). With u the
log-odds of the heat, a step is

    z <- u + w_colour K_colour (2Q - 1) + w_near K_near (2Q - 1)

where K_colour falls with the distance in place and colour (a permutohedral lattice), K_near in
place alone, both normalised symmetrically and with the pixel itself, as everywhere in practice.

The threshold is where u = 0. It deletes small and thin defects: not for cracks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from models.base import HeatMap, Image, Mask
from models.masks import lattice
from models.refine import Cut, threshold
from models.refine.threshold import finish, scaled

summary = "Heat smoothed among pixels alike in place and colour (dense CRF): for large defects."
default_threshold = 0.1
default_min_area_px = 60
is_slow = True
is_scaled = True
least_width_px, most_width_px = 8.0, float("inf")
closing_for = threshold.closing_for

Floats = npt.NDArray[np.float64]
SURE = 0.02  # heat is taken as a probability in [SURE, 1 - SURE]


@dataclass(frozen=True)
class Potentials:
    """Strength and reach of the two kernels; the defaults are those of AdvCAM's authors.

    colour_weight, place_px, colour_levels: of K_colour; near_weight, near_px: of K_near.
    most_px: larger parts are solved at a half, a third, ... of their resolution: messages only, the
        heat itself keeps its own.
    """

    colour_weight: float = 10
    place_px: float = 50
    colour_levels: float = 5
    near_weight: float = 3
    near_px: float = 3
    steps: int = 10
    most_px: int = 160_000

    def reduced(self, factor: int) -> Potentials:
        """Return those for an image reduced by a whole number."""
        return replace(self, place_px=self.place_px / factor, near_px=self.near_px / factor)


def refine(
    image: Image,
    heat: HeatMap,
    *,
    threshold: float,
    min_area_px: int,
    closing_px: int | None = None,
    width_px: float | None = None,
) -> Mask:
    """Keep the pixels of positive log-odds, close gaps, drop small regions."""
    mask = prepare(image, heat, width_px=width_px)(threshold)
    return finish(mask, closing_for(width_px) if closing_px is None else closing_px, min_area_px)


def prepare(image: Image, heat: HeatMap, *, width_px: float | None = None) -> Cut:
    """Return the cut at a threshold; nothing is done before, the unaries depend on it."""
    return partial(_cut, image, heat, potentials_for(width_px))


def potentials_for(width_px: float | None) -> Potentials:
    """Return the potentials that suit defects of this width: reaches of two and of 1/8 widths."""
    if width_px is None:
        return Potentials()
    return Potentials(place_px=scaled(2 * width_px, 20, 80), near_px=scaled(width_px / 8, 1, 5))


def log_odds(heat: HeatMap, threshold: float) -> Floats:
    """(H, W) heat -> u, (H, W): 0 at the threshold, bounded by that of SURE."""
    bounded = np.clip(heat.astype(np.float64), SURE, 1 - SURE)
    level = min(max(threshold, SURE), 1 - SURE)
    limit = np.log((1 - SURE) / SURE)
    shifted = np.log(bounded / (1 - bounded)) - np.log(level / (1 - level))
    return np.asarray(np.clip(shifted, -limit, limit))


def mean_field(image: Image, unary: Floats, potentials: Potentials) -> Floats:
    """Return what the neighbours say, z - u, (H, W), after the last step."""
    filters = (_colour_filter(image, potentials), _near_filter(unary.shape, potentials.near_px))
    weights = (potentials.colour_weight, potentials.near_weight)
    message = np.zeros_like(unary)
    for _ in range(potentials.steps):
        field = np.tanh((unary + message) / 2)
        message = sum(
            (w * f(field) for w, f in zip(weights, filters, strict=True)), np.zeros_like(unary)
        )
    return message


def _cut(image: Image, heat: HeatMap, potentials: Potentials, threshold: float) -> Mask:
    mask = np.zeros(heat.shape, dtype=bool)
    hot = heat > threshold
    if not hot.any():
        return mask
    box = _box(hot, margin_px=round(2 * potentials.place_px))
    unary = log_odds(heat[box], threshold)
    mask[box] = unary + _messages(image[box], unary, potentials) > 0
    return mask


def _messages(image: Image, unary: Floats, potentials: Potentials) -> Floats:
    factor = int(np.ceil(np.sqrt(unary.size / potentials.most_px)))
    if factor <= 1:
        return mean_field(image, unary, potentials)
    height_px, width_px = unary.shape
    small = (-(-width_px // factor), -(-height_px // factor))
    message = mean_field(
        np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), dtype=np.uint8),
        np.asarray(cv2.resize(unary, small, interpolation=cv2.INTER_AREA), dtype=np.float64),
        potentials.reduced(factor),
    )
    return np.asarray(cv2.resize(message, (width_px, height_px), interpolation=cv2.INTER_LINEAR))


def _colour_filter(image: Image, potentials: Potentials) -> Callable[[Floats], Floats]:
    places = np.indices(image.shape[:2]).reshape(2, -1).T / potentials.place_px
    colours = image.reshape(-1, 3) / potentials.colour_levels
    kernel = lattice.build(np.concatenate((places, colours), axis=1)).filter
    return _normalised(lambda field: kernel(field.ravel()).reshape(field.shape), image.shape[:2])


def _near_filter(shape: tuple[int, ...], sigma_px: float) -> Callable[[Floats], Floats]:
    side = 2 * int(np.ceil(4 * sigma_px)) + 1

    def blur(field: Floats) -> Floats:
        return np.asarray(
            cv2.GaussianBlur(field, (side, side), sigma_px, borderType=cv2.BORDER_CONSTANT)
        )

    return _normalised(blur, shape)


def _normalised(
    kernel: Callable[[Floats], Floats], shape: tuple[int, ...]
) -> Callable[[Floats], Floats]:
    """K -> D^-1/2 K D^-1/2 with D the sums of the rows."""
    scale = 1 / np.sqrt(kernel(np.ones(shape)))
    return lambda field: scale * kernel(scale * field)


def _box(mask: Mask, margin_px: int) -> tuple[slice, slice]:
    places = (np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1))
    rows, columns = (
        slice(max(0, int(found[0]) - margin_px), int(found[-1]) + 1 + margin_px) for found in places
    )
    return rows, columns
