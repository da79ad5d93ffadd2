"""What strategies and the difficulty model read of a proposal: probabilities, features, shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from models.base import Evidence, HeatMap, Mask
from models.metrics import outline_px

SPOT_PX = 5  # a class is present where a spot of this size is


def gather(
    classes: Sequence[str],
    window_probs: Sequence[npt.NDArray[np.float32]],
    embeddings: Sequence[npt.NDArray[np.float32]],
    stats: Mapping[str, Mapping[str, float]],
) -> Evidence:
    """Join what each class's network saw of one image.

    window_probs: per class (T,), the same windows for all; embeddings: per class (D,), joined
    end to end. Without classes the arrays are (0, 0) and (0,).
    """
    probs = np.stack(window_probs, axis=1) if len(classes) else np.zeros((0, 0))
    joined = np.concatenate(embeddings) if len(classes) else np.zeros(0)
    return Evidence(
        tuple(classes), probs.astype(np.float32), joined.astype(np.float32), dict(stats)
    )


def window_probs(probability: HeatMap, window_px: int) -> npt.NDArray[np.float32]:
    """(H, W) -> (T,): the largest probability of a spot in windows that overlap by half.

    The windows are those of `tiling.analyse`, row by row; SPOT_PX is the size of a spot.
    """
    smooth = cv2.blur(probability, (SPOT_PX, SPOT_PX), borderType=cv2.BORDER_REPLICATE)
    h, w = (min(window_px, side) for side in probability.shape)
    rows, columns = (
        np.unique([*range(0, side - size, max(size // 2, 1)), side - size])
        for side, size in zip(probability.shape, (h, w), strict=True)
    )
    found = [smooth[y : y + h, x : x + w].max() for y in rows for x in columns]
    return np.clip(np.array(found, dtype=np.float32), 0, 1)


def proposal_stats(mask: Mask, heat: HeatMap) -> dict[str, float]:
    """Describe one proposal: what makes it long to correct.

    area_px; outline_px: its pixels with a 4-neighbour outside (the image's edge is outside);
    components: 8-connected regions; heat_sharpness: in [0, 1], 1 - 4 mean(h (1 - h)) over the
    heat h > 0; 1 = all or nothing, 0 = all undecided or no heat at all.
    """
    return {
        "area_px": float(np.count_nonzero(mask)),
        "outline_px": float(outline_px(mask)),
        "components": float(_components(mask)),
        "heat_sharpness": heat_sharpness(heat),
    }


def heat_sharpness(heat: HeatMap) -> float:
    """(H, W) in [0, 1] -> [0, 1], see `proposal_stats`."""
    hot = heat[heat > 0].astype(np.float64)
    return float(1 - 4 * np.mean(hot * (1 - hot))) if hot.size else 0.0


def _components(mask: Mask) -> int:
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]) - 1
