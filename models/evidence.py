"""What strategies and the difficulty model read of a proposal: probabilities, features, shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from models import passes
from models.base import Evidence, HeatMap, Mask
from models.metrics import outline_px
from models.passes import Cells, repeated

SPOT_PX = 5  # a class is present where a spot of this size is
BAND_PX = 3  # to either side of an outline: what people may have to move


def gather(
    classes: Sequence[str],
    window_probs: Sequence[npt.NDArray[np.float32]],
    embeddings: Sequence[npt.NDArray[np.float32]],
    stats: Mapping[str, Mapping[str, float]],
    samples: Sequence[npt.NDArray[np.float32]] = (),
) -> Evidence:
    """Join what each class's network saw of one image.

    window_probs: per class (T,), the same windows for all; embeddings: per class (D,), joined
    end to end; samples: per class (S, T), fewer passes are repeated. Without classes the arrays
    are (0, 0), (0,) and (0, 0, 0); without passes of every class there are none.
    """
    probs = np.stack(window_probs, axis=1) if len(classes) else np.zeros((0, 0))
    joined = np.concatenate(embeddings) if len(classes) else np.zeros(0)
    drawn = np.zeros((0, *probs.shape))
    if len(samples) and all(map(len, samples)):
        most = max(map(len, samples))
        drawn = np.stack([repeated(own, most) for own in samples], axis=2)
    return Evidence(
        tuple(classes),
        probs.astype(np.float32),
        joined.astype(np.float32),
        dict(stats),
        drawn.astype(np.float32),
    )


def window_probs(probability: HeatMap, window_px: int) -> npt.NDArray[np.float32]:
    """(H, W) -> (T,): the largest probability of a spot in windows that overlap by half.

    The windows are those of `tiling.analyse`, row by row; SPOT_PX is the size of a spot.
    """
    smooth = cv2.blur(probability, (SPOT_PX, SPOT_PX), borderType=cv2.BORDER_REPLICATE)
    (rows, columns), (h, w) = windows(probability.shape, window_px)
    found = [smooth[y : y + h, x : x + w].max() for y in rows for x in columns]
    return np.clip(np.array(found, dtype=np.float32), 0, 1)


def window_samples(cells: Cells, shape: tuple[int, ...], window_px: int) -> npt.NDArray[np.float32]:
    """(S, h, w) -> (S, T): per pass the largest probability of a cell in each window.

    shape: (H, W) of the image.
    """
    found = passes.of_windows(cells, *windows(shape, window_px), reduce=np.max)
    return np.clip(found, 0, 1)


def windows(
    shape: tuple[int, ...], window_px: int
) -> tuple[tuple[list[int], list[int]], tuple[int, int]]:
    """Return the upper and left pixels of the windows of an image (H, W), and their size (h, w)."""
    h, w = (min(window_px, side) for side in shape)
    rows, columns = (
        np.unique([*range(0, side - size, max(size // 2, 1)), side - size]).tolist()
        for side, size in zip(shape, (h, w), strict=True)
    )
    return (rows, columns), (h, w)


def proposal_stats(mask: Mask, heat: HeatMap) -> dict[str, float]:
    """Describe one proposal: what makes it long to correct.

    area_px; outline_px: its pixels with a 4-neighbour outside (the image's edge is outside);
    components: 8-connected regions; heat_sharpness: in [0, 1], 1 - 4 mean(h (1 - h)) over the
    heat h > 0; 1 = all or nothing, 0 = all undecided or no heat at all; outline_doubt: see there.
    """
    return {
        "area_px": float(np.count_nonzero(mask)),
        "outline_px": float(outline_px(mask)),
        "components": float(_components(mask)),
        "heat_sharpness": heat_sharpness(heat),
        "outline_doubt": outline_doubt(mask, heat),
    }


def heat_sharpness(heat: HeatMap) -> float:
    """(H, W) in [0, 1] -> [0, 1], see `proposal_stats`."""
    hot = heat[heat > 0].astype(np.float64)
    return float(1 - 4 * np.mean(hot * (1 - hot))) if hot.size else 0.0


def outline_doubt(mask: Mask, heat: HeatMap) -> float:
    """Return how doubtful the pixels are about where the proposal ends, in [0, 1].

    The entropy of the pixels, sum(w H(h)) / (ln 2 sum(w)) with H(h) = -h ln h - (1 - h) ln(1 - h),
    the heat h taken as a probability. The weight w is 1 in the band of pixels that have both sides
    of the outline within BAND_PX (rows and columns), else 0; where nothing is proposed, or all, it
    is the heat itself. A mean: neither a large image nor a large defect has more of it.
    """
    square = np.ones((2 * BAND_PX + 1, 2 * BAND_PX + 1), np.uint8)
    inside, outside = (cv2.dilate(side.astype(np.uint8), square) for side in (mask, ~mask))
    band = (inside & outside).astype(bool)
    chosen = heat[band] if band.any() else heat[heat > 0]
    p = np.clip(chosen.astype(np.float64), 0, 1)
    if not p.size:
        return 0.0
    entropy = np.zeros_like(p)
    for q in (p, 1 - p):
        entropy[q > 0] -= q[q > 0] * np.log2(q[q > 0])
    return float(np.clip(np.average(entropy, weights=None if band.any() else p), 0, 1))


def _components(mask: Mask) -> int:
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]) - 1
