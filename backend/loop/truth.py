"""Which masks count as true where one annotation is not all that is known of a task.

Every annotation keeps its own interactions, weak labels and masks; they are joined only here, when
a training set is read. Points join as they are, each with the trust in its annotation: points of
two people who disagree pull against each other, as they should. A mask cannot be averaged (two
people's drawings of a thin crack hardly overlap), so one is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from backend.loop import trust as trust_rule
from backend.records import VerifiedMask, WeakLabel


def believed(labels: Iterable[WeakLabel], trust: Mapping[int, float]) -> list[WeakLabel]:
    """Return the labels with the trust in their annotations, without those that nobody believes.

    trust: by annotation; labels of annotations that are not in it teach nothing.
    """
    return [
        replace(label, trust=trust[label.annotation])
        for label in labels
        if trust.get(label.annotation, trust_rule.NONE) > trust_rule.NONE
    ]


def chosen(
    masks: Sequence[VerifiedMask],
    trust: Mapping[int, float],
    written_at: Mapping[int, datetime],
) -> list[VerifiedMask]:
    """Return one mask per (task, class), in the order given: the most trusted, then the newest.

    Masks with a trust below `trust.TRUTH` are none: what was accepted in bulk or at a glance would
    be the model's own proposal as its truth. Their weak labels remain, with little weight. Of
    equal trust and time (only machines write so) the larger annotation id counts.
    """
    best: dict[tuple[int, str], VerifiedMask] = {}
    for mask in masks:
        place = (mask.task, mask.class_name)
        if trust.get(mask.annotation, trust_rule.NONE) < trust_rule.TRUTH:
            continue
        if place not in best or _rank(mask, trust, written_at) > _rank(
            best[place], trust, written_at
        ):
            best[place] = mask
    return [mask for mask in masks if best.get((mask.task, mask.class_name)) is mask]


def _rank(
    mask: VerifiedMask, trust: Mapping[int, float], written_at: Mapping[int, datetime]
) -> tuple[float, datetime, int]:
    return trust[mask.annotation], written_at[mask.annotation], mask.annotation
