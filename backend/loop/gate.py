"""Whether a challenger replaces the champion, judged on tasks that no training has seen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.loop import calibrated
from backend.loop.calibrated import Sure
from models.base import ClassProposal, Mask
from models.masks.correction import TOLERANCE_PX, correction

MIN_TASKS = 5  # below it resampling says nothing and a simple rule judges
WORSE_COST = 1.5
WORSE_F = 0.05
CLASS_FLOOR = 0.05  # no class may lose more of its mean F-measure
CHEAPER = 0.6  # share of resamples in which the challenger must cost no more
RESAMPLES = 2000

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TaskScore:
    """How a version did for one class of one validation task; see `models.masks.correction`.

    regions: the confidence of each proposed region, and whether it was right.
    """

    task: str
    class_name: str
    cost_s: float
    f: float
    f_strict: float
    regions: tuple[Sure, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether to promote, why in one sentence, and the JSON-able figures it rests on."""

    promote: bool
    reason: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as the store keeps it."""
        return asdict(self)


def is_validation(project: int, image_key: str, share: float = 0.2) -> bool:
    """Say whether an image is kept from all trainings; the hash never changes its mind."""
    digest = hashlib.sha256(f"{project}/{image_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


def score(task: str, class_name: str, proposal: ClassProposal | None, final: Mask) -> TaskScore:
    """Score a proposal, None = nothing, against the mask that a person left, (H, W) bool."""
    mask = np.zeros_like(final) if proposal is None else proposal.mask
    found = correction(mask, final)
    regions = () if proposal is None else calibrated.of_regions(mask, proposal.regions, final)
    return TaskScore(task, class_name, found.cost_s, found.f, found.f_strict, regions)


def judge(
    champion: Sequence[TaskScore] | None,
    challenger: Sequence[TaskScore],
    *,
    seed: int,
    min_tasks: int = MIN_TASKS,
) -> Verdict:
    """Compare on the (task, class) pairs that both have; champion None: there is no version yet.

    A first version, and one without validation tasks, is promoted; one that is worse on every
    task, and better on none, is not. With fewer than `min_tasks` tasks the challenger, which knows
    more labels, is promoted unless its mean F-measure is more than WORSE_F below, or its mean cost
    exceeds WORSE_COST times the champion's without any gain in F-measure. From there on it must
    cost no more in a share CHEAPER of paired bootstrap resamples of tasks (Efron, 1979), not be
    clearly (95 %) worse in F-measure or in the calibration of its regions' confidences
    (`calibrated`), and keep every class within CLASS_FLOOR. Figures that are not finite never
    promote.
    """
    wrong = sum(not _finite(one) for one in challenger)
    if wrong:
        reason = f"{wrong} of {len(challenger)} validation figures are not finite"
        return Verdict(False, reason, {"not_finite": wrong})
    if champion is None:
        return Verdict(True, "first version", {"challenger": _means(challenger)})
    pairs = _paired(champion, challenger)
    if not pairs:
        return Verdict(True, "no validation tasks with verified masks yet", {"tasks": 0})
    before, after = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    figures: dict[str, Any] = {
        "tasks": len({one.task for one in after}),
        "champion": _means(before),
        "challenger": _means(after),
    }
    if _is_dominated(before, after):
        figures["rule"] = "dominated"
        means = _sentence(figures["champion"], figures["challenger"])
        reason = f"worse on every one of {figures['tasks']} validation task(s): {means}"
        return Verdict(False, reason, figures)
    if figures["tasks"] < min_tasks:
        return _simple(figures)
    return _tested(before, after, figures, seed)


@dataclass(frozen=True)
class Choice:
    """The verdict, and the classes that the version in question takes over from the champion."""

    verdict: Verdict
    kept: tuple[str, ...] = ()


def choose(
    champion: Sequence[TaskScore] | None,
    challenger: Sequence[TaskScore],
    *,
    separable: Collection[str],
    seed: int,
    min_tasks: int = MIN_TASKS,
) -> Choice:
    """Judge the challenger, and where it is worse in some classes alone, keep the champion's there.

    separable: classes whose part of the champion can be taken over; none = `judge` as a whole.
    A class is judged by itself on at least `min_tasks` tasks of its own, and is kept if the
    challenger fails there. The mixture must then pass against the champion like any challenger;
    if it does not, the challenger as a whole is judged.
    """
    whole = judge(champion, challenger, seed=seed, min_tasks=min_tasks)
    verdicts = _by_class(champion or (), challenger, separable, seed, min_tasks)
    kept = tuple(name for name, verdict in verdicts.items() if not verdict.promote)
    hopeless = whole.figures.get("rule") == "dominated"
    all_kept = len(kept) == len({one.class_name for one in challenger})
    if champion is None or not kept or all_kept or hopeless:
        return Choice(whole)
    own = [one for one in champion if one.class_name in kept]
    others = [one for one in challenger if one.class_name not in kept]
    mixed = judge(champion, own + others, seed=seed, min_tasks=min_tasks)
    if not mixed.promote:
        return Choice(whole)
    by_class = {name: verdict.reason for name, verdict in verdicts.items()}
    figures = {**mixed.figures, "kept": list(kept), "by_class": by_class, "whole": whole.reason}
    reason = f"keeps the champion's {', '.join(kept)}; {mixed.reason}"
    return Choice(replace(mixed, reason=reason, figures=figures), kept)


def _by_class(
    champion: Sequence[TaskScore],
    challenger: Sequence[TaskScore],
    separable: Collection[str],
    seed: int,
    min_tasks: int,
) -> dict[str, Verdict]:
    """Judge each separable class with enough tasks by itself; a bad figure judges none."""
    if not all(_finite(one) for one in challenger):
        return {}
    pairs = _paired(champion, challenger)
    verdicts = {}
    for name in sorted({after.class_name for _, after in pairs}.intersection(separable)):
        before, after = zip(*(p for p in pairs if p[0].class_name == name), strict=True)
        if len(after) >= min_tasks:
            verdicts[name] = judge(before, after, seed=seed, min_tasks=min_tasks)
    return verdicts


def _finite(one: TaskScore) -> bool:
    confidences = (confidence for confidence, _ in one.regions)
    return all(math.isfinite(value) for value in (one.cost_s, one.f, one.f_strict, *confidences))


def _is_dominated(before: Sequence[TaskScore], after: Sequence[TaskScore]) -> bool:
    """Say whether the second is better nowhere, and worse somewhere on every task."""
    pairs = list(zip(before, after, strict=True))
    if any(a.cost_s < b.cost_s or a.f > b.f for b, a in pairs):
        return False
    worse = {a.task for b, a in pairs if a.cost_s > b.cost_s or a.f < b.f}
    return worse == {a.task for _, a in pairs}


def _paired(
    champion: Sequence[TaskScore], challenger: Sequence[TaskScore]
) -> list[tuple[TaskScore, TaskScore]]:
    """Pair by (task, class), sorted; a champion's score that is not finite pairs with nothing."""
    known = {(one.task, one.class_name): one for one in champion if _finite(one)}
    news = {(one.task, one.class_name): one for one in challenger}
    return [(known[key], news[key]) for key in sorted(known.keys() & news.keys())]


