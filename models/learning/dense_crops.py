"""Crops of images with per-pixel targets: kept within a memory bound, half around the class.

Samples are loaded once, one at a time: small images stay whole, of larger ones windows around
drawn places are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.base import Image, Mask
from models.learning import crops

FloatMap = npt.NDArray[np.float32]  # (H, W)
Ints = npt.NDArray[np.int64]

BYTES_PER_PX = 11  # three of the image, four each of target and weight
WINDOW_CROPS = 3  # side of a window of a large image, in crops
PLACES = 512  # drawn of each kind and piece, to cut crops around
POSITIVE_SHARE = 0.5  # of the crops of a batch


@dataclass(frozen=True)
class DenseSample:
    """An image, how much of the class each pixel is, and how much each pixel counts.

    image: (H, W, 3) uint8 RGB; target: (H, W) float32 in [0, 1]; weight: (H, W) float32 >= 0,
    0 = nobody knows: no gradient comes from there.
    """

    image: Image
    target: FloatMap
    weight: FloatMap


Load = Callable[[], DenseSample]


class Batch(NamedTuple):
    """pixels: (B, S, S, 3) uint8 RGB; targets, weights: (B, S, S) float32."""

    pixels: crops.Pixels
    targets: FloatMap
    weights: FloatMap


@dataclass(frozen=True)
class Piece:
    """A sample or a window of one, with places (N, 2) row, column to cut crops around.

    positives: of the class; counting: any of positive weight; at most PLACES each. share: how often
    it is drawn, beside the other pieces.
    """

    sample: DenseSample
    positives: Ints
    counting: Ints
    share: float

    @classmethod
    def of(cls, sample: DenseSample, rng: np.random.Generator) -> Piece:
        """Draw the places; the share is the largest weight."""
        positives, counting = (_places(m, rng) for m in (is_positive(sample), sample.weight > 0))
        return cls(sample, positives, counting, float(sample.weight.max()))


@dataclass(frozen=True)
class CropSource:
    """An endless supply of crops; all pieces are at least a crop large."""

    pieces: tuple[Piece, ...]
    crop_px: int

    @classmethod
    def load(
        cls, loaders: Sequence[Load], crop_px: int, memory_bytes: int, rng: np.random.Generator
    ) -> CropSource:
        """Load each sample once and keep its share of the memory.

        Raises ValueError for samples that do not fit, and when no pixel of any sample counts.
        """
        share_px = memory_bytes // (BYTES_PER_PX * max(1, len(loaders)))
        pieces: list[Piece] = []
        for load in loaders:
            sample = _padded(checked(load()), crop_px)
            pieces += (Piece.of(w, rng) for w in _windows(sample, crop_px, share_px, rng))
        usable = tuple(piece for piece in pieces if len(piece.counting))
        if not usable:
            raise ValueError(f"no pixel of {len(loaders)} samples has a weight above 0")
        return cls(usable, crop_px)

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield batches for ever; all randomness comes from `rng`.

        Each crop takes a piece in proportion to its share, and a place there: of the class
        for POSITIVE_SHARE of the crops, any that counts for the others.
        """
        showing = [piece for piece in self.pieces if len(piece.positives)]
        of_class = round(size * POSITIVE_SHARE) if showing else 0
        while True:
            cuts = [self._around(p, p.positives, rng) for p in _drawn(showing, of_class, rng)]
            others = _drawn(self.pieces, size - of_class, rng)
            cuts += [self._around(p, p.counting, rng) for p in others]
            yield _turned(cuts, rng)

    def _around(self, piece: Piece, places: Ints, rng: np.random.Generator) -> DenseSample:
        """Cut a crop with one of the places anywhere in it."""
        corner = places[rng.integers(len(places))] - rng.integers(self.crop_px, size=2)
        return cut(piece.sample, corner, self.crop_px)


def cut(sample: DenseSample, corner: Ints, side_px: int) -> DenseSample:
    """Copy a square moved into the image, or less where that is smaller; corner: row, column."""
    last = np.maximum(np.array(sample.target.shape) - side_px, 0)
    part = tuple(slice(int(n), int(n) + side_px) for n in np.clip(corner, 0, last))
    return DenseSample(
        sample.image[part].copy(), sample.target[part].copy(), sample.weight[part].copy()
    )


def is_positive(sample: DenseSample) -> Mask:
    """(H, W): pixels that count and are of the class."""
    return np.asarray((sample.target >= 0.5) & (sample.weight > 0), dtype=bool)


def checked(sample: DenseSample) -> DenseSample:
    """Return the sample; raises ValueError when its arrays do not fit or hold other values."""
    check_image(sample.image)
    shape = sample.image.shape[:2]
    for name, values, most in (("target", sample.target, 1.0), ("weight", sample.weight, math.inf)):
        if values.shape != shape or values.dtype != np.float32:
            raise ValueError(f"{name} is {values.dtype} {values.shape}; give float32 {shape}")
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= most and math.isfinite(high)):
            raise ValueError(f"{name} goes from {low} to {high}; give finite values 0 to {most}")
    return sample


def check_image(image: Image) -> None:
    """Raise ValueError for what is not (H, W, 3) uint8."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image is {image.dtype} {image.shape}; give uint8 (H, W, 3) RGB")


def _drawn(pieces: Sequence[Piece], count: int, rng: np.random.Generator) -> list[Piece]:
    shares = np.cumsum([piece.share for piece in pieces])
    return [pieces[np.searchsorted(shares, rng.uniform(0, shares[-1]))] for _ in range(count)]


def _windows(
    sample: DenseSample, crop_px: int, share_px: int, rng: np.random.Generator
) -> Iterator[DenseSample]:
    """Yield the sample, or as many windows as have room in `share_px`, one at the least.

    Every second window lies around a positive pixel, where there is one.
    """
    if sample.target.size <= share_px:
        yield sample
        return
    side, piece = WINDOW_CROPS * crop_px, Piece.of(sample, rng)
    for n in range(max(1, share_px // side**2)):
        places = piece.counting if n % 2 or not len(piece.positives) else piece.positives
        if len(places):
            yield cut(sample, places[rng.integers(len(places))] - side // 2, side)


def _places(wanted: npt.NDArray[np.bool_], rng: np.random.Generator) -> Ints:
    found = np.flatnonzero(wanted)
    drawn = found[rng.integers(len(found), size=min(len(found), PLACES))] if len(found) else found
    return np.stack(np.unravel_index(drawn, wanted.shape), axis=1)


def _padded(sample: DenseSample, at_least_px: int) -> DenseSample:
    """Continue a small image by reflection; those pixels do not count."""
    missing = [(0, max(0, at_least_px - side)) for side in sample.target.shape]
    return DenseSample(
        np.pad(sample.image, (*missing, (0, 0)), mode="symmetric"),
        np.pad(sample.target, missing),
        np.pad(sample.weight, missing),
    )


def _turned(cuts: Sequence[DenseSample], rng: np.random.Generator) -> Batch:
    """Turn and mirror image and maps of each crop alike: the maps' bytes as channels beside RGB."""
    parts = [np.dstack((c.image, _as_bytes(c.target), _as_bytes(c.weight))) for c in cuts]
    turned = crops.turn(np.stack(parts), rng)  # (B, S, S, 11)
    image, target, weight = (
        np.ascontiguousarray(part) for part in np.split(turned, (3, 7), axis=3)
    )
    return Batch(image, target.view(np.float32)[..., 0], weight.view(np.float32)[..., 0])


def _as_bytes(values: FloatMap) -> crops.Pixels:
    """(H, W) float32 -> (H, W, 4) uint8."""
    return values[..., None].view(np.uint8)
