"""What an annotator did with each proposal: accepted, modified, rejected, or missed by the model.

Masks decide; region ids decide only where a proposal's region was deleted and something else was
drawn near it. `origin` is not asked: Label Studio calls a region changed after a stroke that
touched no pixel.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from backend.records import Annotation, Interaction, OutcomeKind
from models.base import Mask

SAME_IOU = 0.98  # from here on a mask may be the proposal, encoded anew
REDRAWN_IOU = 0.5  # a deleted region that was drawn again at least this alike was modified
LONGEST_S = 900.0  # longer edits are counted as this: the annotator was away
TRUST_PERSON = 1.0
TRUST_BULK = 0.25  # accepted in bulk: nobody looked at the pixels


@dataclass(frozen=True)
class Proposal:
    """What was proposed of one class; mask: (H, W) bool, region_ids: of its regions."""

    mask: Mask
    region_ids: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Changes:
    """The pixels of one class, (H, W) bool each: in both masks, only final, only proposed."""

    kept: Mask
    added: Mask
    removed: Mask

    @property
    def iou(self) -> float:
        """Intersection over union of proposal and final mask; 1 when both are empty."""
        same, other = np.count_nonzero(self.kept), np.count_nonzero(self.added | self.removed)
        return float(same / (same + other)) if same + other else 1.0


def changes(proposal: Mask | None, final: Mask | None) -> Changes:
    """Compare proposal and final mask, None = empty; raises ValueError on different sizes."""
    if proposal is None and final is None:
        raise ValueError("neither a proposal nor a final mask to compare; give at least one")
    before = np.zeros_like(final) if proposal is None else proposal
    after = np.zeros_like(before) if final is None else final
    if before.shape != after.shape:
        raise ValueError(
            f"the proposal has {before.shape[1]} x {before.shape[0]} px and the final mask "
            f"{after.shape[1]} x {after.shape[0]}; decode both at the image's natural size"
        )
    return Changes(kept=before & after, added=after & ~before, removed=before & ~after)


def derive(
    annotation: Annotation,
    *,
    classes: Sequence[str],
    proposals: Mapping[str, Proposal],
    final: Mapping[str, Mask],
    present: Collection[str],
    version: int | None,
    click_only: bool = False,
) -> list[Interaction]:
    """Return one interaction per class with a proposal or a final mask, in the order of `classes`.

    proposals, final: by class, an absent class is an empty mask; present: region ids that the
    annotation holds; version: whose proposals were on screen. Skipped, deleted and click-only
    annotations say nothing about proposals and give none.
    """
    if not speaks(annotation) or click_only:
        return []
    compared = _compared(classes, proposals, final)
    seconds = clean_seconds(annotation.lead_time_s)
    share = seconds / len(compared) if seconds is not None and compared else None
    return [
        Interaction(
            project=annotation.project,
            task=annotation.task,
            annotation=annotation.id,
            class_name=name,
            outcome=outcome(proposals.get(name), found, present),
            iou=found.iou,
            pixels_added=int(np.count_nonzero(found.added)),
            pixels_removed=int(np.count_nonzero(found.removed)),
            edit_seconds=share,
            annotator=annotation.annotator,
            version=version,
            trust=trust(annotation),
            created_at=annotation.updated_at,
        )
        for name, found in compared.items()
    ]


def outcome(proposal: Proposal | None, found: Changes, present: Collection[str]) -> OutcomeKind:
    """Name what was done with one proposal.

    missed: nothing was proposed. accepted: the same pixels, up to re-encoding. rejected: nothing
    of the class overlaps it, or all its regions are gone and what was drawn in their place has an
    IoU below REDRAWN_IOU. modified: the rest.
    """
    if proposal is None or not proposal.mask.any():
        return "missed"
    if same(found):
        return "accepted"
    gone = bool(proposal.region_ids) and proposal.region_ids.isdisjoint(present)
    if not found.kept.any() or (gone and found.iou < REDRAWN_IOU):
        return "rejected"
    return "modified"


def same(found: Changes) -> bool:
    """Say whether the masks are equal up to re-encoding.

    IoU of at least SAME_IOU, and no differing pixel farther than one from the border: on a large
    mask the IoU alone would hide a small part that was erased on purpose.
    """
    if not (found.added.any() or found.removed.any()):
        return True
    if found.iou < SAME_IOU:
        return False
    before = found.kept | found.removed
    inner, outer = _eroded(before), ~_eroded(~before)
    return not (found.removed & inner).any() and not (found.added & ~outer).any()


def is_click_only(*, clicks: int, regions: int, proposals: int) -> bool:
    """Say whether an annotation holds weak clicks alone, which leave the rest of the image open.

    That is: clicks, no region, and no proposal was shown. With a proposal on screen the absent
    region was deleted by a person, and without a click an empty annotation says "nothing here".
    """
    return clicks > 0 and regions == 0 and proposals == 0


def speaks(annotation: Annotation) -> bool:
    """Say whether an annotation is a statement: neither skipped nor deleted."""
    return not (annotation.was_cancelled or annotation.deleted)


def trust(annotation: Annotation) -> float:
    """Return how far an annotation's pixels are believed, in [0, 1]."""
    return TRUST_BULK if annotation.bulk else TRUST_PERSON


def clean_seconds(lead_time_s: float | None) -> float | None:
    """Return usable seconds, at most LONGEST_S; None for unknown, zero, negative, not finite.

    The seconds of an annotation are shared evenly by its interactions: summing them is right.
    """
    if lead_time_s is None or not math.isfinite(lead_time_s) or lead_time_s <= 0:
        return None
    return min(float(lead_time_s), LONGEST_S)


def _compared(
    classes: Iterable[str], proposals: Mapping[str, Proposal], final: Mapping[str, Mask]
) -> dict[str, Changes]:
    compared = {}
    for name in classes:
        proposal, after = proposals.get(name), final.get(name)
        before = None if proposal is None else proposal.mask
        if (before is not None and before.any()) or (after is not None and after.any()):
            compared[name] = changes(before, after)
    return compared


def _eroded(mask: Mask) -> Mask:
    """Return the pixels all of whose eight neighbours (inside the image) are in the mask."""
    kernel = np.ones((3, 3), dtype=np.uint8)
    return np.asarray(cv2.erode(mask.astype(np.uint8), kernel), dtype=np.bool_)
