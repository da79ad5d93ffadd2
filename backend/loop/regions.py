"""Regions as they are compared: each kept within its bounding box, all of a class as one mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from models.base import Mask


@dataclass(frozen=True)
class Part:
    """One region: its id and its pixels within their bounding box.

    top_px, left_px: place of the box's upper left pixel; mask: (h, w) bool, (0, 0) when empty.
    is_changed: Label Studio calls it changed, which alone proves nothing.
    """

    id: str
    top_px: int
    left_px: int
    mask: Mask
    is_changed: bool = False

    @property
    def window(self) -> tuple[slice, slice]:
        """Return rows and columns of the box, an index into masks of the whole image."""
        height_px, width_px = self.mask.shape
        return (
            slice(self.top_px, self.top_px + height_px),
            slice(self.left_px, self.left_px + width_px),
        )


@dataclass(frozen=True)
class Drawn:
    """All regions of one class, on screen or in an annotation; mask: (H, W) bool, their union."""

    mask: Mask
    parts: tuple[Part, ...] = ()

    @property
    def ids(self) -> frozenset[str]:
        """Return the ids of the regions."""
        return frozenset(part.id for part in self.parts)


def cropped(mask: Mask) -> tuple[int, int, Mask]:
    """Return (top, left, a view of the mask within its bounding box), (0, 0, empty) of nothing."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0, 0, mask[:0, :0]
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return top, left, mask[top:bottom, left:right]


def part(id: str, mask: Mask, *, is_changed: bool = False) -> Part:
    """Return a region of a (H, W) mask; it keeps a copy of its box, not the whole mask."""
    top, left, box = cropped(mask)
    return Part(id, top, left, box.copy(), is_changed)


def drawn(parts: Iterable[Part], shape: tuple[int, int]) -> Drawn:
    """Return the regions of one class of an image of (height, width)."""
    kept = tuple(parts)
    return Drawn(union(kept, shape), kept)


def union(parts: Iterable[Part], shape: tuple[int, int]) -> Mask:
    """Return the (H, W) mask of all pixels that are in any of the regions."""
    mask: Mask = np.zeros(shape, dtype=np.bool_)
    for one in parts:
        mask[one.window] |= one.mask
    return mask
