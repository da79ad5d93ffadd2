"""Square crops around weak points: what a patch classifier is trained on.

After Janouskova et al.: some crops per positive point with the point inside, as many negative
crops, drawn again in each epoch. A negative point says only that its patch is clean, so its crops
stay centred on it; and a negative whose patch holds a positive point or a verified defect of the
class does not mark a clean patch and is left out.

Each image is decoded once: the surroundings that its points can need are kept, in memory or, above
a limit, in a temporary file that the system pages.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from models.base import Image, Mask, NotEnoughLabels, Sample

CLICK_REACH = 0.35  # of the crop: how far a positive point may lie from the centre
JITTER = 0.06  # of the crop: how far a negative one may
FEW_NEGATIVES = 8  # below this, verified background helps out
BACKGROUND_PER_SAMPLE = 5
BACKGROUND_WEIGHT = 0.25
MEMORY_BYTES = 1 << 30

Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


class Click(NamedTuple):
    """A weak point inside an image, in whole pixels; `sample` is an index."""

    sample: int
    x_px: int
    y_px: int
    weight: float


@dataclass(frozen=True)
class Clicks:
    """The usable weak points of one class; `contradicted` counts negatives that were left out."""

    positives: tuple[Click, ...]
    negatives: tuple[Click, ...]
    contradicted: int = 0


class Batch(NamedTuple):
    """Crops (B, S, S, 3) uint8 RGB, labels (B,) 0 or 1, weights (B,) > 0."""

    pixels: Pixels
    labels: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Surroundings:
    """The pixels around N points, enough for every crop of them.

    pixels: (N, S, S, 3) uint8; the image ends at `limits` (N, 2) rows, columns where it is
        smaller than S; points: (N, 2) row, column of the point within; weights: (N,).
    """

    pixels: Pixels
    points: Ints
    limits: Ints
    weights: npt.NDArray[np.float64]
    crop_px: int

    def __len__(self) -> int:
        return len(self.points)

    def crops(self, chosen: Ints, offsets: npt.NDArray[np.float64]) -> Pixels:
        """Cut crops of the chosen points; (B,), (B, 2) share of the crop -> (B, crop, crop, 3).

        offsets move the crop's centre away from the point; crops are moved into the image.
        """
        wanted = self.points[chosen] + np.rint(offsets * self.crop_px).astype(np.int64)
        corners = np.clip(wanted - self.crop_px // 2, 0, self.limits[chosen] - self.crop_px)
        size = self.crop_px
        return np.stack(
            [
                self.pixels[n, row : row + size, column : column + size]
                for n, (row, column) in zip(chosen, corners, strict=True)
            ]
        )


@dataclass(frozen=True)
class CropSource:
    """An endless supply of balanced batches for one class."""

    positives: Surroundings
    negatives: Surroundings
    crops_per_click: int

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield batches for ever, one half positive; all randomness comes from `rng`."""
        positives = self._stream(self._positive_epoch, rng)
        negatives = self._stream(self._negative_epoch, rng)
        count = size - size // 2
        labels = np.repeat(np.array([1, 0], np.float32), (count, size // 2))
        while True:
            there, clean = _take(positives, count), _take(negatives, size // 2)
            pixels = (
                self.positives.crops(there, rng.uniform(-CLICK_REACH, CLICK_REACH, (count, 2))),
                self.negatives.crops(clean, rng.uniform(-JITTER, JITTER, (len(clean), 2))),
            )
            weights = np.concatenate((self.positives.weights[there], np.ones(len(clean))))
            turned = turn(np.concatenate(pixels), rng)
            yield Batch(turned, labels, weights.astype(np.float32))

    def _stream(
        self, epoch: Callable[[np.random.Generator], Ints], rng: np.random.Generator
    ) -> Iterator[int]:
        while True:
            yield from epoch(rng).tolist()

    def _positive_epoch(self, rng: np.random.Generator) -> Ints:
        return rng.permutation(np.repeat(np.arange(len(self.positives)), self.crops_per_click))

    def _negative_epoch(self, rng: np.random.Generator) -> Ints:
        """Draw as many as there are positives, in proportion to weight."""
        share = self.negatives.weights / self.negatives.weights.sum()
        count = len(self.positives) * self.crops_per_click
        return rng.choice(len(self.negatives), size=count, p=share)


def collect(
    samples: Sequence[Sample], class_name: str, crop_px: int, rng: np.random.Generator
) -> Clicks:
    """Gather the weak points of a class; points of weight 0 do not count.

    A positive of another class is no negative of this one. With fewer than FEW_NEGATIVES
    negatives, clean patches of samples with verified masks join at weight BACKGROUND_WEIGHT.
    Raises NotEnoughLabels without a positive or without a usable negative, ValueError for weights
    or coordinates that are not finite.
    """
    positives: list[Click] = []
    negatives: list[Click] = []
    for index, sample in enumerate(samples):
        for point in sample.points:
            values = (point.x_px, point.y_px, point.weight)
            if not np.isfinite(values).all():
                raise ValueError(f"sample {sample.key}: weak point {point} is not finite")
            if point.class_name == class_name and point.weight > 0:
                click = Click(index, int(point.x_px), int(point.y_px), point.weight)
                (positives if point.positive else negatives).append(click)
    if not positives:
        raise NotEnoughLabels(f"{class_name!r} has no positive point yet; click on a defect")
    clean = _uncontradicted(samples, class_name, positives, negatives, crop_px)
    dropped = len(negatives) - len(clean)
    if len(clean) < FEW_NEGATIVES:
        clean += _verified_background(samples, class_name, positives, crop_px, rng)
    if not clean:
        raise NotEnoughLabels(_no_negative(class_name, dropped))
    return Clicks(tuple(positives), tuple(clean), dropped)


def surroundings(
    samples: Sequence[Sample],
    clicks: Sequence[Click],
    crop_px: int,
    reach: float,
    memory_bytes: int = MEMORY_BYTES,
) -> Surroundings:
    """Cut what crops within `reach` (share of the crop) of each click need; one decoding a sample.

    Images smaller than the crop are continued by reflection. Raises ValueError for an image that
    is not (H, W, 3) uint8.
    """
    side = crop_px + 2 * (int(np.ceil(reach * crop_px)) + 1)
    pixels = _room((len(clicks), side, side, 3), memory_bytes)
    points, limits = (np.zeros((len(clicks), 2), dtype=np.int64) for _ in range(2))
    for index in sorted({click.sample for click in clicks}):
        image = _reflected(_decoded(samples[index]), crop_px)
        size = np.array(image.shape[:2])
        for n in (n for n, click in enumerate(clicks) if click.sample == index):
            at = np.clip((clicks[n].y_px, clicks[n].x_px), 0, size - 1)
            corner = np.clip(at - side // 2, 0, np.maximum(size - side, 0))
            part = image[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
            pixels[n, : part.shape[0], : part.shape[1]] = part
            points[n], limits[n] = at - corner, part.shape[:2]
    weights = np.array([click.weight for click in clicks], dtype=np.float64)
    return Surroundings(pixels, points, limits, weights, crop_px)


def centred(around: Surroundings, at_most: int) -> Pixels:
    """Cut the crops centred on the points, evenly chosen when there are more than `at_most`."""
    count = min(len(around), at_most)
    chosen = np.linspace(0, len(around) - 1, count).astype(np.int64)
    return around.crops(chosen, np.zeros((count, 2)))


def turn(crops: Pixels, rng: np.random.Generator) -> Pixels:
    """Turn and mirror each crop (B, S, S, 3) at random: one of the eight symmetries."""
    turns, mirrored = rng.integers(4, size=len(crops)), rng.integers(2, size=len(crops))
    return np.stack(
        [
            np.rot90(crop[:, :: 1 - 2 * flip], k)
            for crop, k, flip in zip(crops, turns, mirrored, strict=True)
        ]
    )


def _uncontradicted(
    samples: Sequence[Sample],
    class_name: str,
    positives: Sequence[Click],
    negatives: Sequence[Click],
    crop_px: int,
) -> list[Click]:
    kept: list[Click] = []
    for index in sorted({click.sample for click in negatives}):
        near = _Neighbourhood.of(samples[index], index, class_name, positives, crop_px)
        own = [click for click in negatives if click.sample == index]
        kept += [click for click in own if near.is_clean(click.x_px, click.y_px)]
    return kept


@dataclass(frozen=True)
class _Neighbourhood:
    """What speaks against "this patch is clean" on one sample."""

    points: Ints  # (P, 2) x, y of the positives
    mask: Mask | None
    half_px: int

    @classmethod
    def of(
        cls, sample: Sample, index: int, class_name: str, positives: Sequence[Click], crop_px: int
    ) -> _Neighbourhood:
        points = [(click.x_px, click.y_px) for click in positives if click.sample == index]
        mask = sample.masks[class_name]() if class_name in sample.masks else None
        return cls(np.array(points, dtype=np.int64).reshape(-1, 2), mask, crop_px // 2)

    def is_clean(self, x_px: int, y_px: int) -> bool:
        distance = np.abs(self.points - (x_px, y_px)).max(axis=1, initial=0)
        if np.any(distance <= self.half_px) and len(self.points):
            return False
        if self.mask is None:
            return True
        rows, columns = (slice(max(at - self.half_px, 0), at + self.half_px) for at in (y_px, x_px))
        return not bool(self.mask[rows, columns].any())


def _verified_background(
    samples: Sequence[Sample],
    class_name: str,
    positives: Sequence[Click],
    crop_px: int,
    rng: np.random.Generator,
) -> list[Click]:
    found: list[Click] = []
    for index, sample in enumerate(samples):
        if class_name not in sample.masks:
            continue
        near = _Neighbourhood.of(sample, index, class_name, positives, crop_px)
        ys, xs = np.nonzero(_clean_centres(sample.masks[class_name](), crop_px))
        drawn = rng.permutation(len(ys))[: 4 * BACKGROUND_PER_SAMPLE]
        clicks = (Click(index, int(xs[n]), int(ys[n]), BACKGROUND_WEIGHT) for n in drawn)
        clean = [click for click in clicks if near.is_clean(click.x_px, click.y_px)]
        found += clean[:BACKGROUND_PER_SAMPLE]
    return found


def _clean_centres(mask: Mask, crop_px: int) -> Mask:
    """Return the pixels whose crop, jitter included, holds nothing of the mask."""
    side = 2 * (crop_px // 2 + int(np.ceil(JITTER * crop_px))) + 1
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8))
    return np.asarray(grown == 0, dtype=bool)


def _no_negative(class_name: str, dropped: int) -> str:
    why = f" ({dropped} lie within a patch that holds a defect)" if dropped else ""
    return f"{class_name!r} has no usable negative point{why}; click where nothing is"


def _take(stream: Iterator[int], count: int) -> Ints:
    return np.fromiter((next(stream) for _ in range(count)), dtype=np.int64, count=count)


def _decoded(sample: Sample) -> Image:
    image = sample.load()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"sample {sample.key}: image is {image.dtype} {image.shape}; give uint8 (H, W, 3) RGB"
        )
    return image


def _reflected(image: Image, at_least_px: int) -> Image:
    missing = [(0, max(0, at_least_px - side)) for side in image.shape[:2]]
    return np.pad(image, (*missing, (0, 0)), mode="reflect") if np.any(missing) else image


def _room(shape: tuple[int, ...], memory_bytes: int) -> Pixels:
    """Zeros in memory, or in a file without a name that goes with the array."""
    if int(np.prod(shape)) <= memory_bytes:
        return np.zeros(shape, dtype=np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
