"""A mask as few separate regions: what a person would delete with one key is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from models.base import ClassProposal, Mask
from models.masks.components import label, largest_first

MOST_REGIONS = 8  # of a class on an image: more are tiresome to judge and slow to draw
MOST_AT_ALL = 1000
GAP_WIDTHS = 3.0  # a defect of this class that is interrupted for so many widths goes on
GAP_SHARE = 0.02  # of the longer side at most; wide blobs would swallow their neighbours
LEAST_GAP_PX = 2
INVISIBLE_SHARE = 1e-5  # of the image's area: on a screen it is a dot of three pixels

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Parts of a mask that are judged together.

    mask: (H, W) bool; confidence: in [0, 1], the mean of its connected parts' by area.
    """

    mask: Mask
    area_px: int
    confidence: float


def of_proposal(
    proposal: ClassProposal,
    *,
    most: int = MOST_REGIONS,
    min_area_px: int | None = None,
    gap_px: int | None = None,
    rest: Literal["join", "drop"] = "join",
) -> list[Group]:
    """Return the groups of a proposal, see `group`; without parts each is as sure as the class.

    min_area_px: None = what nobody can see, INVISIBLE_SHARE; gap_px: None = `gap_for` the mask.
    """
    if min_area_px is None:
        min_area_px = int(np.ceil(INVISIBLE_SHARE * proposal.mask.size))
    if gap_px is None:
        gap_px = gap_for(proposal.mask)
    confidences = [region.confidence for region in proposal.regions]
    return group(
        proposal.mask,
        confidences,
        otherwise=proposal.score,
        most=most,
        min_area_px=min_area_px,
        gap_px=gap_px,
        rest=rest,
    )


def group(
    mask: Mask,
    confidences: Sequence[float] = (),
    *,
    otherwise: float = 0.0,
    most: int,
    min_area_px: int,
    gap_px: int,
    rest: Literal["join", "drop"] = "join",
) -> list[Group]:
    """Cut a mask (H, W) into at most `most` disjoint groups of 8-connected parts, largest first.

    Parts with at most `gap_px` pixels between them, across and down, belong together. Groups
    smaller than `min_area_px` are dropped. Of more than `most` groups, the smallest are joined
    into the last one, or dropped. Raises ValueError when `most` is not in 1 to MOST_AT_ALL.
    confidences: of the parts, largest part first, upper ones first among equals; of another
        number than the parts, all have `otherwise`.
    """
    if not 1 <= most <= MOST_AT_ALL:
        raise ValueError(f"at most {most} regions cannot be had; ask for 1 to {MOST_AT_ALL}")
    if not mask.any():
        return []
    rows, columns = _box(mask)
    parts, boxes = label(mask[rows, columns])
    areas = boxes[:, cv2.CC_STAT_AREA].astype(np.int64)
    sure = _by_part(boxes, confidences, otherwise)
    together = _together(mask[rows, columns], parts, len(boxes), gap_px)
    number, sizes = _numbered(together, areas, most, min_area_px, rest)
    of_pixel = np.concatenate(([0], number)).astype(np.uint16)[parts]
    groups = []
    for n, area_px in enumerate(sizes, start=1):
        own = np.zeros_like(mask)
        own[rows, columns] = of_pixel == n
        weights = np.where(number == n, areas, 0)
        groups.append(Group(own, int(area_px), float(np.average(sure, weights=weights))))
    return groups


def gap_for(mask: Mask) -> int:
    """Return the widest gap in px within one defect: some widths of it, a share of the image.

    The width is that of a bar with the same area and the same number of edge pixels.
    """
    area_px = np.count_nonzero(mask)
    if not area_px:
        return LEAST_GAP_PX
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    width_px = 2 * area_px / (area_px - np.count_nonzero(inner))
    return round(max(LEAST_GAP_PX, min(GAP_WIDTHS * width_px, GAP_SHARE * max(mask.shape))))


def _box(mask: Mask) -> tuple[slice, slice]:
    """Return rows and columns that hold all of a mask; most defects are small in their image."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _by_part(
    boxes: npt.NDArray[np.int32], confidences: Sequence[float], otherwise: float
) -> npt.NDArray[np.float64]:
    """Return (N,) the confidence of each part, in the order of the parts' labels."""
    if len(confidences) != len(boxes):
        return np.full(len(boxes), otherwise)
    sure = np.empty(len(boxes))
    sure[largest_first(boxes)] = confidences
    return sure


def _together(mask: Mask, parts: npt.NDArray[np.int32], count: int, gap_px: int) -> _Ints:
    """Return (N,) for each part the number of its group, from 0; near parts share one."""
    if count == 1 or gap_px < 1:
        return np.arange(count)
    square = np.ones((gap_px + 1, gap_px + 1), dtype=np.uint8)  # grows both sides by gap_px in all
    _, reached = cv2.connectedComponents(cv2.dilate(mask.astype(np.uint8), square), connectivity=8)
    groups = np.zeros(count + 1, dtype=np.int64)
    groups[parts[mask]] = reached[mask]
    return np.unique(groups[1:], return_inverse=True)[1]


def _numbered(
    together: _Ints, areas: _Ints, most: int, min_area_px: int, rest: Literal["join", "drop"]
) -> tuple[_Ints, _Ints]:
    """Return (N,) the final number of each part's group, 0 = dropped, and the groups' areas."""
    sizes = np.bincount(together, weights=areas).astype(np.int64)
    order = np.argsort(-sizes, kind="stable")
    kept = order[sizes[order] >= min_area_px]
    number = np.zeros(len(sizes), dtype=np.int64)
    number[kept[:most]] = np.arange(1, len(kept[:most]) + 1)
    if rest == "join":
        number[kept[most:]] = most
    final = number[together]
    return final, np.bincount(final, weights=areas, minlength=1).astype(np.int64)[1:]
