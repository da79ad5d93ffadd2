"""From pending prompts to one mask, in the order in which they were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from models.base import Mask
from models.prompting import parts
from models.prompting.parts import Pixel
from models.prompting.prompts import Prompt
from models.prompting.score_map import Picture, ScoreMap

SAME_PX = 2  # clicks this near are on the same spot
MOST_COMPARED = 8  # wanted clicks, the newest, that a denied one is compared with


@dataclass
class _Answer:
    """What the prompts so far have chosen.

    wanted, denied: seeds of clicks that still count. areas: the boxes, oldest first.
    """

    score: ScoreMap
    picture: Picture
    chosen: Mask
    wanted: list[Pixel] = field(default_factory=list)
    denied: list[Pixel] = field(default_factory=list)
    areas: list[Mask] = field(default_factory=list)


def answer(score: ScoreMap, picture: Picture, prompts: Sequence[Prompt]) -> Mask:
    """Return the mask (H, W) that the prompts choose; empty where the heat supports none of them.

    A click adds the part under it, within the newest box that holds it. A box adds what it holds,
    cut for its inside. A negative click takes away what is around it, see `parts.denied`, also
    from what is added later; without a click that wants something of the same part, all of the
    part under it. A negative box takes away all that it holds. Of two clicks on the same spot the
    later one counts.
    """
    so_far = _Answer(score, picture, np.zeros(score.levels.shape, dtype=bool))
    for prompt in prompts:
        if not prompt.is_click:
            _box(so_far, prompt)
        elif prompt.positive:
            _add(so_far, prompt.pixel(*score.levels.shape))
        else:
            _deny(so_far, prompt.pixel(*score.levels.shape))
    return so_far.chosen


def _add(so_far: _Answer, click: Pixel) -> None:
    start = parts.seed(so_far.score, click)
    if start is None:
        return
    so_far.denied = [place for place in so_far.denied if not _is_same(place, start)]
    so_far.wanted.append(start)
    if so_far.chosen[start]:
        return
    box, found = parts.under(so_far.score, so_far.picture, start)
    around = next((area for area in reversed(so_far.areas) if area[start]), None)
    so_far.chosen[box] |= found if around is None else found & around[box]
    _cut_denied(so_far)


def _box(so_far: _Answer, prompt: Prompt) -> None:
    area = _filled(prompt, so_far.chosen.shape)
    if not prompt.positive:
        so_far.chosen &= ~area
        return
    so_far.areas.append(area)
    so_far.chosen |= parts.within(so_far.score, so_far.picture, area)
    _cut_denied(so_far)


def _deny(so_far: _Answer, click: Pixel) -> None:
    place = parts.nearest(so_far.chosen, click) or click
    so_far.wanted = [other for other in so_far.wanted if not _is_same(other, place)]
    so_far.denied.append(place)
    _cut_denied(so_far)


def _cut_denied(so_far: _Answer) -> None:
    for place in (place for place in so_far.denied if so_far.chosen[place]):
        whole = parts.hanging(so_far.chosen, place, so_far.score.gap_px)
        wanted = [other for other in so_far.wanted if whole[other]][-MOST_COMPARED:]
        so_far.chosen &= ~parts.denied(so_far.score, so_far.picture, whole, place, wanted)


def _filled(prompt: Prompt, shape: tuple[int, ...]) -> Mask:
    """Return the pixels (H, W) that a box holds."""
    area = np.zeros(shape, dtype=np.uint8)
    far = 2 * max(shape)
    corners = np.clip(np.round(prompt.outline() - 0.5), -far, far).astype(np.int32)
    cv2.fillConvexPoly(area, corners, 1)
    return area.astype(bool)


def _is_same(place: Pixel, other: Pixel) -> bool:
    return max(abs(place[0] - other[0]), abs(place[1] - other[1])) <= SAME_PX
