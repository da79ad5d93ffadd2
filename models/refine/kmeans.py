"""Heat damped where the colour is not the defect's (after RustSEG, Burton et al. 2022).

RustSEG parts the colours of an image into two clusters by k-means and keeps the one that overlaps
more with the hot pixels. Two clusters are too few for most photographs, and a hard choice can throw
away the defect: here there are six, and each keeps the more of the heat the commoner it is in
the heat than outside. With two clusters the paper's choice remains, as a matter of degree.

Colours are counted in 32 levels per channel; the clusters and their shares come from the counts, so
the time per pixel is that of one look-up.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.base import HeatMap, Image, Mask
from models.refine import Cut, threshold
from models.refine.threshold import finish

summary = "Heat where the colour is the defect's, gaps closed, specks dropped: for rust, stains."
default_threshold = 0.1
default_min_area_px = 60
is_slow = False
is_scaled = False
least_width_px, most_width_px = 0.0, float("inf")
closing_for = threshold.closing_for

Floats = npt.NDArray[np.float64]
CLUSTERS = 6
_LEVELS = 32  # per channel
_ROUNDS = 20  # of k-means at most
_BAND_ROWS = 1024  # at a time: bounds the memory


def refine(
    image: Image,
    heat: HeatMap,
    *,
    threshold: float,
    min_area_px: int,
    closing_px: int | None = None,
    width_px: float | None = None,
) -> Mask:
    """Keep where the damped heat exceeds `threshold`, close gaps, drop small regions."""
    mask = prepare(image, heat, width_px=width_px)(threshold)
    return finish(mask, closing_for(width_px) if closing_px is None else closing_px, min_area_px)


def prepare(
    image: Image,
    heat: HeatMap,
    *,
    width_px: float | None = None,  # noqa: ARG001  # colour has no size
) -> Cut:
    """Return the cut at a threshold of the damped heat."""
    damped = damp(image, heat)
    return lambda threshold: np.asarray(damped > threshold, dtype=bool)


def damp(image: Image, heat: HeatMap, clusters: int = CLUSTERS, seed: int = 0) -> HeatMap:
    """Multiply the heat with the likeness of each pixel's cluster, in [0, 1]."""
    if not heat.any():
        return np.zeros(heat.shape, np.float32)
    pixels, hot = _counts(image, heat)
    used = np.flatnonzero(pixels)
    cluster = cluster_colours(_colours(used), pixels[used], clusters, np.random.default_rng(seed))
    likeness = np.zeros(len(pixels), np.float32)
    likeness[used] = _likeness(cluster, pixels[used], hot[used])[cluster]
    damped = np.empty(heat.shape, np.float32)
    for rows in _bands(len(heat)):
        np.multiply(heat[rows], likeness[_bins(image[rows])], out=damped[rows])
    return damped


def cluster_colours(
    colours: Floats, weights: Floats, clusters: int, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Number the cluster of each colour by k-means, started by k-means++ (Arthur 2007).

    colours: (N, 3), weights: (N,) > 0. Fewer clusters come out where there are fewer colours.
    """
    centres = _spread(colours, weights, clusters, rng)
    cluster = _nearest(colours, centres)
    for _ in range(_ROUNDS):
        mass = np.bincount(cluster, weights, len(centres))
        sums = [np.bincount(cluster, weights * c, len(centres)) for c in colours.T]
        filled = mass > 0  # the others stay where they are
        centres[filled] = (np.array(sums) / np.where(filled, mass, 1)).T[filled]
        before, cluster = cluster, _nearest(colours, centres)
        if np.array_equal(before, cluster):
            break
    return cluster


def _spread(colours: Floats, weights: Floats, clusters: int, rng: np.random.Generator) -> Floats:
    """Draw the first centres: each with a chance in proportion to its squared distance."""
    chance = weights
    centres: list[Floats] = []
    distance = np.full(len(colours), np.inf)
    while len(centres) < clusters and chance.any():
        centres.append(colours[rng.choice(len(colours), p=chance / chance.sum())])
        distance = np.minimum(distance, ((colours - centres[-1]) ** 2).sum(axis=1))
        chance = weights * distance
    return np.array(centres)


def _nearest(colours: Floats, centres: Floats) -> npt.NDArray[np.intp]:
    # |x - c|^2 without |x|^2, which is the same for all centres
    return np.asarray((np.einsum("kc,kc->k", centres, centres) - 2 * colours @ centres.T).argmin(1))


def _likeness(cluster: npt.NDArray[np.intp], pixels: Floats, hot: Floats) -> Floats:
    """Return (K,) in [0, 1]: how much commoner each is in the heat, relative to the commonest.

    The share of a cluster in the heat, of that and its share outside: 1/2 where heat says nothing.
    """
    inside = np.bincount(cluster, hot).astype(np.float64)
    outside = np.maximum(np.bincount(cluster, pixels) - inside, 0)
    inside_share = inside / inside.sum()
    outside_share = outside / max(outside.sum(), 1e-12)
    commoner = inside_share / (inside_share + outside_share)
    return np.asarray(commoner / commoner.max())


def _counts(image: Image, heat: HeatMap) -> tuple[Floats, Floats]:
    """Return how many pixels, and how much heat, each of the coarse colours has."""
    pixels, hot = np.zeros((2, _LEVELS**3))
    for rows in _bands(len(heat)):
        bins = _bins(image[rows]).ravel()
        pixels += np.bincount(bins, minlength=len(pixels))
        hot += np.bincount(bins, heat[rows].ravel(), minlength=len(pixels))
    return pixels, hot


def _bins(image: Image) -> npt.NDArray[np.int32]:
    red, green, blue = np.moveaxis(image.astype(np.int32) * _LEVELS // 256, 2, 0)
    return np.asarray((red * _LEVELS + green) * _LEVELS + blue)


def _colours(bins: npt.NDArray[np.intp]) -> Floats:
    return np.stack(np.unravel_index(bins, (_LEVELS,) * 3), axis=1).astype(np.float64)


def _bands(rows: int) -> Iterator[slice]:
    return (slice(start, start + _BAND_ROWS) for start in range(0, rows, _BAND_ROWS))
