"""Choose how heat becomes a mask, per class: by rule, and by verified masks where there are enough.

The search goes over refinement and threshold first, then over a climb, then over the smallest area,
and keeps what has the best mean 2-px F-measure. It is bounded in images and in pixels, computes
each heat map once, and moves away from the rule, or to a climb, which takes three times as long,
only for a gain of `LEAST_GAIN`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from models import refine
from models.base import ClassSpec, HeatMap, Image, Mask, Sample
from models.metrics import f_measure

THIN_DARK = ("crack", "fissure", "hairline")  # parts of names of classes that `fusion` suits
TOLERANCE_PX = 2
LEAST_MASKS = 4  # with the class present; fewer decide nothing
LEAST_GAIN = 0.02
MOST_PRESENT, MOST_ABSENT = 8, 2  # images looked at
SIDE_PX = 1024  # larger images are cut to a square of this side around the defect
THRESHOLDS = (0.03, 0.06, 0.1, 0.2, 0.35)
AREA_FACTORS = (0.5, 2.0)  # times the area at hand


@dataclass(frozen=True)
class Settings:
    """How the heat of a class becomes a mask; the fields are those of ClassSpec."""

    refine: str
    iterations: int
    threshold: float
    min_area_px: int


@dataclass(frozen=True)
class Case:
    """One image with the verified mask of the class."""

    image: Image
    truth: Mask


HeatOf = Callable[[Image, int], HeatMap]  # image, iterations


def default_settings(spec: ClassSpec) -> Settings:
    """Apply the rule: thin dark defects by fusion without a climb, others by threshold with one."""
    thin = any(part in spec.name.lower() for part in THIN_DARK)
    method = spec.refine or ("fusion" if thin else "threshold")
    chosen = refine.get(method)
    rule = Settings(
        refine=method,
        iterations=1 if method == "fusion" else 2,
        threshold=chosen.default_threshold,
        min_area_px=chosen.default_min_area_px,
    )
    return _fixed(rule, spec)


def resolve(chosen: Settings, spec: ClassSpec) -> Settings:
    """Let the spec overrule a version's choice; another refinement brings its own defaults."""
    if spec.refine is not None and spec.refine != chosen.refine:
        return default_settings(spec)
    return _fixed(chosen, spec)


def calibrate(
    samples: Sequence[Sample], spec: ClassSpec, heat_of: HeatOf, *, preferred: Sequence[str] = ()
) -> tuple[Settings, dict[str, Any]]:
    """Choose settings for a class; returns them with the table of what was tried, JSON-able.

    preferred: keys of samples that training has not seen; they are looked at first. What `spec`
    fixes stays. With fewer than LEAST_MASKS masks that show the class, the rule decides.
    """
    rule = default_settings(spec)
    cases = select(samples, spec.name, preferred)
    present = sum(bool(case.truth.any()) for case in cases)
    if present < LEAST_MASKS:
        why = f"{present} verified masks show {spec.name!r}; {LEAST_MASKS} are needed to choose"
        return rule, {"chosen_by": "rule", "why": why}
    search = _Search(cases, heat_of)
    best = search.run(rule, spec)
    return best, {
        "chosen_by": "masks" if best != rule else "rule",
        "masks": len(cases),
        "masks_with_class": present,
        "f1_2px": search.table[best],
        "tried": [{**asdict(s), "f1_2px": value} for s, value in search.table.items()],
    }


def select(samples: Sequence[Sample], class_name: str, preferred: Sequence[str]) -> list[Case]:
    """Pick images with verified masks of the class in an order that only their keys decide."""
    present: list[Case] = []
    absent: list[Case] = []
    for sample in sorted(samples, key=lambda s: (s.key not in preferred, _digest(s.key))):
        if class_name not in sample.masks or len(present) == MOST_PRESENT:
            continue
        truth = sample.masks[class_name]()
        if truth.any():
            present.append(_cut(sample.load(), truth))
        elif len(absent) < MOST_ABSENT:
            absent.append(_cut(sample.load(), truth))
    return present + absent


class _Search:
    """A walk through the settings; `table` holds the mean F-measure of each one tried."""

    def __init__(self, cases: Sequence[Case], heat_of: HeatOf) -> None:
        self.table: dict[Settings, float] = {}
        self._cases = cases
        self._heat_of = heat_of
        self._heats: dict[int, list[HeatMap]] = {}

    def run(self, rule: Settings, spec: ClassSpec) -> Settings:
        """Return the best settings, or the rule's when nothing gains enough over them."""
        methods = (spec.refine,) if spec.refine else refine.names()
        thresholds = (spec.threshold,) if spec.threshold is not None else THRESHOLDS
        starts = [default_settings(replace(spec, refine=method)) for method in methods]
        flat = [s if spec.iterations else replace(s, iterations=1) for s in starts]
        best = self._best(_with_thresholds(flat, thresholds))
        if spec.iterations is None:
            climbed = _with_thresholds([replace(best, iterations=2)], thresholds)
            best = self._preferred(self._best(climbed), best)
        if spec.min_area_px is None:
            areas = [round(best.min_area_px * factor) for factor in AREA_FACTORS]
            best = self._best([best, *(replace(best, min_area_px=area) for area in areas)])
        return self._preferred(best, rule)

    def _preferred(self, challenger: Settings, holder: Settings) -> Settings:
        """Let the challenger win by LEAST_GAIN; fewer iterations win unless they lose as much."""
        saves_time = challenger.iterations < holder.iterations
        needed = -LEAST_GAIN if saves_time else LEAST_GAIN
        gain = self._score(challenger) - self._score(holder)
        return challenger if gain >= needed else holder

    def _best(self, candidates: Sequence[Settings]) -> Settings:
        return max(candidates, key=self._score)  # the first of equals

    def _score(self, settings: Settings) -> float:
        if settings not in self.table:
            heats = self._heats_for(settings.iterations)
            pairs = zip(self._cases, heats, strict=True)
            values = [_f1(case, heat, settings) for case, heat in pairs]
            self.table[settings] = float(np.mean(values))
        return self.table[settings]

    def _heats_for(self, iterations: int) -> list[HeatMap]:
        if iterations not in self._heats:
            heats = [self._heat_of(case.image, iterations) for case in self._cases]
            self._heats[iterations] = heats
        return self._heats[iterations]


def apply(image: Image, heat: HeatMap, settings: Settings) -> Mask:
    """Turn heat into a mask as the settings say."""
    return refine.get(settings.refine).refine(
        image, heat, threshold=settings.threshold, min_area_px=settings.min_area_px
    )


def _f1(case: Case, heat: HeatMap, settings: Settings) -> float:
    return f_measure(apply(case.image, heat, settings), case.truth, TOLERANCE_PX)


def _with_thresholds(base: Sequence[Settings], thresholds: Sequence[float]) -> list[Settings]:
    return [replace(s, threshold=threshold) for s in base for threshold in thresholds]


def _fixed(settings: Settings, spec: ClassSpec) -> Settings:
    wanted = {name: getattr(spec, name) for name in ("iterations", "threshold", "min_area_px")}
    return replace(settings, **{k: v for k, v in wanted.items() if v is not None})


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
