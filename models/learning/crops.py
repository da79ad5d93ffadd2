"""Square crops around weak points: which points count, and the pixels around them.

After Janouskova et al.: crops with a positive point inside, and negative crops. A negative point
says only that its patch is clean, so its crops stay centred on it; and a negative whose patch holds
a positive point or a verified defect of the class does not mark a clean patch and is left out.

Each image is decoded once for all classes: the surroundings that its points can need are kept, in
memory or, above a limit on all of them together, in temporary files that the system pages.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
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


class Wanted(NamedTuple):
    """Points to cut crops around, and how far from them: share of the crop."""

    clicks: Sequence[Click]
    reach: float


class Cut(NamedTuple):
    """Crops (B, S, S, 3) uint8 RGB and where their points lie in them: (B, 2) row, column."""

    pixels: Pixels
    points: Ints


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

    def cut(self, chosen: Ints, offsets: npt.NDArray[np.float64]) -> Cut:
        """Cut crops of the chosen points (B,), their centres moved by (B, 2) shares of the crop.

        Crops are moved into the image.
        """
        wanted = self.points[chosen] + np.rint(offsets * self.crop_px).astype(np.int64)
        corners = np.clip(wanted - self.crop_px // 2, 0, self.limits[chosen] - self.crop_px)
        size = self.crop_px
        pixels = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
        for crop, n, (row, column) in zip(pixels, chosen, corners, strict=True):
            crop[:] = self.pixels[n, row : row + size, column : column + size]
        return Cut(pixels, self.points[chosen] - corners)


def collect(
    samples: Sequence[Sample],
    class_name: str,
    crop_px: int,
    rng: np.random.Generator,
    *,
    among: Collection[int] | None = None,
) -> Clicks:
    """Gather the weak points of a class; points of weight 0 do not count, equal ones count once.

    among: the indices of the samples to look at; None = all. A positive of another class is no
    negative of this one. With fewer than FEW_NEGATIVES negatives, clean patches of samples with
    verified masks join at weight BACKGROUND_WEIGHT.
    Raises NotEnoughLabels without a positive or without a usable negative, ValueError for weights
    or coordinates that are not finite.
    """
    chosen = range(len(samples)) if among is None else sorted(among)
    clicks = [click for index in chosen for click in _clicks(samples[index], index, class_name)]
    positives, negatives = (_distinct(c for c, p in clicks if p == sign) for sign in (True, False))
    if not positives:
        raise NotEnoughLabels(f"{class_name!r} has no positive point yet; click on a defect")
    clean = _uncontradicted(samples, class_name, positives, negatives, crop_px)
    dropped = len(negatives) - len(clean)
    if len(clean) < FEW_NEGATIVES:
        clean += _verified_background(samples, chosen, class_name, positives, crop_px, rng)
    if not clean:
        raise NotEnoughLabels(_no_negative(class_name, dropped))
    return Clicks(tuple(positives), tuple(clean), dropped)


def cut_out(
    samples: Sequence[Sample],
    wanted: Sequence[Wanted],
    crop_px: int,
    memory_bytes: int = MEMORY_BYTES,
) -> list[Surroundings]:
    """Cut what the crops of all `wanted` need, one after the other, decoding each image once.

    Images smaller than the crop are continued by reflection. Together they take `memory_bytes` at
    most; what does not fit goes to files. Raises ValueError for an image that is not (H, W, 3)
    uint8.
    """
    made: list[Surroundings] = []
    for clicks, reach in wanted:
        made.append(_unfilled(clicks, crop_px, reach, memory_bytes))
        if not isinstance(made[-1].pixels, np.memmap):
            memory_bytes -= made[-1].pixels.nbytes
    places: defaultdict[int, list[tuple[Surroundings, int, Click]]] = defaultdict(list)
    for around, (clicks, _) in zip(made, wanted, strict=True):
        for n, click in enumerate(clicks):
            places[click.sample].append((around, n, click))
    for index in sorted(places):
        image = _reflected(_decoded(samples[index]), crop_px)
        for around, n, click in places[index]:
            _fill(around, n, click, image)
    return made


def surroundings(
    samples: Sequence[Sample],
    clicks: Sequence[Click],
    crop_px: int,
    reach: float,
    memory_bytes: int = MEMORY_BYTES,
) -> Surroundings:
    """Cut what crops within `reach` (share of the crop) of each click need; see `cut_out`."""
    return cut_out(samples, [Wanted(clicks, reach)], crop_px, memory_bytes)[0]


def centred(around: Surroundings, at_most: int) -> Pixels:
    """Cut the crops centred on the points, evenly chosen when there are more than `at_most`."""
    count = min(len(around), at_most)
    chosen = np.linspace(0, len(around) - 1, count).astype(np.int64)
    return around.cut(chosen, np.zeros((count, 2))).pixels


def turn(crops: Pixels, rng: np.random.Generator) -> Pixels:
    """Turn and mirror each crop (B, S, S, 3) at random: one of the eight symmetries."""
    turns, mirrored = rng.integers(4, size=len(crops)), rng.integers(2, size=len(crops))
    return turned(Cut(crops, np.zeros((len(crops), 2), np.int64)), turns, mirrored).pixels


def turned(cut: Cut, turns: Ints, mirrored: Ints) -> Cut:
    """Mirror the columns where `mirrored` (B,) is 1, then turn by quarters (B,), points too."""
    last = cut.pixels.shape[1] - 1
    pixels, points = np.empty_like(cut.pixels), cut.points.copy()
    for n, (crop, k, flip) in enumerate(zip(cut.pixels, turns, mirrored, strict=True)):
        pixels[n] = np.rot90(crop[:, :: 1 - 2 * flip], k)
        points[n, 1] += flip * (last - 2 * points[n, 1])
        for _ in range(k):
            points[n] = last - points[n, 1], points[n, 0]
    return Cut(pixels, points)


def zoomed(cut: Cut, zooms: npt.NDArray[np.float64]) -> Cut:
    """Enlarge (zoom > 1) or reduce each crop about its point, which stays where it is.

    A reduced crop is continued by reflection: nothing is known of what lies beyond its patch.
    """
    pixels = np.empty_like(cut.pixels)
    for n, (zoom, (row, column)) in enumerate(zip(zooms, cut.points, strict=True)):
        matrix = np.array([[zoom, 0, column * (1 - zoom)], [0, zoom, row * (1 - zoom)]])
        cv2.warpAffine(
            cut.pixels[n],
            matrix,
            pixels.shape[1:3],
            dst=pixels[n],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    return Cut(pixels, cut.points)


def _clicks(sample: Sample, index: int, class_name: str) -> list[tuple[Click, bool]]:
    found = []
    for point in sample.points:
        if not np.isfinite((point.x_px, point.y_px, point.weight)).all():
            raise ValueError(f"sample {sample.key}: weak point {point} is not finite")
        if point.class_name == class_name and point.weight > 0:
            click = Click(index, int(point.x_px), int(point.y_px), point.weight)
            found.append((click, point.positive))
    return found


def _distinct(clicks: Iterable[Click]) -> list[Click]:
    """Keep one click per pixel, with the largest weight."""
    kept: dict[tuple[int, int, int], Click] = {}
    for click in clicks:
        place = click[:3]
        if place not in kept or kept[place].weight < click.weight:
            kept[place] = click
    return list(kept.values())


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
    chosen: Iterable[int],
    class_name: str,
    positives: Sequence[Click],
    crop_px: int,
    rng: np.random.Generator,
) -> list[Click]:
    found: list[Click] = []
    for index in chosen:
        sample = samples[index]
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


def _unfilled(
    clicks: Sequence[Click], crop_px: int, reach: float, memory_bytes: int
) -> Surroundings:
    side = crop_px + 2 * (int(np.ceil(reach * crop_px)) + 1)
    points, limits = (np.zeros((len(clicks), 2), dtype=np.int64) for _ in range(2))
    weights = np.array([click.weight for click in clicks], dtype=np.float64)
    pixels = _room((len(clicks), side, side, 3), memory_bytes)
    return Surroundings(pixels, points, limits, weights, crop_px)


def _fill(around: Surroundings, n: int, click: Click, image: Image) -> None:
    side, size = around.pixels.shape[1], np.array(image.shape[:2])
    at = np.clip((click.y_px, click.x_px), 0, size - 1)
    corner = np.clip(at - side // 2, 0, np.maximum(size - side, 0))
    part = image[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
    around.pixels[n, : part.shape[0], : part.shape[1]] = part
    around.points[n], around.limits[n] = at - corner, part.shape[:2]


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
