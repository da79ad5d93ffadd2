"""What a proposal looks like, in numbers that say how long it takes to correct."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from backend.records import TaskEvidence
from strategies.base import FloatArray, require_finite
from strategies.entropy import bernoulli_entropy

LOOK_S = 4.0  # to look at an image and submit
PART_S = 1.5  # to check one component of a proposal
OUTLINE_S_PER_PX = 0.01  # to follow an outline, for the share of it that will be wrong
COMPONENTS = 6  # of an embedding that are kept
UNCERTAIN = (0.25, 0.75)  # a window with a probability in between is uncertain

UNKNOWN = 0.5  # sharpness of a heat map, doubt of an outline, where a pipeline does not report it

Describe = Callable[[Sequence[TaskEvidence]], FloatArray]  # n tasks -> (n, F)


def heuristic_s(found: TaskEvidence) -> float:
    """Return seconds: look + parts to check + outline to follow, as far as it is doubtful.

    LOOK_S + sum over classes of PART_S * components + OUTLINE_S_PER_PX * outline_px * doubt, with
    doubt in [0, 1] = the mean entropy of the task's windows in units of ln 2, at least 0.1.
    """
    seconds = LOOK_S + PART_S * total(found, "components")
    return seconds + OUTLINE_S_PER_PX * total(found, "outline_px") * max(0.1, doubt(found))


def doubt(found: TaskEvidence) -> float:
    """Return the mean entropy of the windows and classes in units of ln 2; raises ValueError."""
    probs = np.asarray(found.tile_probs, dtype=np.float64)
    mean = np.array([bernoulli_entropy(probs).mean() / np.log(2) if probs.size else 0.0])
    require_finite(mean, f"mean entropies of task {found.task}", "predict the task again")
    return float(mean[0])


def uncertain_windows(found: TaskEvidence) -> int:
    """Count the windows of which some class is neither probably there nor probably not."""
    probs = np.asarray(found.tile_probs, dtype=np.float64)
    low, high = UNCERTAIN
    return int(((probs > low) & (probs < high)).any(axis=1).sum()) if probs.size else 0


def total(found: TaskEvidence, name: str) -> float:
    """Return a figure of the proposals, summed over classes."""
    return float(sum(stats[name] for stats in found.stats.values()))


def pixel_doubt(found: TaskEvidence) -> float | None:
    """Return the mean entropy of the pixels along the proposed outlines, in [0, 1] (ln 2 = 1).

    `models.evidence.outline_doubt` of each class; None where the version did not compute it.
    """
    known = all("outline_doubt" in stats for stats in found.stats.values())
    return _mean(found, "outline_doubt") if known else None


def _mean(found: TaskEvidence, name: str) -> float:
    """Return a figure in [0, 1] of the proposals, classes weighted by the length of their outlines.

    Where nothing is proposed, the plain mean over classes, 0 without classes.
    """
    if not found.stats:
        return 0.0
    values = [stats.get(name, UNKNOWN) for stats in found.stats.values()]
    outlines = [stats["outline_px"] for stats in found.stats.values()]
    chosen = outlines if sum(outlines) > 0 else None
    return float(np.clip(np.average(values, weights=chosen), 0, 1))


def features(found: TaskEvidence, classes: Sequence[str]) -> FloatArray:
    """Return (10 + len(classes),): the heuristic and its parts, shape, doubt, and what is there.

    ln heuristic seconds, log1p of area_px, outline_px and components, thinness (outline / area, in
    [0, 1]), the heat maps' sharpness, doubt along the outlines, mean doubt of windows, log1p of
    uncertain windows and their share; then for each class whether anything of it is proposed.
    Raises ValueError if not finite.
    """
    area_px, outline_px = total(found, "area_px"), total(found, "outline_px")
    uncertain = uncertain_windows(found)
    row: FloatArray = np.array(
        [
            np.log(heuristic_s(found)),
            *np.log1p([area_px, outline_px, total(found, "components")]),
            outline_px / max(1.0, area_px),
            _mean(found, "heat_sharpness"),
            _mean(found, "outline_doubt"),
            doubt(found),
            np.log1p(uncertain),
            uncertain / max(1, len(found.tile_probs)),
            *(float(found.stats.get(name, {}).get("area_px", 0.0) > 0) for name in classes),
        ]
    )
    require_finite(row, f"features of task {found.task}", "predict the task again")
    return row


def descriptions(evidence: Sequence[TaskEvidence]) -> list[Describe]:
    """Return the ways to describe these tasks: by the proposal, and by it and the embedding.

    The embedding is reduced to COMPONENTS principal components of all of them, and left out when
    the tasks' versions have embeddings of different lengths.
    """
    classes = sorted({name for found in evidence for name in found.stats})

    def by_proposal(chosen: Sequence[TaskEvidence]) -> FloatArray:
        return np.stack([features(found, classes) for found in chosen])

    widths = {len(found.embedding) for found in evidence}
    if len(widths) != 1 or widths == {0}:
        return [by_proposal]
    reduce = _reduction(_embeddings(evidence))

    def with_embedding(chosen: Sequence[TaskEvidence]) -> FloatArray:
        return np.hstack([by_proposal(chosen), reduce(_embeddings(chosen))])

    return [by_proposal, with_embedding]


def _embeddings(evidence: Sequence[TaskEvidence]) -> FloatArray:
    vectors: FloatArray = np.array([found.embedding for found in evidence], dtype=np.float64)
    require_finite(vectors, "values of the embeddings", "predict the tasks again")
    return vectors


def _reduction(vectors: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Return the projection (n, D) -> (n, at most COMPONENTS) on the principal components."""
    mean = vectors.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(vectors - mean, rowvar=False).reshape(len(mean), len(mean)))
    main = axes[:, ::-1][:, :COMPONENTS]
    return lambda chosen: (chosen - mean) @ main
