"""What a wrong proposal costs the person who corrects it: predicted seconds, a surrogate of ours.

It is not the paper's measured annotation time and must not be reported as such.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from models.base import Mask
from models.metrics import f_measure, grown, outline_px

TOLERANCE_PX = 2
GOOD_ENOUGH_F = 0.85  # people submit such a proposal unchanged
GAP_PX = 4
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
    edit = draw(added) + draw(removed), anew = REGION_S (if there is a proposal) + draw(final), with
    draw(m) = REGION_S * places + OUTLINE_S_PER_PX * outline_px * REFERENCE_PX / sqrt(H * W);
    pieces closer than 2 * GAP_PX are one place: the brush is not lifted between them.
    Pixels within TOLERANCE_PX of the other mask need no edit. (H, W) bool each; ValueError if they
    differ in shape.
    """
    if proposal.shape != final.shape:
        raise ValueError(f"masks of {proposal.shape} and {final.shape} pixels cannot be compared")
    added = final & ~grown(proposal, TOLERANCE_PX)
    removed = proposal & ~grown(final, TOLERANCE_PX)
    edit_s = draw_s(added) + draw_s(removed)
    anew_s = REGION_S * bool(proposal.any()) + draw_s(final)
    return min(edit_s, anew_s)


def draw_s(mask: Mask) -> float:
    """Predict the seconds to draw (or erase) a mask; the formula is in `correction_cost_s`."""
    if not mask.any():
        return 0.0
    places = cv2.connectedComponents(grown(mask, GAP_PX).astype(np.uint8))[0] - 1
    shown = REFERENCE_PX / math.sqrt(mask.size)
    return float(REGION_S * places + OUTLINE_S_PER_PX * outline_px(mask) * shown)
