"""Small folders of images with masks, and a pipeline that knows darkness without learning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from models.base import (
    ClassProposal,
    ClassSpec,
    Evidence,
    Fitted,
    Image,
    Mask,
    NotEnoughLabels,
    Profile,
    Progress,
    Report,
    Sample,
    TaskProposal,
)

SIZE = 72


def surface(seed: int, size: int = SIZE) -> tuple[Image, Mask]:
    """Grey noise with a dark crooked line along which it is known."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(150, 12, (size, size, 1)).repeat(3, axis=2).astype(np.float32)
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 0.8), 0, 255).astype(np.uint8)
    line = np.zeros((size, size), np.uint8)
    xs = np.linspace(4, size - 5, 5)
    ys = np.clip(np.cumsum(rng.normal(0, 5, 5)) + rng.uniform(20, size - 20), 4, size - 5)
    corners = np.stack((xs, ys), axis=1).round().astype(np.int32)
    cv2.polylines(line, [corners.reshape(-1, 1, 2)], isClosed=False, color=1, thickness=2)
    image[line > 0] = 50
    return image, line > 0


def write(path: Path, pixels: np.ndarray) -> Path:
    """Write grey or RGB pixels, or a mask as 0 and 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    assert cv2.imwrite(str(path), pixels[:, :, ::-1] if pixels.ndim == 3 else pixels)
    return path


def folder(root: Path, count: int, first: int = 0) -> tuple[Path, Path]:
    """Write `images/*.png` and `masks/*.png`; returns both folders."""
    for seed in range(first, first + count):
        image, truth = surface(seed)
        write(root / "images" / f"{seed:03}.png", image)
        write(root / "masks" / f"{seed:03}.png", truth)
    return root / "images", root / "masks"


class DarkFitted:
    """Proposes what is darker than 100; its heat is the darkness."""

    def __init__(self, classes: tuple[str, ...], metrics: dict[str, Any], with_heat: bool) -> None:
        self.classes, self.metrics, self.with_heat = classes, metrics, with_heat

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        grey = image.min(axis=2)
        shown = (1 - grey / 255).astype(np.float32) if heat and self.with_heat else None
        made = [
            ClassProposal(s.name, grey < 100, 1.0, shown) for s in specs if s.name in self.classes
        ]
        nothing = np.zeros((0, 0), np.float32)
        return TaskProposal(tuple(made), Evidence((), nothing, nothing[0:0, 0:0].ravel(), {}))

    def save(self, folder: Path) -> None:
        raise NotImplementedError


class Darkness:
    """A pipeline for tests; remembers what it was given."""

    def __init__(self, with_heat: bool = True, least_masks: int = 0) -> None:
        self.with_heat = with_heat
        self.least_masks = least_masks
        self.fits: list[dict[str, Any]] = []

    def fit(
        self,
        samples: Sequence[Sample],
        *,
        specs: Sequence[ClassSpec],
        profile: Profile,
        seed: int,
        device: str,
        report: Report,
        warm_start: Fitted | None = None,
    ) -> DarkFitted:
        self.fits.append({"samples": list(samples), "specs": list(specs), "seed": seed})
        signs = {point.positive for s in samples if not s.held_out for point in s.points}
        if signs != {True, False}:
            raise NotEnoughLabels(f"points of the signs {signs} alone")
        masks = sum(bool(s.masks) and not s.held_out for s in samples)
        if masks < self.least_masks:
            raise NotEnoughLabels(f"{masks} masks, {self.least_masks} needed")
        report(Progress("training", specs[0].name, 1, 2, 0.5, loss=0.7))
        figures = {"settings": {"darker_than": 100}, "masks": masks, "loss": float("nan")}
        metrics = {"classes": {specs[0].name: figures}}
        return DarkFitted((specs[0].name,), metrics, self.with_heat)

    def load(self, folder: Path, *, device: str) -> DarkFitted:
        raise NotImplementedError
