"""One training and its proposals, measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import ImageError, LabelclimbError
from backend.evaluation.folders import Labelled, Pair
from backend.evaluation.machine import peak_memory_mib
from backend.evaluation.options import Options
from backend.evaluation.pictures import write_picture
from backend.evaluation.scoring import Figures, ImageScore, Tally
from models.base import (
    ClassProposal,
    ClassSpec,
    Fitted,
    HeatMap,
    NotEnoughLabels,
    Pipeline,
    Report,
    Sample,
)
from models.learning.training import TrainingDiverged


@dataclass(frozen=True)
class Trained:
    """A fitted pipeline with the seconds that it took, of the clock and of all threads."""

    fitted: Fitted
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Tested:
    """The figures on the test images; seconds: of each proposal; left_out: why, per image."""

    figures: Figures
    scores: tuple[ImageScore, ...]
    seconds: tuple[float, ...]
    true_share: float
    resized: int
    left_out: tuple[str, ...]
    peak_memory_mib: float


def train(
    pipeline: Pipeline, samples: Sequence[Sample], spec: ClassSpec, options: Options, report: Report
) -> Trained:
    """Fit the pipeline; raises LabelclimbError with the reason when it fails.

    NotEnoughLabels passes: another number of corrected masks may do.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        fitted = pipeline.fit(
            samples,
            specs=[spec],
            profile=options.profile,
            seed=options.seed,
            device=options.device,
            report=report,
        )
    except NotEnoughLabels:
        raise
    except (ValueError, TrainingDiverged) as error:
        raise LabelclimbError(f"the training failed: {error}") from error
    return Trained(fitted, time.perf_counter() - wall, time.process_time() - cpu)


def measure(
    fitted: Fitted, pairs: Iterable[Pair], spec: ClassSpec, pictures: Path | None
) -> Tested:
    """Propose for each image and compare; unreadable ones are left out.

    pictures: a folder for one picture per image. Raises LabelclimbError when none can be read.
    """
    tally = Tally()
    scores, seconds, left_out, resized = [], [], [], 0
    for pair in pairs:
        try:
            labelled = pair.read()
        except ImageError as error:
            left_out.append(str(error))
            continue
        began = time.perf_counter()
        proposal = _proposal(fitted, labelled, spec)
        seconds.append(time.perf_counter() - began)
        heat = _heat(proposal)
        score = tally.add(pair.name, proposal.mask, heat, labelled.truth)
        scores.append(score)
        resized += labelled.resized
        if pictures is not None:
            note = f"F1 {score.f1:.2f}, 2 px {score.f1_2px:.2f}"
            path = pictures / f"{pair.name}.jpg"
            write_picture(path, labelled.image, labelled.truth, heat, proposal.mask, note)
    if not scores:
        raise LabelclimbError(f"no test image can be read: {'; '.join(left_out[:3])}")
    return Tested(
        tally.figures(),
        tuple(scores),
        tuple(seconds),
        tally.true_share,
        resized,
        tuple(left_out),
        peak_memory_mib(),
    )


def settings_of(fitted: Fitted, class_name: str) -> Any:
    """Return what the training chose for the class; None when it does not say."""
    return fitted.metrics.get("classes", {}).get(class_name, {}).get("settings")


def _proposal(fitted: Fitted, labelled: Labelled, spec: ClassSpec) -> ClassProposal:
    proposed = fitted.propose(labelled.image, specs=[spec], heat=True).proposals
    if not proposed:
        about = fitted.metrics.get("classes", {}).get(spec.name, {})
        reason = about.get("skipped", "the training gave no reason")
        raise LabelclimbError(f"nothing is proposed for {spec.name!r}: {reason}")
    return proposed[0]


def _heat(proposal: ClassProposal) -> HeatMap:
    """Return the heat map; the mask itself where a pipeline makes none."""
    if proposal.heat is None:
        return proposal.mask.astype(np.float32)
    return proposal.heat
