"""The walk through the settings of a class, judged by verified masks.

Refinement and threshold first, then climbs, the scale, the closing, the smallest area, and the
threshold once more. What is found must beat the rule by a gain that shrinks with the number of
masks; while they are few, also by more than twice its own standard error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from models import refine
from models.base import ClassSpec, HeatMap, Image, Mask
from models.masks.confidence import Proposed
from models.masks.settings import Settings, apply, default_settings
from models.metrics import Matches, matches
from models.refine import Cut
from models.refine.threshold import finish

THIN_PX = 8  # classes up to this wide are judged with TOLERANCE_PX, others without
TOLERANCE_PX = 2
LEAST_MASKS = 4  # with the class present; fewer decide nothing
TRUSTED_MASKS = 15  # from here on a gain need not exceed its standard error
STANDARD_ERRORS = 2  # that it must exceed below
LEAST_GAIN = 0.02  # with LEAST_MASKS; falls with their number
COSTLY_IMAGES, COSTLY_PX = 10, 3_000_000  # climbs and slow refinements: the first, within both
SCALE_FACTORS = (0.5, 2.0)  # times the width at hand
AREA_FACTORS = (0.25, 0.5, 2.0, 4.0)  # times the area at hand

Seen = tuple[HeatMap, float]  # and the score that the class is present
HeatAndScoreOf = Callable[[Image, int], Seen]  # image, iterations
Clock = Callable[[], float]  # seconds


@dataclass(frozen=True)
class Case:
    """One image with the verified mask of the class."""

    image: Image
    truth: Mask


class Search:
    """A walk through the settings; `tried` holds how each image matched under each of them.

    Climbs, which cost three times a CAM, and slow refinements are tried on the first images only;
    two settings are compared on the images that both have seen.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        width_px: float,
        heat_and_score_of: HeatAndScoreOf,
        iterations: Sequence[int],
        clock: Clock,
    ) -> None:
        self.tolerance_px = TOLERANCE_PX if width_px <= THIN_PX else 0
        self.measure = "f1_2px" if self.tolerance_px else "f1"
        self.tried: dict[Settings, list[Matches]] = {}
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._cases = cases
        self._width_px = width_px
        self._iterations = iterations
        self._heat_and_score_of = heat_and_score_of
        self._clock = clock
        self._truths = [case.truth for case in cases]
        self._heats: defaultdict[int, list[Seen]] = defaultdict(list)
        self._prepared: tuple[object, list[Cut]] = (None, [])
        self._cut: tuple[object, list[Mask]] = (None, [])

    def run(self, rule: Settings, spec: ClassSpec, thresholds: Sequence[float]) -> Settings:
        """Return the best settings, or the rule's when nothing gains enough over them."""
        least = min(self._iterations) if spec.iterations is None else spec.iterations
        starts = [
            replace(default_settings(replace(spec, refine=method)), iterations=least)
            for method in self._methods(spec)
        ]
        starts = [replace(start, width_px=rule.width_px) for start in starts]
        best = self._refinement(starts, spec, thresholds)
        if spec.iterations is None:
            for number in (n for n in self._iterations if n > least):
                climbed = self._near(replace(best, iterations=number), spec, thresholds)
                best = self._preferred(self._best(climbed), best)
        best = self._sizes(best, spec)
        best = self._best([best, *_finer(best, spec, thresholds)])
        return self._preferred(best, rule)

    def value(self, settings: Settings) -> float:
        """Return the mean F-measure of the images, of compact classes half of it pooled."""
        return self._objective(self._matches(settings))

    def row(self, settings: Settings) -> dict[str, Any]:
        """Describe what was tried."""
        found = self.tried[settings]
        return {**asdict(settings), self.measure: self._objective(found), "masks": len(found)}

    def proposals(self, settings: Settings) -> list[Proposed]:
        """Propose for each image as the settings say."""
        pairs = zip(self._cases, self._seen(settings), strict=False)
        return [
            Proposed(apply(case.image, heat, settings), heat, score, case.truth)
            for case, (heat, score) in pairs
        ]

    def _methods(self, spec: ClassSpec) -> tuple[str, ...]:
        if spec.refine is not None:
            return (spec.refine,)
        return tuple(
            name
            for name in refine.names()
            if refine.get(name).least_width_px <= self._width_px <= refine.get(name).most_width_px
        )

    def _refinement(
        self, starts: Sequence[Settings], spec: ClassSpec, thresholds: Sequence[float]
    ) -> Settings:
        """Choose refinement and threshold; slow ones see few thresholds."""
        quick = [s for s in starts if not refine.get(s.refine).is_slow] or starts
        tops = [self._best(_with_thresholds(start, spec, thresholds)) for start in quick]
        for top in sorted(tops, key=self.value, reverse=True)[:2]:
            tops += _finer(top, spec, thresholds)
        best = self._best(tops)
        for slow in (s for s in starts if s not in quick):
            level = replace(slow, threshold=best.threshold)
            best = self._preferred(self._best(self._near(level, spec, thresholds)), best)
        return best

    def _near(
        self, settings: Settings, spec: ClassSpec, thresholds: Sequence[float]
    ) -> list[Settings]:
        """Return the settings with the threshold at hand, the next below and the next above."""
        below = [t for t in thresholds if t < settings.threshold][-1:]
        above = [t for t in thresholds if t > settings.threshold][:1]
        return _with_thresholds(settings, spec, [settings.threshold, *below, *above])

    def _sizes(self, best: Settings, spec: ClassSpec) -> Settings:
        """Choose the scale, the closing and the smallest area, one after the other."""
        width_px = best.width_px
        method = refine.get(best.refine)
        if width_px is not None and method.is_scaled and not method.is_slow:
            widths_px = [width_px * factor for factor in SCALE_FACTORS]
            best = self._best([best, *(replace(best, width_px=w) for w in widths_px)])
        if spec.closing_px is None:
            closing_px = method.closing_for(best.width_px)
            diameters_px = (1, closing_px // 2 | 1, 2 * closing_px + 1)
            best = self._best([best, *(replace(best, closing_px=d) for d in diameters_px)])
        if spec.min_area_px is None:
            areas_px = [round(best.min_area_px * factor) for factor in AREA_FACTORS]
            best = self._best([best, *(replace(best, min_area_px=area) for area in areas_px)])
        return best

    def _preferred(self, challenger: Settings, holder: Settings) -> Settings:
        """Let the challenger win by enough; fewer iterations win unless they lose as much."""
        pairs = list(zip(self._matches(challenger), self._matches(holder), strict=False))
        ours, theirs = zip(*pairs, strict=True)
        masks = sum(one.true > 0 for one in ours)
        needed = LEAST_GAIN * LEAST_MASKS / max(masks, LEAST_MASKS)
        if masks < TRUSTED_MASKS:
            gains = [one.f_measure - other.f_measure for one, other in pairs]
            error = float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
            needed = max(needed, STANDARD_ERRORS * error)
        saves_time = challenger.iterations < holder.iterations
        gain = self._objective(ours) - self._objective(theirs)
        return challenger if gain >= (-needed if saves_time else needed) else holder

    def _best(self, candidates: Sequence[Settings]) -> Settings:
        return max(candidates, key=self.value)  # the first of equals

    def _matches(self, settings: Settings) -> list[Matches]:
        if settings not in self.tried:
            seen = self._seen(settings)
            began = self._clock()
            closing_px = settings.closing_px
            if closing_px is None:
                closing_px = refine.get(settings.refine).closing_for(settings.width_px)
            self.tried[settings] = [
                matches(finish(mask, closing_px, settings.min_area_px), truth, self.tolerance_px)
                for mask, truth in zip(self._masks(settings, seen), self._truths, strict=False)
            ]
            self.seconds[settings.refine] += self._clock() - began
        return self.tried[settings]

    def _masks(self, settings: Settings, seen: Sequence[Seen]) -> list[Mask]:
        """Cut once for all settings in a row that differ in closing and area alone."""
        key = replace(settings, closing_px=None, min_area_px=0)
        if self._cut[0] != key:
            self._cut = key, [cut(settings.threshold) for cut in self._cuts(settings, seen)]
        return self._cut[1]

    def _cuts(self, settings: Settings, seen: Sequence[Seen]) -> list[Cut]:
        """Prepare the refinement once for all settings in a row that differ in other things."""
        key = replace(settings, closing_px=None, min_area_px=0, threshold=0)
        if self._prepared[0] != key:
            prepare = refine.get(settings.refine).prepare
            pairs = zip(self._cases, seen, strict=False)
            self._prepared = (
                key,
                [
                    prepare(case.image, heat, width_px=settings.width_px)
                    for case, (heat, _) in pairs
                ],
            )
        return self._prepared[1]

    def _objective(self, found: Sequence[Matches]) -> float:
        """Thin masks are not pooled: one loosely filled curve would outweigh all the others."""
        mean = float(np.mean([one.f_measure for one in found]))
        return mean if self.tolerance_px else (mean + sum(found, Matches()).f_measure) / 2

    def _seen(self, settings: Settings) -> list[Seen]:
        """Return heat and score of all images, of the first ones where they cost much."""
        known = self._heats[settings.iterations]
        costly = settings.iterations > 1 or refine.get(settings.refine).is_slow
        wanted = _first(self._cases) if costly else self._cases
        for case in wanted[len(known) :]:
            known.append(self._heat_and_score_of(case.image, settings.iterations))
        return known[: len(wanted)]


def _with_thresholds(
    settings: Settings, spec: ClassSpec, thresholds: Sequence[float]
) -> list[Settings]:
    if spec.threshold is not None:
        return [settings]
    return [replace(settings, threshold=threshold) for threshold in thresholds]


def _finer(settings: Settings, spec: ClassSpec, thresholds: Sequence[float]) -> list[Settings]:
    """Return the settings with thresholds in thirds of the way to the next below and above."""
    here = settings.threshold
    below = max((t for t in thresholds if t < here), default=0.0)
    above = min((t for t in thresholds if t > here), default=1.0)
    thirds = [here + (end - here) * part / 3 for end in (below, above) for part in (1, 2)]
    return _with_thresholds(settings, spec, [round(t, 4) for t in thirds])


def _first(cases: Sequence[Case]) -> Sequence[Case]:
    """Return the first cases within the bounds of costly settings, at least two."""
    total_px = np.cumsum([case.truth.size for case in cases[:COSTLY_IMAGES]])
    return cases[: max(2, int(np.searchsorted(total_px, COSTLY_PX, side="right")))]