def _means(scores: Sequence[TaskScore]) -> dict[str, Any]:
    """Return mean cost and F-measures, and the F-measure by class; {} without scores."""
    if not scores:
        return {}
    names = sorted({one.class_name for one in scores})
    return {
        "cost_s": float(np.mean([one.cost_s for one in scores])),
        "f": float(np.mean([one.f for one in scores])),
        "f_strict": float(np.mean([one.f_strict for one in scores])),
        "f_by_class": {
            name: float(np.mean([one.f for one in scores if one.class_name == name]))
            for name in names
        },
        "calibration": calibrated.figures([sure for one in scores for sure in one.regions]),
    }


def _simple(figures: dict[str, Any]) -> Verdict:
    before, after = figures["champion"], figures["challenger"]
    dearer = after["cost_s"] > WORSE_COST * before["cost_s"]
    gain = after["f"] - before["f"]
    clearly_worse = gain < -WORSE_F or (dearer and gain <= 0.0)
    word = "clearly worse" if clearly_worse else "not clearly worse"
    reason = f"{word} on {figures['tasks']} validation task(s): {_sentence(before, after)}"
    return Verdict(not clearly_worse, reason, {**figures, "rule": "simple"})


def _tested(
    before: Sequence[TaskScore],
    after: Sequence[TaskScore],
    figures: dict[str, Any],
    seed: int,
) -> Verdict:
    tasks = [one.task for one in after]
    costs = _differences(tasks, [b.cost_s - a.cost_s for b, a in zip(before, after, strict=True)])
    fs = _differences(tasks, [a.f - b.f for b, a in zip(before, after, strict=True)])
    drawn = np.random.default_rng(seed).integers(0, len(costs), (RESAMPLES, len(costs)))
    cheaper = float((costs[drawn].mean(axis=1) >= 0).mean())
    f_high = float(np.quantile(fs[drawn].mean(axis=1), 0.95))
    lost = _below_floor(figures["champion"], figures["challenger"])
    sure = calibrated.compare(_regions(before), _regions(after), drawn)
    objections = _objections(cheaper, f_high, lost)
    if sure is not None and sure.is_clearly_worse:
        rise = f"{sure.ece_rise:.2f} ({calibrated.WORSE_ECE} allowed)"
        objections.append(f"the calibration error of its confidences rose by {rise}")
    figures = {**figures, "rule": "bootstrap", "cheaper": cheaper, "f_gain_upper": f_high}
    figures |= {"below_floor": lost, "calibration": None if sure is None else asdict(sure)}
    means = _sentence(figures["champion"], figures["challenger"])
    verdict = "; ".join(objections) or f"costs no more in {cheaper:.0%} of resamples"
    reason = f"{verdict}, on {figures['tasks']} validation tasks: {means}"
    return Verdict(not objections, reason, figures)


