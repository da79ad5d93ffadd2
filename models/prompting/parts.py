"""The part that a click means: connected with it, as hot, and of its colour.

A threshold for the whole image joins what does not belong together, or loses what is faint; the
best one differs from part to part. So the heat is weighed with the likeness to the colours at the
click, and cut at a share of what it is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from models.base import Mask
from models.prompting.score_map import Levels, Picture, ScoreMap, closed

NEAR_PX = 4  # a click this far beside a part means it: cracks are thinner than a hand is steady
FAINTEST = 8  # of 255; below it the heat supports nothing
LEAST_SHARE = 0.1  # of the level at the click: what is fainter is not looked at
SHARE = 0.3  # of the weighed level at the click; where to cut
FAINT_SHARE = 0.6  # likewise, at most, where the level at the click is far below the version's cut
SPREAD = 50.0  # of colours within a part, in CIE L*a*b* of 8 bits
CORE_SHARE = 0.7  # of the hottest level in a box: what is surely meant
BOX_SHARE = 0.2  # of the weighed level of that; where to cut
DISC, LEAST_DISC_PX = 1.2, 4.0  # taken away around a negative click, in half widths
REACH, LEAST_REACH_PX = 2.0, 8.0  # and looked at
SAMPLE_PX = 2  # the colour of a click is the mean of so many pixels around it

Box = tuple[slice, slice]  # rows, columns
Pixel = tuple[int, int]  # row, column
_NEIGHBOURS = 8


def seed(score: ScoreMap, click: Pixel) -> Pixel | None:
    """Return the pixel that a click means: the nearest of the version's mask, or the hottest near.

    None where nothing within NEAR_PX is as hot as FAINTEST.
    """
    around = _around(click, NEAR_PX, score.levels.shape)
    rows, columns = np.mgrid[around]
    away = np.hypot(rows - click[0], columns - click[1])
    level = np.where(away <= NEAR_PX, score.levels[around], 0).astype(np.float64)
    in_mask = level >= score.cut
    worth = np.where(in_mask, -away, -np.inf) if in_mask.any() else level - away / (2 * NEAR_PX)
    place = np.unravel_index(int(worth.argmax()), worth.shape)
    if level[place] < FAINTEST:
        return None
    return int(rows[place]), int(columns[place])


def under(score: ScoreMap, picture: Picture, start: Pixel) -> tuple[Box, Mask]:
    """Return the part around a seed: the box that holds it, and the mask within, (h, w).

    A thin part goes on over gaps of `gap_px`.
    """
    level = int(score.levels[start])
    lowest = max(1, round(LEAST_SHARE * level))
    box = bounds(connected(_bridged(score.levels, score.gap_px), start, lowest))
    inside = (start[0] - box[0].start, start[1] - box[1].start)
    weighed = _weighed(score.levels[box], picture[box], _colour(picture, start))
    weighed[inside] = level
    weighed = closed(weighed, score.closing_px)
    threshold = _threshold(score, level)
    return box, connected(_bridged(weighed, score.gap_px), inside, threshold) & (
        weighed >= threshold
    )


def within(score: ScoreMap, picture: Picture, area: Mask) -> Mask:
    """Return what a box holds, (H, W), cut for its inside; empty where nothing is hot in it."""
    empty = np.zeros_like(area)
    if not area.any():
        return empty
    box = bounds(area)
    levels = np.where(area[box], score.levels[box], 0)
    top = float(levels.max())
    if top < FAINTEST:
        return empty
    if score.gap_px:
        empty[box] = (levels >= min(score.cut, top)) & area[box]
        return empty
    core = levels >= CORE_SHARE * top
    colour = picture[box][core].mean(axis=0, dtype=np.float32)
    weighed = closed(_weighed(levels, picture[box], colour), score.closing_px)
    empty[box] = (weighed >= BOX_SHARE * np.median(weighed[core])) & area[box]
    return empty


def denied(
    score: ScoreMap, picture: Picture, whole: Mask, place: Pixel, wanted: Sequence[Pixel]
) -> Mask:
    """Return what a negative click takes away of the part `whole` (H, W) that holds it.

    wanted: seeds that others want of the same part. Without any, all of the part that a click
    there would have given goes. Otherwise a disc as wide as the part is there, and around it, up to
    twice the half width, what is more like this place than like the wanted ones: measured better
    than a split along the valley of the heat, which often lies far away.
    """
    box, own = under(score, picture, place)
    if not wanted:
        gone = np.zeros_like(whole)
        gone[box] = own
        gone[place] = True
        return gone & whole
    half_px = _half_width_px(whole, place)
    near_px, far_px = max(LEAST_DISC_PX, DISC * half_px), max(LEAST_REACH_PX, REACH * half_px)
    around = _around(place, int(far_px), whole.shape)
    rows, columns = np.mgrid[around]
    away = np.hypot(rows - place[0], columns - place[1])
    levels, colours = score.levels[around], picture[around]
    like_this = _weighed(levels, colours, _colour(picture, place))
    like_wanted = np.maximum.reduce(
        [_weighed(levels, colours, _colour(picture, other)) for other in wanted]
    )
    ours = np.zeros_like(whole)
    ours[box] = own
    alike = ours[around] & (like_this > like_wanted) & (away <= far_px)
    gone = np.zeros_like(whole)
    gone[around] = alike | (away <= near_px)
    return gone & whole


def hanging(mask: Mask, place: Pixel, gap_px: int) -> Mask:
    """Return what of a mask hangs together with a pixel of it, over gaps of `gap_px`."""
    return connected(_bridged(mask.astype(np.uint8), gap_px), place, 1) & mask


def nearest(mask: Mask, click: Pixel) -> Pixel | None:
    """Return the pixel of a mask that is nearest to a click, None beyond NEAR_PX."""
    around = _around(click, NEAR_PX, mask.shape)
    rows, columns = np.mgrid[around]
    away = np.where(mask[around], np.hypot(rows - click[0], columns - click[1]), np.inf)
    place = np.unravel_index(int(away.argmin()), away.shape)
    return (int(rows[place]), int(columns[place])) if away[place] <= NEAR_PX else None


def connected(levels: Levels, start: Pixel, threshold: int) -> Mask:
    """Return what is 8-connected with a pixel at a threshold that it reaches, (H, W)."""
    height_px, width_px = levels.shape
    found = np.zeros((height_px + 2, width_px + 2), dtype=np.uint8)
    top = int(levels[start])
    flags = _NEIGHBOURS | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    below, above = top - threshold, 255 - top
    cv2.floodFill(levels, found, (start[1], start[0]), 0, below, above, flags)
    return found[1:-1, 1:-1].astype(bool)


def bounds(mask: Mask) -> Box:
    """Return the rows and columns that hold all of a mask that has any pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1))
    return (
        slice(int(rows[0]), int(rows[-1]) + 1),
        slice(int(columns[0]), int(columns[-1]) + 1),
    )


