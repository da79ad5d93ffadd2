"""What a training starts from: the champion's weights, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.labelstudio import config as label_config
from backend.loop import policy
from backend.records import Project
from backend.store import versions
from backend.wiring import Services
from models.base import Sample

START = "start"  # key of a version's metrics: what its own training started from, and on how much


def choose(
    services: Services, project: Project, samples: Sequence[Sample], encoder: str
) -> policy.Start:
    """Ask the policy whether to train on from the champion or afresh."""
    with services.store.reading() as tx:
        champion = versions.champion(tx, project.id)
        made = [version.number for version in versions.list(tx, project.id)]
    about: dict[str, Any] = champion.metrics.get(START, {}) if champion else {}
    state = policy.StartState(
        number=max(made, default=0) + 1,
        classes=_trainable(project, samples),
        encoder=encoder,
        champion_classes=frozenset(about.get("classes", champion.classes)) if champion else None,
        champion_encoder=about.get("encoder"),
    )
    return policy.choose_start(state)


def described(
    start: policy.Start, project: Project, samples: Sequence[Sample], encoder: str
) -> dict[str, Any]:
    """Return what the next training needs to know of this one."""
    return {
        "labels": sum(len(sample.points) for sample in samples),
        "classes": sorted(_trainable(project, samples)),
        "encoder": encoder,
        "warm": start.warm,
        "reason": start.reason,
    }


def _trainable(project: Project, samples: Sequence[Sample]) -> frozenset[str]:
    """Return the classes of the label config that have points of both signs."""
    served = {spec.name for spec in label_config.parse(project.label_config).specs}
    signs: dict[str, set[bool]] = {}
    for sample in samples:
        for point in sample.points:
            signs.setdefault(point.class_name, set()).add(point.positive)
    return frozenset(name for name, found in signs.items() if len(found) == 2) & served
