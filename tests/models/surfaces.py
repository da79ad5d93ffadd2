"""Small clicked pictures of cracked surfaces, and the advcam pipeline fitted on them in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

import models.base
from models.base import ClassSpec, Image, Mask, Sample, TaskProposal, WeakPoint
from models.learning.training import PROFILES
from models.pipelines.advcam import AdvCam, AdvCamFitted

PROFILE = replace(
    PROFILES["cpu"],
    decoder_widths=(8, 8),
    crop_px=24,
    batch=8,
    max_steps=60,
    warm_steps=20,
    learning_rate=4e-3,
    dense_crop_px=24,
    dense_steps=60,
    dense_warm_steps=20,
    tile_px=64,
    bf16=False,
)
CRACK = ClassSpec("crack")
SIZE = 72


def surface(seed: int, cracked: bool = True) -> tuple[Image, Mask]:
    """Grey noise with a dark crooked line, or without."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(150, 12, (SIZE, SIZE, 1)).repeat(3, axis=2).astype(np.float32)
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 0.8), 0, 255).astype(np.uint8)
    line = np.zeros((SIZE, SIZE), np.uint8)
    if cracked:
        xs = np.linspace(4, SIZE - 5, 5)
        ys = np.cumsum(rng.normal(0, 6, 5)) + rng.uniform(20, 52)
        corners = np.stack((xs, ys), axis=1).round().astype(np.int32)
        cv2.polylines(line, [corners.reshape(-1, 1, 2)], isClosed=False, color=1, thickness=2)
    image[line > 0] = 50
    return image, line > 0


def clicked(seed: int, *, cracked: bool = True, verified: bool = False) -> Sample:
    image, truth = surface(seed, cracked)
    rng = np.random.default_rng(seed)
    around = cv2.dilate(truth.astype(np.uint8), np.ones((27, 27), np.uint8))
    points = [
        WeakPoint("crack", float(x), float(y), positive)
        for places, positive in ((np.argwhere(truth), True), (np.argwhere(around == 0), False))
        for y, x in rng.permutation(places)[:4]
    ]
    masks: dict[str, Callable[[], Mask]] = {"crack": lambda: truth} if verified else {}
    return Sample(f"task-{seed}", lambda: image, tuple(points), masks)


SAMPLES = [clicked(seed) for seed in range(10)]


def fit(
    samples: list[Sample] = SAMPLES,
    *,
    specs: tuple[ClassSpec, ...] = (CRACK,),
    profile: models.base.Profile = PROFILE,
    report: models.base.Report = lambda _: None,
    warm_start: models.base.Fitted | None = None,
) -> AdvCamFitted:
    return AdvCam().fit(
        samples,
        specs=specs,
        profile=profile,
        seed=0,
        device="cpu",
        report=report,
        warm_start=warm_start,
    )


def same(a: TaskProposal, b: TaskProposal) -> bool:
    pairs = zip(a.proposals, b.proposals, strict=True)
    return (
        all(np.array_equal(p.mask, q.mask) and p.score == q.score for p, q in pairs)
        and np.array_equal(a.evidence.tile_probs, b.evidence.tile_probs)
        and np.array_equal(a.evidence.embedding, b.evidence.embedding)
        and a.evidence.stats == b.evidence.stats
    )
