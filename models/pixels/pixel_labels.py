"""Labelled pixels: what clicks and verified masks say of single pixels, as hypercolumns.

A positive click speaks of the pixels within a little disc, a negative one of its whole patch, a
verified mask of every pixel: some are drawn of each. Which ones depends on the sample alone, so
that the pixels of a sample that has not changed since need not be computed again.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.base import Mask, Sample
from models.learning.crops import Click, Clicks
from models.metrics import grown
from models.networks.hypercolumn import Points

PER_POSITIVE, RADIUS_PX = 9, 2.0  # pixels of a positive click, drawn from a disc
PER_NEGATIVE, MARGIN = 24, 0.95  # of a negative click, drawn from this share of its patch
PER_MASK = 192  # of a verified mask, of each sign
NEAR_PX = (2, 12)  # half of a mask's negatives lie at this distance from the defect
VERIFIED_WEIGHT = 1.0

Floats = npt.NDArray[np.float32]
Generator = np.random.Generator


@dataclass(frozen=True)
class Pixels:
    """Labelled pixels of one sample: what they show, what they are and how much they count.

    columns: (P, D) float16 hypercolumns; labels: (P,) bool; weights: (P,) float32; digest names
    what they were drawn from.
    """

    columns: npt.NDArray[np.float16]
    labels: npt.NDArray[np.bool_]
    weights: Floats
    digest: str


@dataclass(frozen=True)
class Places:
    """Where the labelled pixels of one sample lie, before anything of the image is known."""

    points: Points  # (P, 2) row, column
    labels: npt.NDArray[np.bool_]
    weights: Floats

    @property
    def digest(self) -> str:
        """Name these places, labels and weights."""
        parts = (self.points, self.labels, self.weights)
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.points)


def places(
    samples: Sequence[Sample],
    class_name: str,
    clicks: Clicks,
    patch_px: int,
    *,
    among: Collection[int],
) -> Mapping[int, Places]:
    """Draw the pixels that speak of a class, by index of the sample; those without any left out.

    among: the samples whose verified masks may be learnt from; the clicks name theirs.
    """
    found: dict[int, Places] = {}
    for index, sample in enumerate(samples):
        own = [
            [click for click in kind if click.sample == index]
            for kind in (clicks.positives, clicks.negatives)
        ]
        mask = sample.masks[class_name]() if index in among and class_name in sample.masks else None
        rng = np.random.default_rng([zlib.crc32(f"{class_name}/{sample.key}".encode())])
        drawn = _drawn(own[0], own[1], mask, patch_px, rng)
        if len(drawn):
            found[index] = drawn
    return found


def _drawn(
    positives: Sequence[Click],
    negatives: Sequence[Click],
    mask: Mask | None,
    patch_px: int,
    rng: Generator,
) -> Places:
    parts = [_around(click, RADIUS_PX, PER_POSITIVE, rng, positive=True) for click in positives]
    reach = patch_px / 2 * MARGIN
    parts += [_around(click, reach, PER_NEGATIVE, rng, positive=False) for click in negatives]
    if mask is not None:
        parts += _of_mask(mask, rng)
    if not parts:
        return Places(np.zeros((0, 2), np.int64), np.zeros(0, bool), np.zeros(0, np.float32))
    return Places(
        np.concatenate([p.points for p in parts]),
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.weights for p in parts]),
    )


def _around(click: Click, reach_px: float, count: int, rng: Generator, *, positive: bool) -> Places:
    """Draw pixels from the square of a negative or the disc of a positive click."""
    offsets = rng.uniform(-reach_px, reach_px, (count, 2))
    if positive:
        length = np.maximum(np.hypot(*offsets.T), 1e-9)
        offsets *= np.minimum(1, reach_px / length)[:, None]
    points = np.rint(np.array((click.y_px, click.x_px)) + offsets).astype(np.int64)
    return _labelled(np.maximum(points, 0), positive, click.weight)


def _of_mask(mask: Mask, rng: Generator) -> list[Places]:
    """Draw pixels of a verified mask: inside, close outside, and anywhere outside."""
    if not mask.any():
        return [_labelled(_some(~mask, PER_MASK, rng), False, VERIFIED_WEIGHT)]
    inner, outer = (grown(mask, px) for px in NEAR_PX)
    return [
        _labelled(_some(mask, PER_MASK, rng), True, VERIFIED_WEIGHT),
        _labelled(_some(outer & ~inner, PER_MASK // 2, rng), False, VERIFIED_WEIGHT),
        _labelled(_some(~inner, PER_MASK // 2, rng), False, VERIFIED_WEIGHT),
    ]


def _some(where: Mask, count: int, rng: Generator) -> Points:
    places = np.flatnonzero(where)
    if len(places):
        places = places[rng.integers(len(places), size=min(count, len(places)))]
    return np.stack(np.unravel_index(places, where.shape), axis=1).astype(np.int64)


def _labelled(points: Points, label: bool, weight: float) -> Places:
    count = len(points)
    return Places(points, np.full(count, label), np.full(count, weight, np.float32))
