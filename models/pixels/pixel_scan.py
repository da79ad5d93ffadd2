"""Whole images of any size by tiles: the probabilities of all classes from one look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from models import passes, tiling
from models.base import HeatMap, Image
from models.learning.dense_crops import check_image
from models.networks.hypercolumn import (
    ALIGNMENT_PX,
    DEEPEST_PX,
    STAGES,
    Hypercolumn,
    PixelHead,
    enlarged,
)
from models.passes import Cells


class Scan(NamedTuple):
    """What one look at an image gives.

    probabilities: per class (H, W) float32 in [0, 1]; embedding: (D,) float32, mean features;
    passes: per class the probability as each member of the head sees it.
    """

    probabilities: tuple[HeatMap, ...]
    embedding: npt.NDArray[np.float32]
    passes: tuple[Cells, ...]


def scan(trunk: Hypercolumn, heads: Sequence[PixelHead], image: Image, *, tile_px: int) -> Scan:
    """Run a whole image by tiles; one pass of the trunk serves all heads, no head needs none.

    trunk: best a `resident` copy. tile_px: largest side of a tile's core, a multiple of
    ALIGNMENT_PX; the result does not depend on it.
    Raises ValueError for another kind of image, and for probabilities that are not finite.
    """
    check_image(image)
    if not heads:
        return Scan((), np.zeros(0, np.float32), ())
    height_px, width_px, _ = image.shape
    probabilities = tuple(np.empty((height_px, width_px), np.float32) for _ in heads)
    members = tuple(passes.empty(height_px, width_px, head.members) for head in heads)
    pooled = np.zeros(trunk.channels[STAGES])
    cells = 0
    for tile in tiling.tiles(
        height_px, width_px, tile_px=tile_px, halo_px=trunk.halo_px, alignment_px=ALIGNMENT_PX
    ):
        levels = trunk.levels(np.ascontiguousarray(image[tile.outer]))
        for head, probability, drawn in zip(heads, probabilities, members, strict=True):
            votes = head.votes(levels)
            probability[tile.core] = enlarged(votes.mean(dim=0), levels)[tile.inner]
            halves = (slice(None), *(slice(s.start // 2, -(-s.stop // 2)) for s in tile.inner))
            drawn[passes.core(*tile.core)] = passes.in_cells(votes[halves], passes.CELL_PX // 2)
        rows, columns = map(_cells, tile.inner)
        own = levels.deepest[:, rows, columns]
        pooled += own.sum(dim=(1, 2), dtype=torch.float64).cpu().numpy()
        cells += own[0].numel()
    if not all(np.isfinite(probability).all() for probability in probabilities):
        raise ValueError(
            "probabilities are not finite; this version is damaged: activate an older one"
        )
    return Scan(probabilities, np.asarray(pooled / cells, dtype=np.float32), members)


def _cells(pixels: slice) -> slice:
    """Return the cells of the deepest map that cover pixels which start at a cell's edge."""
    return slice(pixels.start // DEEPEST_PX, -(-pixels.stop // DEEPEST_PX))
