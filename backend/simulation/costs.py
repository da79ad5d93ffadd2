"""What a task costs its annotator in seconds: by the stated model, or as a project's people took.

Neither is a measurement of the people who would do this work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backend.errors import SettingsError
from backend.loop import difficulty
from backend.loop.ordering.describing import LOOK_S
from backend.records import Interaction, TaskEvidence
from backend.simulation.labels import Shown
from models.base import Mask
from models.masks.correction import correction, draw_s

Seconds = Callable[[Shown | None, Mask], float]  # what is shown, the truth -> above 0


@dataclass(frozen=True)
class Cost:
    """A cost model and what it says of itself."""

    seconds: Seconds
    basis: str


def stated() -> Cost:
    """Return the model of `models.masks.correction`, and LOOK_S to look at the image."""

    def seconds(shown: Shown | None, truth: Mask) -> float:
        if shown is None:
            return LOOK_S + draw_s(truth)
        return LOOK_S + correction(shown.mask, truth).cost_s

    return Cost(
        seconds,
        f"stated: {LOOK_S:g} s to look, and the cheaper of correcting the proposal and drawing "
        "anew (models.masks.correction); nobody was timed",
    )


def of_project(past: Sequence[Interaction], past_evidence: Sequence[TaskEvidence]) -> Cost:
    """Return what a project's people took for proposals that looked alike (`loop.difficulty`).

    Without embeddings, which differ from version to version. A task without a proposal costs what
    the stated model says. Raises SettingsError below the timed annotations that learning needs.
    """
    seen = [replace(found, embedding=()) for found in past_evidence]
    known = len(difficulty.timed(past, seen))
    if known < difficulty.NEEDED:
        raise SettingsError(
            f"the project has {known} timed annotations and {difficulty.NEEDED} are needed to "
            "learn seconds from them; leave --project out to use the stated cost model"
        )
    without_proposal = stated().seconds

    def seconds(shown: Shown | None, truth: Mask) -> float:
        if shown is None:
            return without_proposal(None, truth)
        return difficulty.predict([shown.evidence], past, seen).seconds[shown.evidence.task]

    basis = difficulty.predict((), past, seen).basis
    return Cost(seconds, f"fitted on the project's real seconds: {basis}")