def _differences(tasks: Sequence[str], gains: Sequence[float]) -> Values:
    """Return the mean gain of each task: classes of one image are not independent."""
    names, rows = np.unique(np.array(tasks), return_inverse=True)
    sums = np.bincount(rows, weights=np.array(gains, dtype=np.float64), minlength=len(names))
    means: Values = sums / np.bincount(rows, minlength=len(names))
    return means


def _regions(scores: Sequence[TaskScore]) -> list[list[Sure]]:
    """Return the regions of each task, of all its classes, in the order of the tasks' names."""
    by_task: dict[str, list[Sure]] = {one.task: [] for one in scores}
    for one in scores:
        by_task[one.task] += one.regions
    return [by_task[task] for task in sorted(by_task)]


def _below_floor(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old, new = before["f_by_class"], after["f_by_class"]
    return [name for name in old if new[name] < old[name] - CLASS_FLOOR]


def _objections(cheaper: float, f_high: float, lost: Sequence[str]) -> list[str]:
    found = []
    if cheaper < CHEAPER:
        found.append(f"costs no more in only {cheaper:.0%} of resamples ({CHEAPER:.0%} needed)")
    if f_high < 0:
        found.append("its F-measure is clearly lower")
    if lost:
        found.append(f"{', '.join(lost)} lost more than {CLASS_FLOOR} of F-measure")
    return found


def _sentence(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    return (
        f"predicted correction {before['cost_s']:.1f} s -> {after['cost_s']:.1f} s, "
        f"{TOLERANCE_PX}-px F {before['f']:.3f} -> {after['f']:.3f}"
    )
