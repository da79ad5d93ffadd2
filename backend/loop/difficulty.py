"""Predicted edit seconds of a task that nobody has opened yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from backend.records import Interaction, TaskEvidence
from strategies.base import FloatArray, require_finite
from strategies.entropy import bernoulli_entropy

NEEDED = 20  # timed annotations, before seconds are learned
LOOK_S = 4.0  # to look at an image and submit
PART_S = 1.5  # to check one component of a proposal
OUTLINE_S_PER_PX = 0.01  # to follow an outline, for the share of it that will be wrong
FOLDS = 5
RIDGE = 1.0


@dataclass(frozen=True)
class Difficulty:
    """Predicted seconds by task, and what they rest on.

    error: cross-validated median of |ln(predicted / true)| as a factor (1.5: half of the tasks
    are predicted within 1.5 times), None while the heuristic serves.
    """

    seconds: Mapping[int, float]
    basis: str
    error: float | None = None


def predict(
    evidence: Sequence[TaskEvidence],
    past: Sequence[Interaction] = (),
    past_evidence: Sequence[TaskEvidence] = (),
) -> Difficulty:
    """Return the predicted edit seconds of each task of `evidence`; all are above 0.

    Learned by a ridge regression of log seconds from NEEDED timed annotations on: those whose
    seconds are known and whose proposals' evidence is in `past_evidence`. Before, `heuristic_s`.
    Raises ValueError for evidence that is not finite.
    """
    known, seconds = timed(past, past_evidence)
    if len(known) < NEEDED:
        basis = f"heuristic: {len(known)} of {NEEDED} timed annotations"
        return Difficulty({found.task: heuristic_s(found) for found in evidence}, basis)
    return _learned(evidence, known, seconds)


def timed(
    past: Sequence[Interaction], past_evidence: Sequence[TaskEvidence]
) -> tuple[list[TaskEvidence], FloatArray]:
    """Return the evidence and seconds of the annotations that have both, by annotation id.

    The seconds of an annotation are the sum over its interactions (see `interactions.derive`).
    """
    by_version = {(found.task, found.number): found for found in past_evidence}
    seconds: defaultdict[tuple[int, int, int], float] = defaultdict(float)
    for one in past:
        if one.edit_seconds is not None and (one.task, one.version) in by_version:
            seconds[one.annotation, one.task, one.version or 0] += one.edit_seconds
    rows = sorted(seconds)
    known = [by_version[task, number] for _, task, number in rows]
    return known, np.array([seconds[row] for row in rows], dtype=np.float64)


def heuristic_s(found: TaskEvidence) -> float:
    """Return seconds: look + parts to check + outline to follow, as far as it is doubtful.

    LOOK_S + sum over classes of PART_S * components + OUTLINE_S_PER_PX * outline_px * doubt, with
    doubt in [0, 1] = the mean entropy of the task's windows in units of ln 2, at least 0.1.
    """
    _, outline_px, components = _totals(found)
    seconds = LOOK_S + PART_S * components
    return float(seconds + OUTLINE_S_PER_PX * outline_px * max(0.1, features(found)[-1]))


def features(found: TaskEvidence) -> FloatArray:
    """Return (4,): log1p of area_px, outline_px and components over all classes, and the doubt."""
    probs = np.asarray(found.tile_probs, dtype=np.float64)
    doubt = bernoulli_entropy(probs).mean() / np.log(2) if probs.size else 0.0
    row: FloatArray = np.array([*np.log1p(_totals(found)), doubt])
    require_finite(row, f"features of task {found.task}", "predict the task again")
    return row


def _totals(found: TaskEvidence) -> tuple[float, float, float]:
    """Return area_px, outline_px and components, summed over classes."""
    area_px, outline_px, components = (
        sum(stats[name] for stats in found.stats.values())
        for name in ("area_px", "outline_px", "components")
    )
    return area_px, outline_px, components


def _learned(
    evidence: Sequence[TaskEvidence], known: Sequence[TaskEvidence], seconds: FloatArray
) -> Difficulty:
    model = make_pipeline(StandardScaler(), Ridge(alpha=RIDGE))
    inputs, target = np.stack([features(found) for found in known]), np.log(seconds)
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    guesses = cross_val_predict(model, inputs, target, cv=folds)
    error = float(np.exp(np.median(np.abs(guesses - target))))
    basis = f"learned from {len(known)} timed annotations; half are predicted within {error:.2f}x"
    if not evidence:
        return Difficulty({}, basis, error)
    model.fit(inputs, target)
    logs = model.predict(np.stack([features(found) for found in evidence]))
    kept = np.exp(np.clip(logs, target.min(), target.max()))  # no linear model extrapolates well
    pairs = zip(evidence, kept.tolist(), strict=True)
    return Difficulty({found.task: value for found, value in pairs}, basis, error)
