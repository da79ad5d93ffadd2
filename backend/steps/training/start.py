"""What a training starts from: the champion's weights, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    about: dict[str, Any] = champion.metrics.get(START, {}) if champion else {}
    state = policy.StartState(
        number=champion.number + 1 if champion else 1,
        classes=_trainable(samples),
        encoder=encoder,
        champion_classes=frozenset(champion.classes) if champion else None,
        champion_encoder=about.get("encoder"),
    )
    return policy.choose_start(state)


def described(start: policy.Start, samples: Sequence[Sample], encoder: str) -> dict[str, Any]:
    """Return what the next training needs to know of this one."""
    return {
        "labels": count(samples),
        "encoder": encoder,
        "warm": start.warm,
        "reason": start.reason,
    }


def count(samples: Sequence[Sample]) -> int:
    """Count the weak labels."""
    return sum(len(sample.points) for sample in samples)


def _trainable(samples: Sequence[Sample]) -> frozenset[str]:
    signs: dict[str, set[bool]] = {}
    for sample in samples:
        for point in sample.points:
            signs.setdefault(point.class_name, set()).add(point.positive)
    return frozenset(name for name, found in signs.items() if len(found) == 2)
