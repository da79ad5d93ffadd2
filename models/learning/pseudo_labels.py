"""Masks that a teacher makes of its own probabilities, for a student to learn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from models.base import HeatMap, Image, Sample
from models.learning import partial_labels
from models.learning.dense_crops import DenseSample, FloatMap, Load
from models.masks.settings import Settings, apply
from models.metrics import grown
from models.refine import guided

RING_PX = 2  # beside a thin mask: where exactly it ends, nobody knows
RING_WEIGHT, UNSURE_WEIGHT = 1.0, 0.5
LEAST_WEIGHT, SURE_WITHIN = 0.1, 0.4  # of pixels as probable as not, and how fast they gain

Teacher = Callable[[Image], HeatMap]
Number = TypeVar("Number", np.uint8, np.float32)


def thin(image: Image, heat: HeatMap, settings: Settings) -> tuple[FloatMap, FloatMap]:
    """Return target and weight (H, W) of a thin class: its refined mask.

    The ring around the mask, and what is hot without being in it, count less.
    """
    mask = apply(image, heat, settings)
    weight = np.ones(mask.shape, np.float32)
    weight[(heat > settings.threshold) & ~mask] = UNSURE_WEIGHT
    weight[grown(mask, RING_PX) & ~mask] = RING_WEIGHT
    return mask.astype(np.float32), weight


def compact(image: Image, heat: HeatMap, settings: Settings) -> tuple[FloatMap, FloatMap]:
    """Return target and weight (H, W) of a compact class: its heat drawn to edges of colour.

    A pixel counts the more, the farther its probability is from the threshold.
    """
    radius_px = guided.radius_for(settings.width_px)
    target = np.clip(guided.filter_heat(image, heat, radius_px), 0, 1)
    sure = np.abs(target - settings.threshold) / SURE_WITHIN
    return target, np.clip(sure, LEAST_WEIGHT, 1).astype(np.float32)


def labelled(
    sample: Sample,
    class_name: str,
    teacher: Teacher,
    settings: Settings,
    *,
    is_thin: bool,
    scale: float,
    patch_px: int,
    radius_px: float,
) -> Load:
    """Give one image with the teacher's labels, overruled by what people have said of it.

    scale: at most 1; the image is reduced to it.
    """

    def load() -> DenseSample:
        if class_name in sample.masks:
            return scaled(partial_labels.verified(sample, class_name)(), scale)
        said = partial_labels.clicked(
            sample, class_name, patch_px=patch_px, radius_px=radius_px, weight=1.0
        )()
        make = thin if is_thin else compact
        target, weight = make(said.image, teacher(said.image), settings)
        known = said.weight > 0
        target[known], weight[known] = said.target[known], said.weight[known]
        return scaled(DenseSample(said.image, target, weight), scale)

    return load


def scaled(sample: DenseSample, scale: float) -> DenseSample:
    """Reduce a sample; scale 1 leaves it as it is."""
    if scale == 1:
        return sample
    target, weight = (shrunk(part, scale) for part in (sample.target, sample.weight))
    return DenseSample(shrunk(sample.image, scale), target, weight)


def shrunk(values: npt.NDArray[Number], scale: float) -> npt.NDArray[Number]:
    """(H, W) or (H, W, 3) -> the same kind, sides times `scale`, by the mean of areas."""
    size = [max(1, round(side * scale)) for side in values.shape[1::-1]]
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), values.dtype)