def _colour(picture: Picture, place: Pixel) -> npt.NDArray[np.float32]:
    near = picture[_around(place, SAMPLE_PX, picture.shape)]
    return np.asarray(near.reshape(-1, 3).mean(axis=0), dtype=np.float32)


def _threshold(score: ScoreMap, level: int) -> int:
    """Return where to cut around a seed: a faint one must not take in all that is faint."""
    least = min(FAINT_SHARE * level, SHARE * score.cut)
    return max(1, round(max(SHARE * level, least)))


def _weighed(levels: Levels, picture: Picture, colour: npt.NDArray[np.float32]) -> Levels:
    """Return the levels (h, w), less where the colour is another: (h, w, 3) against (3,)."""
    distance = ((picture.astype(np.float32) - colour) ** 2).sum(axis=2)
    likeness = np.exp(distance / np.float32(-2 * SPREAD**2))
    return np.asarray(np.round(levels * likeness), dtype=np.uint8)


def _bridged(levels: Levels, gap_px: int) -> Levels:
    """Return levels that reach half a gap farther."""
    if gap_px < 2:
        return levels
    side = gap_px | 1
    return np.asarray(cv2.dilate(levels, np.ones((side, side), np.uint8)), dtype=np.uint8)


def _half_width_px(mask: Mask, place: Pixel) -> float:
    """Return the largest distance to the outside near a pixel of a mask; the image's edge is it."""
    box = bounds(mask)
    padded = np.pad(mask[box].astype(np.uint8), 1)
    inside = (place[0] - box[0].start + 1, place[1] - box[1].start + 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_3)
    return float(depth[_around(inside, NEAR_PX, depth.shape)].max())


def _around(place: Pixel, reach_px: int, shape: tuple[int, ...]) -> Box:
    rows, columns = (
        slice(max(0, at - reach_px), min(side, at + reach_px + 1))
        for at, side in zip(place, shape, strict=False)
    )
    return rows, columns
