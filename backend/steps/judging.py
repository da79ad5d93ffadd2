"""The gate's two sides: a challenger and the champion on tasks that no training has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.loop import gate
from backend.wiring import Services
from models.base import Fitted
from models.pipelines.auto import AutoFitted, combine

if TYPE_CHECKING:
    from backend.steps.train import TrainingSet


def judged(
    services: Services, training_set: TrainingSet, champion: Fitted | None, challenger: Fitted
) -> tuple[Fitted, gate.Verdict]:
    """Let the challenger pass the gate; classes in which it is worse stay the champion's.

    Of two composites, that is: other versions have no parts to be mixed.
    """
    before = _scores(champion, training_set) if champion else None
    after, seed = _scores(challenger, training_set), services.settings.seed
    if isinstance(champion, AutoFitted) and isinstance(challenger, AutoFitted):
        choice = gate.choose(before, after, separable=champion.classes, seed=seed)
        winner = combine(champion, challenger, choice.kept) if choice.kept else challenger
        return winner, choice.verdict
    return challenger, gate.judge(before, after, seed=seed)


def _scores(fitted: Fitted, training_set: TrainingSet) -> list[gate.TaskScore]:
    """Score a version on the held-out tasks whose masks a person has verified."""
    scores = []
    for sample in training_set.held_out:
        if not sample.masks:
            continue
        specs = [spec for spec in training_set.specs if spec.name in sample.masks]
        image = sample.load()
        proposed = {p.class_name: p for p in fitted.propose(image, specs=specs).proposals}
        for spec in specs:
            truth = sample.masks[spec.name]()
            scores.append(gate.score(sample.key, spec.name, proposed.get(spec.name), truth))
    return scores
