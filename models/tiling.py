"""Whole images of any size by tiles: exact score maps, window decisions, climbing where it pays.

One forward pass per tile gives the score map, the decision of every window (box filter of the
scores: pooling + linear without bias is linear), and the pooled features. Features live for one
tile; of the whole image only score maps are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from models import passes
from models.allocation import freed_memory_kept
from models.base import HeatMap, Image
from models.climbing import Ascent, Core, climb_on, frozen, score_with_graph
from models.networks.unet import TruncatedUNet
from models.passes import Cells

FloatMap = npt.NDArray[np.float32]  # (H, W) if not said otherwise


@dataclass(frozen=True)
class Span:
    """Pixels [start, stop) of one axis, and [outer_start, outer_stop) with their context."""

    start: int
    stop: int
    outer_start: int
    outer_stop: int

    @property
    def core(self) -> slice:
        """The span in the image."""
        return slice(self.start, self.stop)

    @property
    def outer(self) -> slice:
        """The span with context in the image."""
        return slice(self.outer_start, self.outer_stop)

    @property
    def inner(self) -> slice:
        """The span within its own context."""
        return slice(self.start - self.outer_start, self.stop - self.outer_start)


@dataclass(frozen=True)
class Tile:
    """A rectangle of the image that is computed at once; the cores of all tiles cover it once."""

    rows: Span
    columns: Span

    @property
    def core(self) -> Core:
        """Rows and columns of the image whose results this tile gives."""
        return self.rows.core, self.columns.core

    @property
    def outer(self) -> Core:
        """Rows and columns of the image that the network sees."""
        return self.rows.outer, self.columns.outer

    @property
    def inner(self) -> Core:
        """Rows and columns of the core within the outer rectangle."""
        return self.rows.inner, self.columns.inner


@dataclass(frozen=True)
class Analysis:
    """What one image gives for one class.

    heat: (H, W) float32 in [0, 1], the (climbed) activation map divided by the image's maximum;
        zero wherever the window around the pixel is clean, so all zero for a clean image.
    window_probs: (T,) float32, probabilities of windows that overlap by half, row by row.
    score: in [0, 1], probability of the most suspicious of all window positions.
    logit: mean score over the image, the network's own output for it.
    embedding: (D,) float32, mean features over the image.
    samples: (S, T) float32, like `window_probs`, of S stochastic passes (`models.passes`).
    tiles, tiles_climbed: how many there were and how many were worth climbing.
    """

    heat: HeatMap
    window_probs: npt.NDArray[np.float32]
    score: float
    logit: float
    embedding: npt.NDArray[np.float32]
    samples: npt.NDArray[np.float32]
    tiles: int
    tiles_climbed: int


def analyse(
    network: TruncatedUNet,
    image: Image,
    *,
    tile_px: int,
    window_px: int,
    iterations: int = 1,
    halo_px: int | None = None,
    class_index: int = 0,
) -> Analysis:
    """Score, window and explain a whole image for one class, tile by tile.

    network: best an `inference_copy`, whose device and dtype are used; float32 outside it.
    image: (H, W, 3) uint8 RGB, H and W from 1.
    tile_px: largest side of a tile's core, a multiple of the network's `alignment_px`; smaller on
        small memory.
    window_px: side of the square that a window decision is about, the crop size of training;
        an image smaller than that is one window.
    iterations: as the papers count; 1 = plain CAM, 2 = one climb. Only tiles with a positive
        window are climbed; each tile is climbed by itself.
    halo_px: context around a tile, a multiple of `alignment_px`; None = what makes the result
        equal to that of the untiled image.
    Raises ValueError for wrong arguments, and when scores are not finite.
    """
    ascent = Ascent(iterations, class_index=class_index)
    (analysis,) = _analyse(network, image, (ascent,), tile_px, window_px, halo_px)
    return analysis


def analyse_classes(
    network: TruncatedUNet,
    image: Image,
    *,
    tile_px: int,
    window_px: int,
    iterations: Sequence[int],
    halo_px: int | None = None,
) -> tuple[Analysis, ...]:
    """Score, window and explain a whole image for all K classes of a network, see `analyse`.

    One forward pass per tile serves all classes; a class is climbed where it is positive itself,
    and pushes the scores of the others down.
    iterations: one for each class. Raises ValueError when there are not K of them.
    """
    classes = network.head.out_channels
    if len(iterations) != classes:
        raise ValueError(f"iterations is {tuple(iterations)}; give one for each of {classes}")
    ascents = tuple(Ascent(count, class_index=k) for k, count in enumerate(iterations))
    return _analyse(network, image, ascents, tile_px, window_px, halo_px)


def _analyse(
    network: TruncatedUNet,
    image: Image,
    ascents: tuple[Ascent, ...],
    tile_px: int,
    window_px: int,
    halo_px: int | None,
) -> tuple[Analysis, ...]:
    _check_arguments(image, tile_px, window_px, halo_px, network.alignment_px)
    height_px, width_px, _ = image.shape
    halo_px = network.halo_px if halo_px is None else halo_px
    grid = tiles(
        height_px, width_px, tile_px=tile_px, halo_px=halo_px, alignment_px=network.alignment_px
    )
    window = min(window_px, height_px), min(window_px, width_px)
    job = _Job(network, image, window, ascents)
    with frozen(network), freed_memory_kept():
        maps = _Maps.empty(len(ascents), height_px, width_px, network.head.in_channels)
        climbed = [_scan(job, tile, maps) for tile in grid]
        decisions = [_decide(scores, window) for scores in maps.scores]
        for index, tile in enumerate(grid):  # windows that cross tiles
            climbed[index] |= _climb_late(job, tile, maps, decisions, done=climbed[index])
    embedding = (maps.pooled / (height_px * width_px)).astype(np.float32)
    return tuple(
        Analysis(
            heat=_normalised(maps.sums[n] if n in job.climbing else maps.scores[n], decision.gate),
            window_probs=decision.window_probs,
            score=decision.score,
            logit=float(maps.scores[n].mean(dtype=np.float64)),
            embedding=embedding,
            samples=_samples(maps.passes[n], (height_px, width_px), window),
            tiles=len(grid),
            tiles_climbed=sum(n in tile for tile in climbed),
        )
        for n, decision in enumerate(decisions)
    )


def tiles(
    height_px: int, width_px: int, *, tile_px: int, halo_px: int, alignment_px: int = 4
) -> list[Tile]:
    """Cover an image by tiles of about equal size, cores at most tile_px, row by row."""
    rows, columns = (spans(side, tile_px, halo_px, alignment_px) for side in (height_px, width_px))
    return [Tile(row, column) for row in rows for column in columns]


def spans(length_px: int, tile_px: int, halo_px: int, alignment_px: int = 4) -> list[Span]:
    """Cut one axis into spans that start at aligned pixels; the halo ends where the image does.

    Zero padding inside the network then meets the same pixels as in the untiled image.
    """
    count = -(-length_px // tile_px)
    size = -(-length_px // (count * alignment_px)) * alignment_px
    return [
        Span(
            start,
            min(start + size, length_px),
            max(start - halo_px, 0),
            min(start + size + halo_px, length_px),
        )
        for start in range(0, length_px, size)
    ]


def window_means(scores: FloatMap, window: tuple[int, int]) -> FloatMap:
    """Mean score, that is the logit, of every window that lies inside the map.

    scores: (H, W); window: (h, w) pixels, at most (H, W) -> (H - h + 1, W - w + 1) float32.
    """
    (height, width), (h, w) = scores.shape, window
    centred = cv2.boxFilter(scores, cv2.CV_32F, (w, h), borderType=cv2.BORDER_REPLICATE)
    top, left = h // 2, w // 2
    means: FloatMap = centred[top : top + height - h + 1, left : left + width - w + 1]
    return means


def gated(means: FloatMap, window: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(H, W): is the window centred on the pixel, moved inside the image, positive?"""
    before = [side // 2 for side in window]
    after = [side - 1 - side // 2 for side in window]
    return np.pad(means > 0, tuple(zip(before, after, strict=True)), mode="edge")


def half_overlapping(means: FloatMap, window: tuple[int, int]) -> FloatMap:
    """(T,): the windows half a window apart and those flush with the end, row by row."""
    return means[np.ix_(*_starts(means.shape, window))].ravel()


def _starts(counts: tuple[int, ...], window: tuple[int, int]) -> tuple[list[int], list[int]]:
    rows, columns = (
        np.unique([*range(0, count, max(side // 2, 1)), count - 1]).tolist()
        for count, side in zip(counts, window, strict=True)
    )
    return rows, columns


def _samples(scores: Cells, shape: tuple[int, int], window: tuple[int, int]) -> FloatMap:
    """(S, h, w) scores in cells -> (S, T), probabilities of the windows of `half_overlapping`."""
    starts = _starts((shape[0] - window[0] + 1, shape[1] - window[1] + 1), window)
    return _sigmoid(passes.of_windows(scores, starts, window, reduce=np.mean))


@dataclass(frozen=True)
class _Job:
    network: TruncatedUNet
    image: Image
    window: tuple[int, int]  # (h, w), inside the image
    ascents: tuple[Ascent, ...]  # N, of as many classes

    @property
    def climbing(self) -> list[int]:
        """The ascents that climb at all."""
        return [n for n, ascent in enumerate(self.ascents) if ascent.iterations > 1]


@dataclass
class _Maps:
    """What is kept of the whole image while its tiles pass by."""

    scores: FloatMap  # (N, H, W)
    sums: FloatMap  # (N, H, W), climbed activation maps, zero where nothing was climbed
    pooled: npt.NDArray[np.float64]  # (D,), sum of features
    passes: tuple[Cells, ...]  # N, scores

    @classmethod
    def empty(cls, count: int, height_px: int, width_px: int, channels: int) -> _Maps:
        scores, sums = (np.zeros((count, height_px, width_px), np.float32) for _ in range(2))
        drawn = tuple(passes.empty(height_px, width_px) for _ in range(count))
        return cls(scores, sums, np.zeros(channels), drawn)


@dataclass(frozen=True)
class _Decision:
    """What the windows of one class say."""

    gate: npt.NDArray[np.bool_]  # (H, W)
    window_probs: npt.NDArray[np.float32]  # (T,)
    score: float


def _decide(scores: FloatMap, window: tuple[int, int]) -> _Decision:
    means = window_means(scores, window)
    probs = _sigmoid(half_overlapping(means, window))
    return _Decision(gated(means, window), probs, float(_sigmoid(means.max())))


def _scan(job: _Job, tile: Tile, maps: _Maps) -> set[int]:
    """Run one tile and keep its results; climb at once where a window inside it is positive.

    Returns the ascents that were climbed.
    """
    x = _tensor(job, tile).requires_grad_(bool(job.climbing))
    with torch.set_grad_enabled(bool(job.climbing)):
        features = job.network.features(x)  # (1, D, h, w)
        scores: Tensor = job.network.head(features)  # (1, K, h, w)
    rows, columns = tile.inner
    own = features.detach()[..., rows, columns]
    maps.pooled += _channel_sums(own[0])
    several = functional.conv2d(own, passes.perturbed(job.network.head.weight.detach()))[0]
    for n, ascent in enumerate(job.ascents):
        first = ascent.class_index * passes.PASSES
        drawn = passes.in_cells(several[first : first + passes.PASSES])
        maps.passes[n][passes.core(*tile.core)] = drawn
    del features, own, several
    for n, ascent in enumerate(job.ascents):
        maps.scores[n][tile.core] = _to_numpy(scores[0, ascent.class_index, rows, columns], tile)
    wanted = [
        n for n in job.climbing if _has_positive_window(maps.scores[n][tile.core], job.window)
    ]
    if wanted:
        _climb(job, tile, maps, wanted, x, scores)
    return set(wanted)


def _climb_late(
    job: _Job, tile: Tile, maps: _Maps, decisions: Sequence[_Decision], *, done: set[int]
) -> set[int]:
    """Climb the ascents whose gate is open in the tile, but for those that are done."""
    wanted = [n for n in job.climbing if n not in done and decisions[n].gate[tile.core].any()]
    if wanted:
        x, scores = score_with_graph(job.network, _tensor(job, tile), wanted=True)
        _climb(job, tile, maps, wanted, x, scores)
    return set(wanted)


def _climb(
    job: _Job, tile: Tile, maps: _Maps, wanted: Sequence[int], x: Tensor, scores: Tensor
) -> None:
    ascents = [job.ascents[n] for n in wanted]
    found = climb_on(job.network, x, scores, ascents, core=tile.inner)
    for n, sums in zip(wanted, found, strict=True):
        maps.sums[n][tile.core] = _to_numpy(sums[0], tile)


def _has_positive_window(scores: FloatMap, window: tuple[int, int]) -> bool:
    fits = scores.shape[0] >= window[0] and scores.shape[1] >= window[1]
    return fits and bool((window_means(scores, window) > 0).any())


def _tensor(job: _Job, tile: Tile) -> Tensor:
    """Cut a tile: (1, 3, h, w) float32 in [0, 1], channels last, on the network's device."""
    pixels = torch.tensor(job.image[tile.outer], device=job.network.pixel_mean.device)
    return pixels.permute(2, 0, 1).unsqueeze(0).float() / 255


def _channel_sums(features: Tensor) -> npt.NDArray[np.float64]:
    """(D, h, w) -> (D,); by products, ten times as fast as `sum` where channels come last."""
    pixels = features.permute(1, 2, 0)  # (h, w, D)
    rows = pixels.new_ones(1, pixels.shape[1]) @ pixels  # (h, 1, D)
    sums: npt.NDArray[np.float64] = rows.sum(dim=(0, 1), dtype=torch.float32).cpu().numpy()
    return sums


def _to_numpy(scores: Tensor, tile: Tile) -> FloatMap:
    values: FloatMap = scores.detach().float().cpu().numpy()
    broken = values.size - int(np.isfinite(values).sum())
    if broken:
        raise ValueError(
            f"{broken} of {values.size} scores are not finite in rows {tile.rows.core}, columns "
            f"{tile.columns.core}; the training of this version diverged: activate an older one"
        )
    return values


def _normalised(sums: FloatMap, gate: npt.NDArray[np.bool_]) -> HeatMap:
    """Keep what is positive inside the gate and divide by the image's maximum."""
    heat: HeatMap = np.maximum(sums, 0)
    heat *= gate
    peak = heat.max()
    if peak > 0:
        heat /= peak
    return heat


def _sigmoid(logits: npt.ArrayLike) -> npt.NDArray[np.float32]:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(logits))), dtype=np.float32)


def _check_arguments(
    image: Image, tile_px: int, window_px: int, halo_px: int | None, alignment_px: int
) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image is {image.dtype} {image.shape}; give uint8 (H, W, 3) RGB")
    for name, value in (("tile_px", tile_px), ("halo_px", halo_px or 0)):
        if value < 0 or value % alignment_px:
            raise ValueError(f"{name} is {value}; give a multiple of {alignment_px}")
    if tile_px < 1 or window_px < 1:
        raise ValueError(f"tile_px is {tile_px}, window_px is {window_px}; both must be positive")
