"""What an annotator did with each proposal: accepted, modified, rejected, or missed by the model.

Decoded pixels decide. Region ids, which Label Studio keeps from a proposal to its annotation and
over every update, say which regions are gone as a whole and which were drawn anew. `origin` proves
nothing by itself: Label Studio calls a region changed after a stroke that touched no pixel, and
leaves out the word where a program wrote the annotation. RLEs are never compared: an untouched
region may come back encoded otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from backend.loop.edit_time import usable_s
from backend.loop.regions import Drawn, Part, union
from backend.loop.trust import FULL, Rule
from backend.records import Annotation, Interaction, OutcomeKind
from models.base import Mask

SAME_IOU = 0.98  # from here on a mask may be the proposal, encoded anew
REDRAWN_IOU = 0.5  # a deleted region that was drawn again at least this alike was modified


@dataclass(frozen=True)
class Changes:
    """The pixels of one class, (H, W) bool each: in both masks, only final, only proposed."""

    kept: Mask
    added: Mask
    removed: Mask

    @property
    def iou(self) -> float:
        """Intersection over union of proposal and final mask; 1 when both are empty."""
        same = np.count_nonzero(self.kept)
        other = np.count_nonzero(self.added) + np.count_nonzero(self.removed)
        return float(same / (same + other)) if same + other else 1.0


@dataclass(frozen=True)
class Judged:
    """What was done with the proposal of one class.

    deleted: of the removed pixels, those of regions that are gone as a whole; missed: of the added
    pixels, those of new regions that share no pixel with the proposal. (H, W) bool.
    """

    outcome: OutcomeKind
    changes: Changes
    deleted: Mask
    missed: Mask


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
    kept = before & after
    return Changes(kept=kept, added=after ^ kept, removed=before ^ kept)


def judge(
    classes: Iterable[str], proposals: Mapping[str, Drawn], final: Mapping[str, Drawn]
) -> dict[str, Judged]:
    """Return what was done with each class that was proposed or drawn, in the order of `classes`.

    A region that was given another class is gone from the one and new in the other: its pixels
    are removed there and added here, whatever its id.
    """
    judged = {}
    for name in classes:
        before, after = proposals.get(name), final.get(name)
        if (before is not None and before.mask.any()) or (after is not None and after.mask.any()):
            judged[name] = _judge(before, after)
    return judged


def derive(
    annotation: Annotation,
    judged: Mapping[str, Judged],
    *,
    version: int | None,
    click_only: bool = False,
) -> list[Interaction]:
    """Return one interaction per judged class, in the same order.

    version: whose proposals were on screen. Skipped, deleted and click-only annotations say
    nothing about proposals and give none. The seconds of the annotation are shared evenly.
    """
    if not speaks(annotation) or click_only or not judged:
        return []
    seconds = None if annotation.bulk else usable_s(annotation.lead_time_s)
    return [
        Interaction(
            project=annotation.project,
            task=annotation.task,
            annotation=annotation.id,
            class_name=name,
            outcome=one.outcome,
            iou=one.changes.iou,
            pixels_added=int(np.count_nonzero(one.changes.added)),
            pixels_removed=int(np.count_nonzero(one.changes.removed)),
            edit_seconds=None if seconds is None else seconds / len(judged),
            annotator=annotation.annotator,
            version=version,
            trust=trust(annotation),
            created_at=annotation.updated_at,
        )
        for name, one in judged.items()
    ]


def outcome(proposal: Drawn | None, final: Drawn | None, found: Changes) -> OutcomeKind:
    """Name what was done with one proposal.

    missed: nothing was proposed. accepted: the same pixels, or the same regions encoded anew.
    rejected: nothing of the class overlaps it, or all its regions are gone and what was drawn in
    their place has an IoU below REDRAWN_IOU. modified: the rest.
    """
    if proposal is None or not proposal.mask.any():
        return "missed"
    if not (found.added.any() or found.removed.any()):
        return "accepted"
    if final is not None and _is_untouched(proposal, final) and alike(found):
        return "accepted"
    gone = bool(proposal.ids) and proposal.ids.isdisjoint(final.ids if final else ())
    if not found.kept.any() or (gone and found.iou < REDRAWN_IOU):
        return "rejected"
    return "modified"


def alike(found: Changes) -> bool:
    """Say whether the masks are equal up to re-encoding.

    IoU of at least SAME_IOU, and no differing pixel farther than one from the border: on a large
    mask the IoU alone would hide a small part that was erased on purpose.
    """
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
    """Say whether an annotation is a statement: neither skipped nor deleted.

    A skipped annotation holds all the regions that were proposed, as if they were accepted.
    """
    return not (annotation.was_cancelled or annotation.deleted)


def trust(annotation: Annotation) -> float:
    """Return what an annotation by itself says of its trust, in [0, 1].

    That is how it is stored; what it is believed when it is read, `loop.trust` says.
    """
    return Rule.bulk if annotation.bulk else FULL


def _judge(proposal: Drawn | None, final: Drawn | None) -> Judged:
    before, after = (None if drawn is None else drawn.mask for drawn in (proposal, final))
    found = changes(before, after)
    gone = _without(proposal, final.ids if final else ())
    new = _without(final, proposal.ids if proposal else ())
    apart = [part for part in new if before is None or not (before[part.window] & part.mask).any()]
    shape = (found.kept.shape[0], found.kept.shape[1])
    return Judged(
        outcome=outcome(proposal, final, found),
        changes=found,
        deleted=union(gone, shape) & found.removed if gone else np.zeros(shape, dtype=np.bool_),
        missed=union(apart, shape) if apart else np.zeros(shape, dtype=np.bool_),
    )


def _without(drawn: Drawn | None, ids: Collection[str]) -> list[Part]:
    return [part for part in drawn.parts if part.id not in ids] if drawn else []


def _is_untouched(proposal: Drawn, final: Drawn) -> bool:
    """Say whether no region came or went and Label Studio calls none changed.

    Only then can differing pixels come from encoding; a small region that was deleted beside a
    large one, or a thin line along its border, is a person's work.
    """
    return proposal.ids == final.ids and not any(part.is_changed for part in final.parts)


def _eroded(mask: Mask) -> Mask:
    """Return the pixels all of whose eight neighbours (inside the image) are in the mask."""
    kernel = np.ones((3, 3), dtype=np.uint8)
    return np.asarray(cv2.erode(mask.astype(np.uint8), kernel), dtype=np.bool_)
