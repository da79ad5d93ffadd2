"""Predicted edit seconds of a task that nobody has opened yet.

A ridge regression of log seconds on what the proposal looked like, without the annotators' paces,
refitted from all interactions each time it is asked, so that it is never older than they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from backend.loop.ordering import describing
from backend.loop.ordering.describing import heuristic_s
from backend.loop.ordering.regression import Model, fit
from backend.records import Interaction, TaskEvidence, Weighting
from strategies.base import FloatArray, IntArray, shuffle_keys
from strategies.reading.ranks import mean_ranks

NEEDED = 20  # timed annotations, before seconds are learned
FOLDS = 5
BELIEVED = 0.5  # least trust: seconds of those who did not look teach nothing about looking
COVERED = 0.8  # of the tasks take between the ends of their interval
HEURISTIC_SPAN = 3.0  # ends of the heuristic's interval, as a factor: it knows no better


@dataclass(frozen=True)
class Difficulty:
    """Predicted seconds by task, of an annotator of average pace, and what they rest on.

    intervals: {task: (low, high)}; COVERED of the annotations, whoever makes them, fall inside.
    error: cross-validated median of |ln(predicted / true)| as a factor (1.5: half of the
        annotations are predicted within 1.5 times), paces known; None while the heuristic serves.
    paces: {annotator: factor on the seconds}, above 1 = slower than the average.
    """

    seconds: Mapping[int, float]
    basis: str
    error: float | None = None
    intervals: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    paces: Mapping[int | None, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Timed:
    """Annotations whose seconds and shown evidence are known, by annotation id."""

    evidence: tuple[TaskEvidence, ...]
    seconds: FloatArray
    annotators: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.evidence)


def predict(
    evidence: Sequence[TaskEvidence],
    past: Sequence[Interaction] = (),
    past_evidence: Sequence[TaskEvidence] = (),
) -> Difficulty:
    """Return the predicted edit seconds of each task of `evidence`; all are above 0.

    Learned from NEEDED timed annotations on: those whose seconds are known and whose proposals'
    evidence is in `past_evidence`. Before, `describing.heuristic_s`. Raises ValueError for evidence
    that is not finite.
    """
    known = timed(past, past_evidence)
    if len(known) >= NEEDED:
        return _learned(evidence, known)
    basis = f"heuristic: {len(known)} of {NEEDED} timed annotations"
    seconds = {found.task: heuristic_s(found) for found in evidence}
    ends = {t: (s / HEURISTIC_SPAN, s * HEURISTIC_SPAN) for t, s in seconds.items()}
    return Difficulty(seconds, basis, intervals=ends)


def timed(past: Sequence[Interaction], past_evidence: Sequence[TaskEvidence]) -> Timed:
    """Return the annotations that have both seconds and evidence of the version that was shown.

    The seconds of an annotation are the sum over its interactions (see `interactions.derive`);
    annotations with less trust than BELIEVED are left out.
    """
    by_version = {(found.task, found.number): found for found in past_evidence}
    seconds: defaultdict[tuple[int, int, int], float] = defaultdict(float)
    people: dict[int, int | None] = {}
    for one in past:
        shown = (one.task, one.version) in by_version
        if one.edit_seconds is not None and shown and one.trust >= BELIEVED:
            seconds[one.annotation, one.task, one.version or 0] += one.edit_seconds
            people[one.annotation] = one.annotator
    rows = sorted(row for row, spent in seconds.items() if spent > 0)
    return Timed(
        tuple(by_version[task, number] for _, task, number in rows),
        np.array([seconds[row] for row in rows], dtype=np.float64),
        tuple(people[annotation] for annotation, _, _ in rows),
    )


def sample_weights(
    seconds: Mapping[str, float], weighting: Weighting, progress: float
) -> dict[str, float]:
    """Return {sample: weight in [0.5, 1.5]} for a training, mean 1, from predicted edit seconds.

    off: 1 for all. hard_first: 0.5 + the rank of the seconds in [0, 1]. curriculum: from the
    mirror image of that to that itself while `progress` goes from 0 to 1.
    """
    ranks = mean_ranks(np.array(list(seconds.values()), dtype=np.float64))
    slope = {"off": 0.0, "hard_first": 1.0, "curriculum": 2 * progress - 1}[weighting]
    middle = ranks.mean() if len(ranks) else 0.0
    weights = 1 + slope * (ranks - middle)
    return dict(zip(seconds, weights.tolist(), strict=True))


def _learned(evidence: Sequence[TaskEvidence], known: Timed) -> Difficulty:
    """Choose the description that predicts unseen tasks best, and predict with it."""
    target = np.log(known.seconds)
    folds = _folds(np.array([one.task for one in known.evidence], dtype=np.int64))
    tried = [
        (describe, _unseen(describe(known.evidence), target, known.annotators, folds))
        for describe in describing.descriptions([*known.evidence, *evidence])
    ]
    describe, unseen = min(tried, key=lambda one: float(np.median(np.abs(one[1].with_pace))))
    error = float(np.exp(np.median(np.abs(unseen.with_pace))))
    basis = f"learned from {len(known)} timed annotations; half are predicted within {error:.2f}x"
    model = fit(describe(known.evidence), target, known.annotators)
    paces = {person: float(np.exp(pace)) for person, pace in model.paces.items()}
    if not evidence:
        return Difficulty({}, basis, error, paces=paces)
    logs = _kept(model.predict(describe(evidence)), target)
    width = _quantile(np.abs(unseen.without_pace), COVERED)
    tasks = [found.task for found in evidence]
    values, low, high = (np.exp(logs + add).tolist() for add in (0, -width, width))
    ends = dict(zip(tasks, zip(low, high, strict=True), strict=True))
    return Difficulty(dict(zip(tasks, values, strict=True)), basis, error, ends, paces)


@dataclass(frozen=True)
class _Residuals:
    """(n,) log seconds minus their prediction by a model that has not seen the task."""

    with_pace: FloatArray
    without_pace: FloatArray


def _unseen(
    inputs: FloatArray,
    target: FloatArray,
    people: Sequence[int | None],
    folds: IntArray,
) -> _Residuals:
    without, pace = np.empty(len(target)), np.zeros(len(target))
    for fold in range(FOLDS):
        out: npt.NDArray[np.bool_] = folds == fold
        if not out.any():
            continue
        taught = [person for person, left in zip(people, out, strict=True) if not left]
        model: Model = fit(inputs[~out], target[~out], taught)
        without[out] = target[out] - _kept(model.predict(inputs[out]), target[~out])
        pace[out] = [model.paces.get(people[i], 0.0) for i in np.flatnonzero(out)]
    return _Residuals(without - pace, without)


def _folds(tasks: IntArray) -> IntArray:
    """Return (n,) the fold of each row; the rows of a task share one, so that none leaks."""
    names, rows = np.unique(tasks, return_inverse=True)
    places = shuffle_keys(names, np.random.default_rng(0)).argsort().argsort()
    folds: IntArray = places[rows] % FOLDS
    return folds


def _kept(logs: FloatArray, target: FloatArray) -> FloatArray:
    """No linear model extrapolates well: stay within what was seen."""
    return np.clip(logs, target.min(), target.max())


def _quantile(residuals: FloatArray, share: float) -> float:
    """Return the conformal quantile: the ceil(share (n + 1))-th smallest of n, the last at most."""
    place = min(len(residuals), int(np.ceil(share * (len(residuals) + 1)))) - 1
    return float(np.sort(residuals)[place])
