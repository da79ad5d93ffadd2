"""Heat map as a locator, local three-class Otsu as the outline (after Koenig et al. 2022).

Assumes THIN DARK defects: cracks, fissures, hairlines, open joints. A bright or a compact defect
(spalling, most rust) has no reason to be the darkest of three grey classes of its surroundings;
use `threshold` there.

The outline is exact: the histograms of blocks add up to those of the patches, only pairs of
occupied grey levels can be optimal, and "all patches over a pixel call it dark" is a minimum filter
over the thresholds of the patches.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from models.base import HeatMap, Image, Mask
from models.refine.threshold import close, drop_small

summary = "Where it is hot, what is locally dark: for thin dark defects such as cracks."
default_threshold = 0.15
default_min_area_px = 20

Grey = npt.NDArray[np.uint8]  # (H, W)
Counts = npt.NDArray[np.int32]
_BAND_ROWS = 16  # rows of patches at a time: bounds the memory of the histograms
_TABLE_ENTRIES = 1 << 16  # of the pair tables that are made at once: they fit the cache


def refine(
    image: Image,
    heat: HeatMap,
    *,
    threshold: float,
    min_area_px: int,
    patch_px: int = 64,
    stride_px: int = 16,
    reach_px: int = 3,
    smoothing_px: int = 5,
    closing_px: int = 3,
) -> Mask:
    """Keep the locally dark pixels near heat above `threshold`, close gaps, drop small regions.

    patch_px, stride_px: of the local thresholds; a patch must show defect and background, so it
        is some times as wide as the defect. The paper's 32 and 8 leave more gaps and take three
        times as long. patch_px is a multiple of stride_px.
    reach_px: a dark pixel belongs to heat at most this far away.
    smoothing_px: diameter of the bilateral filter before; 1 = none.
    closing_px: diameter of the closing after; 1 = none.
    """
    located = _near(heat > threshold, reach_px)
    if not located.any():
        return located
    rows, columns = _box(located, margin_px=patch_px, step_px=stride_px)
    part = np.ascontiguousarray(image[rows, columns])
    if smoothing_px > 1:
        part = cv2.bilateralFilter(part, smoothing_px, sigmaColor=120, sigmaSpace=120)
    grey = np.asarray(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    located[rows, columns] &= local_dark(grey, patch_px=patch_px, stride_px=stride_px)
    return drop_small(close(located, closing_px), min_area_px)


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


def _box(mask: Mask, *, margin_px: int, step_px: int) -> tuple[slice, slice]:
    """Bound what is True, with a margin, on the grid of blocks: patches see what they saw."""
    return (
        _span(np.flatnonzero(mask.any(axis=1)), margin_px, step_px),
        _span(np.flatnonzero(mask.any(axis=0)), margin_px, step_px),
    )


def _span(places: npt.NDArray[np.intp], margin_px: int, step_px: int) -> slice:
    start = max(0, int(places[0]) - margin_px) // step_px * step_px
    return slice(start, -(-(int(places[-1]) + 1 + margin_px) // step_px) * step_px)
