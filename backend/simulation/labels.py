"""What a corrected task teaches, derived as the service derives it from an annotation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

import cv2
import numpy as np

from backend.loop import interactions, regions, weak_labels
from backend.loop.regions import Drawn, Part
from backend.records import Annotation, Interaction, TaskEvidence
from models.base import Mask, Sample, WeakPoint
from models.masks.correction import correction

PROJECT = 0  # of records that no store ever sees
AT = datetime(2000, 1, 1, tzinfo=timezone.utc)  # replayed work has no hour; its order is kept


@dataclass(frozen=True)
class Shown:
    """What is on screen when a task is opened: the version's number, its mask and evidence."""

    number: int
    mask: Mask
    evidence: TaskEvidence


@dataclass(frozen=True)
class Taught:
    """The interactions of a finished task, its sample, and the evidence that was on screen."""

    interactions: tuple[Interaction, ...]
    sample: Sample
    evidence: TaskEvidence | None


def final_mask(shown: Shown | None, truth: Mask) -> Mask:
    """Return what a person leaves: a proposal that is good enough as it is, else the truth."""
    if shown is not None and correction(shown.mask, truth).cost_s == 0:
        return shown.mask
    return truth


def taught(
    task: int,
    class_name: str,
    shown: Shown | None,
    final: Mask,
    seconds: float,
    sample: Sample,
) -> Taught:
    """Compare what was shown with what was left; `sample` gets points and the verified mask."""
    annotation = Annotation(
        id=task,
        project=PROJECT,
        task=task,
        updated_at=AT,
        result=(),
        created_at=AT,
        lead_time_s=seconds,
    )
    proposed = {} if shown is None else {class_name: _drawn(shown.mask, f"v{shown.number}-{task}")}
    left = {class_name: _left(proposed.get(class_name), final)}
    judged = interactions.judge([class_name], proposed, left)
    learned = weak_labels.learn(
        annotation,
        classes=[class_name],
        judged=judged,
        final=left,
        clicks=(),
        size=(final.shape[0], final.shape[1]),
    )
    points = tuple(
        WeakPoint(one.class_name, one.x_px, one.y_px, one.positive, one.weight * one.trust)
        for one in learned.weak_labels
    )
    done = interactions.derive(annotation, judged, version=None if shown is None else shown.number)
    masks = {name: (lambda mask=mask: mask) for name, mask in learned.verified.items()}
    return Taught(
        tuple(done),
        Sample(sample.key, sample.load, points, masks, sample.held_out),
        None if shown is None else shown.evidence,
    )


def _drawn(mask: Mask, prefix: str) -> Drawn:
    """Return each connected part of a mask as a region of its own."""
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    found = [regions.part(f"{prefix}-{n}", parts == n) for n in range(1, count)]
    return regions.drawn(found, (mask.shape[0], mask.shape[1]))


def _left(proposed: Drawn | None, final: Mask) -> Drawn:
    """Return the regions of the annotation: parts that touch a proposed one keep its id."""
    if proposed is not None and np.array_equal(proposed.mask, final):
        return proposed
    found = _drawn(final, "drawn").parts
    before = proposed.parts if proposed is not None else ()
    kept = [_named_as(part, before, final) for part in found]
    return regions.drawn(kept, (final.shape[0], final.shape[1]))


def _named_as(part: Part, before: tuple[Part, ...], final: Mask) -> Part:
    own = np.zeros_like(final)
    own[part.window] = part.mask
    touched = [one.id for one in before if (own[one.window] & one.mask).any()]
    return Part(touched[0], part.top_px, part.left_px, part.mask, True) if touched else part
