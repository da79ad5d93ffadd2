"""Several answers of one model from a single look at an image: what it does not know for sure.

A pixel head has members, which were trained side by side. A U-Net has one linear head: its passes
leave out some channels of the last features, the same ones in all images (dropout as an
approximation of Bayesian inference, Gal & Ghahramani 2016; masks that stay, Kirsch et al. 2019).
The networks are trained without that dropout, so that their passes say how much the answer hangs on
few channels and are no posterior. All passes are kept in cells of CELL_PX pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

PASSES = 6
DROPPED = 0.2  # of the channels
CELL_PX = 4

Cells = npt.NDArray[np.float32]  # (S, ceil(H / CELL_PX), ceil(W / CELL_PX)), S passes
Reduce = Callable[..., Any]  # numpy's max or mean


def perturbed(weight: Tensor) -> Tensor:
    """(K, D, 1, 1) weights of a linear head -> (K * PASSES, D, 1, 1), class after class.

    In each pass channels are 0, the others enlarged, so that the mean over many passes is `weight`.
    """
    classes, channels = weight.shape[:2]
    kept = np.random.default_rng(0).random((PASSES, channels)) >= DROPPED
    mask = torch.tensor(kept / (1 - DROPPED), dtype=weight.dtype, device=weight.device)
    return (weight[:, None, :, 0, 0] * mask).reshape(classes * PASSES, channels, 1, 1)


def in_cells(maps: Tensor, cell: int = CELL_PX) -> Cells:
    """(S, h, w) -> (S, ceil(h / cell), ceil(w / cell)): the mean of what each cell covers."""
    pooled = functional.avg_pool2d(maps.float()[None], cell, ceil_mode=True)[0]
    values: Cells = pooled.cpu().numpy()
    return values


def empty(height_px: int, width_px: int, passes: int = PASSES) -> Cells:
    """Return zeros for an image of this size."""
    return np.zeros((passes, -(-height_px // CELL_PX), -(-width_px // CELL_PX)), np.float32)


def core(rows: slice, columns: slice) -> tuple[slice, slice, slice]:
    """Return where the cells of these pixels lie; the pixels must start at a cell's edge."""
    return slice(None), _cells(rows), _cells(columns)


def of_windows(
    cells: Cells, starts: tuple[Sequence[int], Sequence[int]], size: tuple[int, int], reduce: Reduce
) -> npt.NDArray[np.float32]:
    """(S, h, w) -> (S, T): `reduce` over the cells that a window touches, row by row.

    starts: upper and left pixels of the windows; size: (height, width) of all, in pixels.
    """
    height, width = size
    bands = [(cells[:, _cells(slice(y, y + height))]) for y in starts[0]]
    columns = [_cells(slice(x, x + width)) for x in starts[1]]
    found = [reduce(band[:, :, column], axis=(1, 2)) for band in bands for column in columns]
    return np.stack(found, axis=1).astype(np.float32)


def repeated(found: npt.NDArray[np.float32], passes: int) -> npt.NDArray[np.float32]:
    """(S, ...) -> (passes, ...): fewer passes are each repeated, so that all weigh the same."""
    kept: npt.NDArray[np.float32] = found[np.arange(passes) * len(found) // passes]
    return kept


def _cells(pixels: slice) -> slice:
    return slice(pixels.start // CELL_PX, -(-pixels.stop // CELL_PX))
