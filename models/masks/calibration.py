"""Choose how heat becomes a mask, per class: by rule, and by verified masks where there are enough.

The search maximises the F-measure: with 2 px tolerance and as the mean over the images for thin
classes; strict, as the mean of that and of the pooled one, for compact ones. It is bounded in
images and in pixels and computes each heat map once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.base import ClassSpec, HeatMap, Image, Mask, Sample
from models.masks import confidence
from models.masks.components import typical_width_px
from models.masks.confidence import Confidence
from models.masks.search import LEAST_GAIN, LEAST_MASKS, Case, Clock, HeatAndScoreOf, Search
from models.masks.settings import Settings, apply, default_settings, fixed, resolve

__all__ = [
    "LEAST_GAIN",
    "LEAST_MASKS",
    "Choice",
    "Settings",
    "apply",
    "calibrate",
    "choose",
    "default_settings",
    "resolve",
    "select",
]

MOST_PRESENT, MOST_ABSENT = 40, 8  # images looked at, within MOST_PX
SIDE_PX = 1024  # larger images are cut to a square of this side around the defect
MOST_PX = 8_400_000  # of all images, 20 of 640 x 640: about 10 s on one core
THRESHOLDS = (0.03, 0.06, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8)


@dataclass(frozen=True)
class Choice:
    """Settings, how sure their regions are, and what was tried, JSON-able."""

    settings: Settings
    confidence: Confidence
    table: dict[str, Any]


HeatOf = Callable[[Image, int], HeatMap]  # image, iterations


def calibrate(
    samples: Sequence[Sample],
    spec: ClassSpec,
    heat_of: HeatOf,
    *,
    preferred: Sequence[str] = (),
    iterations: Sequence[int] = (1, 2),
    thresholds: Sequence[float] = THRESHOLDS,
    rule: Settings | None = None,
) -> tuple[Settings, dict[str, Any]]:
    """Choose settings for a class as `choose` does, for a pipeline without scores."""
    choice = choose(
        samples,
        spec,
        lambda image, number: (heat_of(image, number), 1.0),
        preferred=preferred,
        iterations=iterations,
        thresholds=thresholds,
        rule=rule,
    )
    return choice.settings, choice.table


def choose(
    samples: Sequence[Sample],
    spec: ClassSpec,
    heat_and_score_of: HeatAndScoreOf,
    *,
    preferred: Sequence[str] = (),
    iterations: Sequence[int] = (1, 2),
    thresholds: Sequence[float] = THRESHOLDS,
    rule: Settings | None = None,
    clock: Clock = time.perf_counter,
) -> Choice:
    """Choose settings for a class, and learn how sure the regions are that they give.

    heat_and_score_of: image, iterations -> heat, and the score that the class is present.
    preferred: keys of samples that training has not seen; they are looked at first.
    iterations: those that the pipeline can do, rising. thresholds: the coarse ones, rising.
    rule: what the pipeline uses by default, if not `default_settings`. What `spec` fixes stays.

    With fewer than LEAST_MASKS masks that show the class, the rule decides. The table holds the
    settings tried with their `f1_2px`, of thin classes, or `f1` (see the head of this file), over
    `masks` images each, the seconds that each refinement took, and the reliability of regions.
    """
    fits = rule is not None and spec.refine in (None, rule.refine)
    standard = fixed(rule, spec) if rule is not None and fits else default_settings(spec)
    if spec.iterations is None:
        standard = replace(standard, iterations=min(standard.iterations, max(iterations)))
    cases = select(samples, spec.name, preferred)
    present = sum(bool(case.truth.any()) for case in cases)
    width_px = typical_width_px(case.truth for case in cases)
    if width_px is None or present < LEAST_MASKS:
        why = f"{present} verified masks show {spec.name!r}; {LEAST_MASKS} are needed to choose"
        return Choice(standard, Confidence(), {"chosen_by": "rule", "why": why})
    standard = replace(standard, width_px=width_px)
    search = Search(cases, width_px, heat_and_score_of, iterations, clock)
    best = search.run(standard, spec, sorted(thresholds))
    sure, reliability = confidence.fit(search.proposals(best))
    table = {
        "chosen_by": "masks" if best != standard else "rule",
        "masks": len(cases),
        "masks_with_class": present,
        "width_px": width_px,
        search.measure: search.value(best),
        "tried": [search.row(settings) for settings in search.tried],
        "seconds": dict(search.seconds),
        "regions": reliability,
    }
    return Choice(best, sure, table)


def select(samples: Sequence[Sample], class_name: str, preferred: Sequence[str]) -> list[Case]:
    """Pick images with verified masks of the class in an order that only their keys decide.

    At most MOST_PRESENT that show it and MOST_ABSENT that do not, and no more after MOST_PX.
    """
    cases: list[Case] = []
    left = {True: MOST_PRESENT, False: MOST_ABSENT}
    for sample in sorted(samples, key=lambda s: (s.key not in preferred, _digest(s.key))):
        if not left[True] or sum(case.truth.size for case in cases) >= MOST_PX:
            break
        if class_name not in sample.masks:
            continue
        truth = sample.masks[class_name]()
        shown = bool(truth.any())
        if left[shown]:
            left[shown] -= 1
            cases.append(_cut(sample.load(), truth))
    return cases


def _cut(image: Image, truth: Mask) -> Case:
    """Bound the pixels: a square around the middle of the defect, or of the image."""
    if max(truth.shape) <= SIDE_PX:
        return Case(image, truth)
    places = np.argwhere(truth) if truth.any() else np.array([truth.shape]) // 2
    middle = places[len(places) // 2]
    corner = np.clip(middle - SIDE_PX // 2, 0, np.maximum(np.array(truth.shape) - SIDE_PX, 0))
    part = tuple(slice(int(start), int(start) + SIDE_PX) for start in corner)
    return Case(np.ascontiguousarray(image[part]), np.ascontiguousarray(truth[part]))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
