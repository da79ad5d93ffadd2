"""Heat map as a locator, local three-class Otsu as the outline (after Koenig et al. 2022).

Assumes THIN DARK defects: cracks, fissures, hairlines, open joints (thin bright ones:
`fusion_bright`). A compact defect (spalling, most rust) has no reason to be the darkest of three
grey classes of its surroundings; use `guided` there.

The outline is exact: the histograms of blocks add up to those of the patches, only pairs of
occupied grey levels can be optimal, and "all patches over a pixel call it dark" is a minimum filter
over the thresholds of the patches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models.base import HeatMap, Image, Mask
from models.refine import Cut
from models.refine.threshold import finish, scaled

summary = "Where it is hot, what is locally dark: for thin dark defects such as cracks."
default_threshold = 0.15
default_min_area_px = 20
is_slow = False
is_scaled = True
least_width_px, most_width_px = 0.0, 24.0
CLOSING_PX = 3

Grey = npt.NDArray[np.uint8]  # (H, W)
Counts = npt.NDArray[np.int32]
Box = tuple[slice, slice]
_TILE_PX = 640
_BAND_ROWS = 16  # rows of patches at a time: bounds the memory of the histograms
_TABLE_ENTRIES = 1 << 16  # of the pair tables that are made at once: they fit the cache


@dataclass(frozen=True)
class Scale:
    """Sizes that follow the width of the defects.

    patch_px, stride_px: of the local thresholds; a patch must show defect and background, so it
        is some times as wide as the defect. The paper's 32 and 8 leave more gaps and take three
        times as long. patch_px is a multiple of stride_px.
    reach_px: a dark pixel belongs to heat at most this far away.
    smoothing_px: diameter of the bilateral filter before; 1 = none.
    """

    patch_px: int = 64
    stride_px: int = 16
    reach_px: int = 3
    smoothing_px: int = 5


def refine(
    image: Image,
    heat: HeatMap,
    *,
    threshold: float,
    min_area_px: int,
    closing_px: int | None = None,
    width_px: float | None = None,
) -> Mask:
    """Keep the locally dark pixels near heat above `threshold`, close gaps, drop small regions."""
    mask = prepare(image, heat, width_px=width_px)(threshold)
    return finish(mask, closing_for(width_px) if closing_px is None else closing_px, min_area_px)


def prepare(
    image: Image, heat: HeatMap, *, width_px: float | None = None, scale: Scale | None = None
) -> Cut:
    """Return the cut at a threshold; what is dark is computed once for the largest of them.

    scale: the sizes; None = those that suit the width.
    """
    sizes = scale_for(width_px) if scale is None else scale
    dark = {tile: _Dark(image, sizes) for tile in _tiles(heat.shape)}

    def cut(threshold: float) -> Mask:
        located = _near(np.asarray(heat > threshold), sizes.reach_px)
        for (top, left), dark_there in dark.items():
            part = located[top : top + _TILE_PX, left : left + _TILE_PX]
            if part.any():
                box = _box(part, top, left)
                located[box] &= dark_there.within(box)
        return located

    return cut


def scale_for(width_px: float | None) -> Scale:
    """Return the sizes that suit defects of this width: patches eight times as wide, from 64 px."""
    if width_px is None:
        return Scale()
    stride_px = scaled(2 * width_px, 16, 64)
    smoothing_px = scaled(width_px, 5, 9) | 1
    return Scale(4 * stride_px, stride_px, scaled(width_px, 3, 12), smoothing_px)


def closing_for(width_px: float | None) -> int:
    """Return the width, odd, from 3 to 9; CLOSING_PX for None."""
    return CLOSING_PX if width_px is None else scaled(width_px, 3, 9) | 1


class _Dark:
    """What is locally dark in an image; remembers the last part that it computed."""

    def __init__(self, image: Image, scale: Scale) -> None:
        self._image = image
        self._scale = scale
        self._known: tuple[Box, Mask] | None = None

    def within(self, box: Box) -> Mask:
        if self._known is None or not _covers(self._known[0], box):
            self._known = box, self._compute(box)
        known, dark = self._known
        return dark[_relative(box, known)]

    def _compute(self, box: Box) -> Mask:
        """See the box with a margin, on the grid of strides: as in the whole image."""
        margin_px = self._scale.patch_px + self._scale.smoothing_px
        rows, columns = (
            _widened(side, margin_px, self._scale.stride_px, side_px)
            for side, side_px in zip(box, self._image.shape, strict=False)
        )
        part = np.ascontiguousarray(self._image[rows, columns])
        diameter_px = self._scale.smoothing_px
        if diameter_px > 1:
            part = cv2.bilateralFilter(part, diameter_px, sigmaColor=120, sigmaSpace=120)
        grey = np.asarray(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        dark = local_dark(grey, patch_px=self._scale.patch_px, stride_px=self._scale.stride_px)
        return dark[_relative(box, (rows, columns))]


def local_dark(grey: Grey, *, patch_px: int = 64, stride_px: int = 16) -> Mask:
    """Return the pixels that every patch over them puts into the darkest of three Otsu classes.

    Images that are no whole number of strides, or smaller than a patch, are continued by
    reflection. Patches with fewer than three grey levels call nothing dark.
    Raises ValueError when patch_px is no multiple of stride_px.
    """
    if stride_px < 1 or patch_px % stride_px:
        raise ValueError(f"patch_px {patch_px} is no multiple of stride_px {stride_px}")
    height_px, width_px = grey.shape
    padded = _pad(grey, patch_px, stride_px)
    span = patch_px // stride_px
    limits = _min_over_patches(_patch_limits(padded, span, stride_px), span)
    per_pixel = limits.repeat(stride_px, axis=0).repeat(stride_px, axis=1)
    return np.asarray(padded < per_pixel, dtype=bool)[:height_px, :width_px]


def otsu_limits(histograms: Counts) -> npt.NDArray[np.int32]:
    """(M, 256) grey level counts -> (M,) limits u: level < u is the darkest of three classes.

    As skimage.filters.threshold_multiotsu(patch scaled to [0, 1], classes=3, nbins=256); where
    that raises, for fewer than three levels, the limit is 0.
    """
    levels_used = np.count_nonzero(histograms, axis=1)
    limits = np.zeros(len(histograms), dtype=np.int32)
    order = np.argsort(-levels_used, kind="stable")
    order = order[levels_used[order] >= 3]
    while len(order):
        most_levels = int(levels_used[order[0]])
        size = max(1, _TABLE_ENTRIES // most_levels**2)
        group, order = order[:size], order[size:]  # of nearly equal levels: little padding
        limits[group] = _group_limits(histograms[group], most_levels)
    return limits


def _group_limits(histograms: Counts, most_levels: int) -> npt.NDArray[np.int32]:
    levels, counts = _occupied(histograms, most_levels)  # (G, N) each
    darkest, range_ = levels[:, :1], levels[:, -1:] - levels[:, :1]
    bins = np.minimum(255, 256 * (levels - darkest) // range_)
    first = _best_first_class(counts, bins)
    centre = (np.take_along_axis(bins, first[:, None], axis=1) + 0.5) / 256
    return np.asarray(np.ceil(centre * range_) + darkest, dtype=np.int32)[:, 0]


def _occupied(histograms: Counts, most_levels: int) -> tuple[Counts, Counts]:
    """Return the used levels and their counts, (G, N); the last level repeats with count 0."""
    rows, used = np.nonzero(histograms)
    position = np.arange(len(rows)) - np.searchsorted(rows, rows)
    levels = np.zeros((len(histograms), most_levels), dtype=np.int32)
    counts = np.zeros_like(levels)
    levels[rows, position] = used
    counts[rows, position] = histograms[rows, used]
    return np.maximum.accumulate(levels, axis=1), counts


def _best_first_class(counts: Counts, bins: Counts) -> npt.NDArray[np.intp]:
    """Return the last level of the darkest class: maximise the sum of S^2 / P over the classes.

    counts, bins: (G, N). P = pixels of a class, S = sum of their bins; the first maximum wins.
    """
    mass = np.cumsum(counts, axis=1, dtype=np.float32)
    moment = np.cumsum(counts * bins, axis=1, dtype=np.float32)
    left = moment**2 / mass
    mass_after = mass[:, -1:] - mass
    is_split = mass_after > 0  # something is left for the brightest class
    right = (moment[:, -1:] - moment) ** 2 / np.where(is_split, mass_after, 1)
    right[~is_split] = -np.inf
    between = moment[:, None, :] - moment[:, :, None]  # (G, N, N): ends of classes 1 and 2
    between *= between
    pixels = mass[:, None, :] - mass[:, :, None]
    np.maximum(pixels, 1, out=pixels)
    between /= pixels
    between += left[:, :, None]
    between += right[:, None, :]
    levels = counts.shape[1]
    between[:, np.tri(levels, dtype=bool)] = -np.inf  # class 2 ends after class 1
    return np.asarray(between.reshape(len(counts), -1).argmax(axis=1) // levels)


def _patch_limits(padded: Grey, span: int, stride_px: int) -> npt.NDArray[np.int32]:
    """(H, W) -> (rows, columns) of patches; `span` blocks make a side of a patch."""
    rows = padded.shape[0] // stride_px - span + 1
    bands = []
    for start in range(0, rows, _BAND_ROWS):
        stop = min(start + _BAND_ROWS, rows)
        band = padded[start * stride_px : (stop + span - 1) * stride_px]
        counts = _patch_histograms(band, span, stride_px)
        bands.append(otsu_limits(counts.reshape(-1, 256)).reshape(counts.shape[:2]))
    return np.concatenate(bands)


def _patch_histograms(grey: Grey, span: int, stride_px: int) -> Counts:
    """(H, W) -> (rows, columns, 256) counts; each pixel is counted once, in its block."""
    height, width = (side // stride_px for side in grey.shape)
    block = np.arange(height)[:, None] * width + np.arange(width)
    bins = block.repeat(stride_px, axis=0).repeat(stride_px, axis=1) * 256 + grey
    blocks = np.bincount(bins.ravel(), minlength=height * width * 256).astype(np.int32)
    blocks = blocks.reshape(height, width, 256)
    rows = np.add.reduce([blocks[n : height - span + 1 + n] for n in range(span)])
    return np.asarray(np.add.reduce([rows[:, n : width - span + 1 + n] for n in range(span)]))


def _min_over_patches(limits: npt.NDArray[np.int32], span: int) -> npt.NDArray[np.int32]:
    """(rows, columns) of patches -> of blocks: the smallest limit of the patches over a block."""
    padded = np.pad(limits, span - 1, constant_values=256)
    rows, columns = (side + span - 1 for side in limits.shape)
    smallest = np.minimum.reduce([padded[n : n + rows] for n in range(span)])
    return np.asarray(np.minimum.reduce([smallest[:, n : n + columns] for n in range(span)]))


def _pad(grey: Grey, patch_px: int, stride_px: int) -> Grey:
    wanted = (max(patch_px, -(-side // stride_px) * stride_px) for side in grey.shape)
    after = [(0, want - side) for want, side in zip(wanted, grey.shape, strict=True)]
    return np.pad(grey, after, mode="reflect")


def _near(mask: Mask, reach_px: int) -> Mask:
    diameter = 2 * reach_px + 1
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), element), dtype=bool)


def _tiles(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield the upper left corners of tiles: of a large image only those with heat are seen."""
    height_px, width_px = shape
    return itertools.product(range(0, height_px, _TILE_PX), range(0, width_px, _TILE_PX))


def _box(part: Mask, top: int, left: int) -> Box:
    """Bound what is True in the part that starts at (top, left) of the image."""
    rows, columns = (np.flatnonzero(part.any(axis=1 - axis)) for axis in (0, 1))
    return (
        slice(top + int(rows[0]), top + int(rows[-1]) + 1),
        slice(left + int(columns[0]), left + int(columns[-1]) + 1),
    )


def _widened(side: slice, margin_px: int, step_px: int, side_px: int) -> slice:
    start = max(0, side.start - margin_px) // step_px * step_px
    stop = -(-(side.stop + margin_px) // step_px) * step_px
    return slice(start, min(stop, side_px))


def _relative(inner: Box, outer: Box) -> Box:
    rows, columns = (
        slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)
    )
    return rows, columns


def _covers(outer: Box, inner: Box) -> bool:
    pairs = zip(outer, inner, strict=True)
    return all(o.start <= i.start and i.stop <= o.stop for o, i in pairs)
