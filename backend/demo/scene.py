"""A wall as a small scene: albedo and height maps, noise to roughen them, light to see them by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from models.base import Image

Plane = npt.NDArray[np.float32]  # (H, W)
Rng = np.random.Generator


@dataclass
class Scene:
    """albedo: (H, W, 3) in [0, 1]; height_px: (H, W), relief towards the viewer."""

    albedo: npt.NDArray[np.float32]
    height_px: Plane
    rng: Rng

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in px."""
        rows, columns = self.height_px.shape
        return rows, columns

    def tint(self, colour: npt.ArrayLike, alpha: Plane) -> None:
        """Cover with a colour, (3,) or (H, W, 3); alpha: (H, W) in [0, 1]."""
        self.albedo += alpha[..., None] * (np.asarray(colour, np.float32) - self.albedo)

    def darken(self, alpha: Plane) -> None:
        """Take this share of the light away; alpha: (H, W) in [0, 1]."""
        self.albedo *= 1 - alpha[..., None]


def noise(rng: Rng, shape: tuple[int, int], scale_px: float) -> Plane:
    """Smooth noise of unit deviation whose features are about `scale_px` wide."""
    grid = [max(2, int(side / scale_px) + 3) for side in shape]
    coarse = rng.standard_normal(grid, dtype=np.float32)
    smooth = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), np.float32)


def cloud(rng: Rng, shape: tuple[int, int], scales_px: Sequence[float], fall: float) -> Plane:
    """Sum of noises of falling strength, unit deviation: rough at every scale."""
    layers = [fall**n * noise(rng, shape, scale) for n, scale in enumerate(scales_px)]
    total = np.sum(layers, axis=0)
    return np.asarray(total / total.std(), np.float32)


def soft_step(values: npt.NDArray[np.floating[Any]], width: float) -> Plane:
    """0 below, 1 above zero, with a smooth edge of this width."""
    ramp = np.clip(values / width + 0.5, 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def photograph(scene: Scene) -> Image:
    """Light the scene from one side, sometimes through a shadow; a slightly noisy photo."""
    rng = scene.rng
    light = _shading(scene) * _uneven_light(scene.shape, rng)
    if rng.random() < 0.32:
        light *= _cast_shadow(scene.shape, rng)
    white = 1 + rng.normal(0, 0.009, 3)
    colour = scene.albedo * light[..., None] * white.astype(np.float32)
    colour = cv2.GaussianBlur(colour, (0, 0), rng.uniform(0.35, 0.65))
    colour += rng.normal(0, rng.uniform(0.004, 0.013), colour.shape)
    return np.asarray(np.clip(colour * 255 + 0.5, 0, 255), np.uint8)


def _shading(scene: Scene) -> Plane:
    """Lambert's law on the height map; 1 where the wall is flat."""
    toward = scene.rng.uniform(0, 2 * np.pi)
    slant = scene.rng.uniform(0.18, 0.42)
    down, right = np.gradient(scene.height_px)
    facing = -(right * np.cos(toward) + down * np.sin(toward))
    lit = 1 + slant * facing / np.hypot(1, np.hypot(right, down))
    return np.asarray(np.clip(lit, 0.3, 1.6), np.float32)


def _uneven_light(shape: tuple[int, int], rng: Rng) -> Plane:
    rows, columns = shape
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j].astype(np.float32)
    toward = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.14) * (x * np.cos(toward) + y * np.sin(toward))
    vignette = rng.uniform(0, 0.10) * (x * x + y * y)
    return np.asarray(rng.uniform(0.82, 1.14) * (1 + slope - vignette), np.float32)


def _cast_shadow(shape: tuple[int, int], rng: Rng) -> Plane:
    """A straight-edged shadow, of a beam when it has two edges, or the soft dapple of leaves."""
    rows, columns = shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    x0, y0 = rng.uniform(0.2, 0.8, 2) * (columns, rows)
    offset = np.asarray((x - x0) * np.sin(angle) - (y - y0) * np.cos(angle), np.float32)
    softness_px = rng.uniform(2, 14)
    if rng.random() < 0.25:
        offset = offset * np.float32(0.25) + np.float32(26) * cloud(rng, shape, (42, 17), 0.8)
        softness_px = rng.uniform(28, 50)
    elif rng.random() < 0.5:
        offset = np.float32(rng.uniform(12, 70)) - np.abs(offset)
    return 1 - np.float32(rng.uniform(0.25, 0.5)) * soft_step(offset, softness_px)
