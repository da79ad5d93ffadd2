"""Small clicked pictures of rust and moss, and pixel heads fitted on them in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

import models.base
from models.base import ClassSpec, Fitted, Image, Mask, Profile, Sample
from models.base import WeakPoint as Point
from models.learning.training import PROFILES
from models.pipelines.pixel_head import PixelHeadFitted, PixelHeads

RUST, MOSS = ClassSpec("rust"), ClassSpec("moss")
METHOD = PixelHeads(steps=80, warm_steps=30)
COLOURS = {"rust": (150, 80, 40), "moss": (70, 120, 60)}


def profile(weights: str | None) -> Profile:
    return replace(PROFILES["cpu"], crop_px=16, tile_px=256, bf16=False, encoder_weights=weights)


def picture(seed: int) -> tuple[Image, dict[str, Mask]]:
    """Grey noise with a spot of each class."""
    rng = np.random.default_rng(seed)
    image = rng.normal(140, 15, (64, 64, 3)).astype(np.float32)
    masks = {name: np.zeros((64, 64), dtype=bool) for name in COLOURS}
    for n, (name, colour) in enumerate(COLOURS.items()):
        top, left = rng.integers(2, 40), rng.integers(0, 16) + 32 * n
        masks[name][top : top + 20, left : left + 16] = True
        image[masks[name]] += np.array(colour) - 140
    return cv2.GaussianBlur(image, (0, 0), 0.7).clip(0, 255).astype(np.uint8), masks


class Clicked:
    """Samples that count how often their images and masks are decoded."""

    def __init__(self) -> None:
        self.loads: list[str] = []

    def sample(
        self, seed: int, *, verified: bool = False, held_out: bool = False, clicks: int = 3
    ) -> Sample:
        image, masks = picture(seed)
        key, rng = f"task-{seed:03}", np.random.default_rng(seed)
        points = []
        for name, mask in masks.items():
            free = cv2.dilate(mask.astype(np.uint8), np.ones((17, 17), np.uint8)) == 0
            for places, positive in ((np.argwhere(mask), True), (np.argwhere(free), False)):
                chosen = rng.permutation(places)[:clicks]
                points += [Point(name, float(x), float(y), positive) for y, x in chosen]

        def load() -> Image:
            self.loads.append(key)
            return image

        known: dict[str, Callable[[], Mask]] = {n: lambda m=m: m for n, m in masks.items()}
        return Sample(key, load, tuple(points), known if verified else {}, held_out)


SAMPLES = [Clicked().sample(seed) for seed in range(6)]


def fit(
    weights: str | None,
    samples: list[Sample] | None = None,
    *,
    method: PixelHeads = METHOD,
    specs: tuple[ClassSpec, ...] = (RUST,),
    report: models.base.Report = lambda _: None,
    warm_start: Fitted | None = None,
) -> PixelHeadFitted:
    return method.fit(
        SAMPLES if samples is None else samples,
        specs=specs,
        profile=profile(weights),
        seed=0,
        device="cpu",
        report=report,
        warm_start=warm_start,
    )
