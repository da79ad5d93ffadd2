"""What a wrong proposal costs the person who corrects it: predicted seconds, a surrogate of ours.

It is not the paper's measured annotation time and must not be reported as such.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from models.base import Mask
from models.metrics import f_measure, grown, outline

TOLERANCE_PX = 2
GOOD_ENOUGH_F = 0.85  # people submit such a proposal unchanged
GAP_PX = 4
ERASER_GAP_PX = 12  # whole parts that are wrong go with a large eraser, or as regions by one key
REGION_S = 2.0  # to choose a tool and go to one place
OUTLINE_S_PER_PX = 0.01  # to follow an outline with care, on an image of REFERENCE_PX
REFERENCE_PX = 1000.0  # larger images are shown smaller: an outline costs what it shows


@dataclass(frozen=True)
class Correction:
    """How far a proposal is from the mask that a person left.

    cost_s: predicted correction cost; f: F-measure with TOLERANCE_PX, at most GOOD_ENOUGH_F;
    f_strict: without tolerance.
    """

    cost_s: float
    f: float
    f_strict: float


def correction(proposal: Mask, final: Mask) -> Correction:
    """Compare a proposal with the mask that a person left; (H, W) bool each.

    That mask is often another version's own proposal, accepted as good enough. Against it no other
    version could win, so that whatever agrees with it up to GOOD_ENOUGH_F counts as accepted too:
    no correction, and no more than GOOD_ENOUGH_F.
    """
    f = f_measure(proposal, final, TOLERANCE_PX)
    return Correction(
        cost_s=0.0 if f >= GOOD_ENOUGH_F else correction_cost_s(proposal, final),
        f=min(f, GOOD_ENOUGH_F),
        f_strict=f_measure(proposal, final),
    )


def correction_cost_s(proposal: Mask, final: Mask) -> float:
    """Predict the human seconds to turn a proposal into the final mask.

    The cheaper of editing and of deleting all and drawing anew:
    edit = REGION_S * (places(added and trimmed) + wiped places) + trace(final, near what is wrong),
    anew = REGION_S (if there is a proposal) + draw(final), draw(m) = REGION_S * places + trace(m).
    trace: OUTLINE_S_PER_PX * outline px * REFERENCE_PX / sqrt(H * W): only the true outline is
    followed with care, and only where added or removed pixels touch it, not what is erased there.
    Pieces closer than 2 * GAP_PX are one place: the brush is not lifted between them. Parts of the
    proposal of which nothing is right are wiped: those closer than 2 * ERASER_GAP_PX at once.
    Pixels within TOLERANCE_PX of the other mask need no edit. (H, W) bool each; ValueError if they
    differ in shape.
    """
    if proposal.shape != final.shape:
        raise ValueError(f"masks of {proposal.shape} and {final.shape} pixels cannot be compared")
    right = grown(final, TOLERANCE_PX)
    wrong = _parts_without(proposal, right)
    removed = proposal & ~right
    added = final & ~grown(proposal, TOLERANCE_PX)
    visits = _places(added | (removed & ~wrong), GAP_PX) + _places(wrong, ERASER_GAP_PX)
    careful = outline(final) & grown(added | removed, TOLERANCE_PX + 1)
    anew_s = REGION_S * bool(proposal.any()) + draw_s(final)
    return min(REGION_S * visits + _trace_s(careful), anew_s)


def draw_s(mask: Mask) -> float:
    """Predict the seconds to draw a mask; the formula is in `correction_cost_s`."""
    return REGION_S * _places(mask, GAP_PX) + _trace_s(outline(mask))


def _trace_s(pixels: Mask) -> float:
    shown = REFERENCE_PX / math.sqrt(pixels.size)
    return float(OUTLINE_S_PER_PX * np.count_nonzero(pixels) * shown)


def _places(mask: Mask, gap_px: int) -> int:
    return cv2.connectedComponents(grown(mask, gap_px).astype(np.uint8))[0] - 1


def _parts_without(mask: Mask, other: Mask) -> Mask:
    """Return the connected parts of a mask that no pixel of the other one touches."""
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    touched = np.zeros(count, dtype=np.bool_)
    touched[parts[other & mask]] = True
    touched[0] = True
    alone: Mask = ~touched[parts]
    return alone
