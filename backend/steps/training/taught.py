"""What a project's annotations teach together, as it is believed now.

The store holds what each annotation says by itself. Trust compares annotations with each other, as
do the limits of edit seconds and the choice among several masks of a task: all three are applied
here, where a training set or the past is read. So the order in which events arrived leaves no
trace, and a changed setting counts for old annotations too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from sqlalchemy import Connection

from backend.labelstudio import rle
from backend.loop import edit_time, interactions, truth
from backend.loop import trust as trust_rule
from backend.records import Interaction, VerifiedMask, WeakLabel
from backend.settings import Settings
from backend.steps import projects
from backend.store import learning
from backend.wiring import Services
from models.base import Mask


@dataclass(frozen=True)
class Taught:
    """The weak labels with the trust in them, and at most one mask per (task, class)."""

    weak_labels: Sequence[WeakLabel]
    masks: Sequence[VerifiedMask]


@dataclass(frozen=True)
class Agreement:
    """How alike the masks of two annotators are, of one class of one task; iou in [0, 1]."""

    task: int
    class_name: str
    annotations: tuple[int, int]
    iou: float


def rule(settings: Settings) -> trust_rule.Rule:
    """Return the project-wide rule of trust that the settings state."""
    return trust_rule.Rule(
        bulk=settings.bulk_trust,
        fast=settings.fast_trust,
        floor_s=settings.fast_accept_s,
        share=settings.fast_accept_share,
        run=settings.fast_accept_run,
    )


def training_set(tx: Connection, project: int, settings: Settings) -> Taught:
    """Return what a training of the project reads."""
    works = learning.works(tx, project)
    trust = trust_rule.judge(works, rule(settings))
    written_at = {work.annotation: work.written_at for work in works}
    return Taught(
        weak_labels=truth.believed(learning.weak_labels(tx, project), trust),
        masks=truth.chosen(learning.masks(tx, project), trust, written_at),
    )


def past(tx: Connection, project: int, settings: Settings) -> list[Interaction]:
    """Return the interactions in order of time, with their trust and without idle seconds."""
    trust = trust_rule.judge(learning.works(tx, project), rule(settings))
    found = edit_time.winsorised(learning.interactions(tx, project))
    return [replace(one, trust=trust.get(one.annotation, trust_rule.NONE)) for one in found]


def agreements(services: Services, project_id: int) -> list[Agreement]:
    """Compare the masks that different annotators made of the same task, the least alike first.

    Only tasks that several annotators worked on cost time. Masks of different sizes, of which one
    must be wrong, have an IoU of 0. Raises UnknownThing for the project.
    """
    projects.require(services, project_id)
    with services.store.reading() as tx:
        annotators = {work.annotation: work.annotator for work in learning.works(tx, project_id)}
        masks = learning.masks(tx, project_id)
    by_place: defaultdict[tuple[int, str], list[VerifiedMask]] = defaultdict(list)
    for mask in masks:
        if mask.annotation in annotators:
            by_place[mask.task, mask.class_name].append(mask)
    found = [
        Agreement(task, name, (one.annotation, other.annotation), _iou(one, other))
        for (task, name), rivals in by_place.items()
        for one, other in combinations(rivals, 2)
        if annotators[one.annotation] != annotators[other.annotation]
    ]
    return sorted(found, key=lambda pair: (pair.iou, pair.task, pair.class_name, pair.annotations))


def _iou(one: VerifiedMask, other: VerifiedMask) -> float:
    if (one.height_px, one.width_px) != (other.height_px, other.width_px):
        return 0.0
    if one.rle == other.rle:
        return 1.0
    return interactions.changes(_decoded(one), _decoded(other)).iou


def _decoded(mask: VerifiedMask) -> Mask:
    return rle.decode_mask(mask.rle, mask.height_px, mask.width_px)
