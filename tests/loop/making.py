"""Records and masks for the tests of decisions."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

from backend.loop import regions
from backend.loop.regions import Drawn
from backend.records import Annotation, Interaction, TaskEvidence, WeakLabel, Work
from models.base import Mask

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=timezone.utc)


def annotation(**changes: Any) -> Annotation:
    values: dict[str, Any] = {"id": 31, "project": 7, "task": 5, "updated_at": NOON, "result": ()}
    return Annotation(**{**values, **changes})


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (400, 400)) -> Mask:
    mask = np.zeros(size, dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def drawn(mask: Mask, region_id: str = "v3-5-1", *, is_changed: bool = False) -> Drawn:
    """Give the one region of a class."""
    part = regions.part(region_id, mask, is_changed=is_changed)
    return regions.drawn([part], (mask.shape[0], mask.shape[1]))


def several(**parts: Mask) -> Drawn:
    """Give the regions of a class by their ids."""
    shape = next(iter(parts.values())).shape
    found = [regions.part(id, mask) for id, mask in parts.items()]
    return regions.drawn(found, (shape[0], shape[1]))


def work(annotation: int, seconds: float | None = 20.0, **changes: Any) -> Work:
    """Give an unchanged annotation, begun as many minutes after noon as its id says."""
    at = NOON + timedelta(minutes=annotation)
    values: dict[str, Any] = {"annotator": 1, "begun_at": at, "written_at": at, "bulk": False}
    return Work(
        annotation=annotation, seconds=seconds, **{**values, "is_unchanged": True, **changes}
    )


def interaction(**changes: Any) -> Interaction:
    values: dict[str, Any] = {
        "project": 7,
        "task": 5,
        "annotation": 31,
        "class_name": "crack",
        "outcome": "modified",
        "iou": 0.5,
        "pixels_added": 1,
        "pixels_removed": 1,
        "edit_seconds": 20.0,
        "annotator": 1,
        "version": 3,
        "trust": 1.0,
        "created_at": NOON,
    }
    return Interaction(**{**values, **changes})


def weak_label(**changes: Any) -> WeakLabel:
    values: dict[str, Any] = {
        "project": 7,
        "task": 5,
        "annotation": 31,
        "class_name": "crack",
        "x_px": 3.5,
        "y_px": 4.5,
        "positive": True,
        "source": "click",
    }
    return WeakLabel(**{**values, **changes})


def evidence(task: int, number: int = 3, **changes: Any) -> TaskEvidence:
    """Give evidence that depends on the task alone."""
    rng = np.random.default_rng(task)
    stats = {
        "area_px": float(rng.integers(100, 9000)),
        "outline_px": float(rng.integers(50, 3000)),
        "components": float(rng.integers(1, 9)),
        "heat_sharpness": 0.5,
    }
    values: dict[str, Any] = {
        "project": 7,
        "task": task,
        "number": number,
        "classes": ("crack",),
        "tile_probs": tuple((float(p),) for p in rng.random(4)),
        "embedding": (0.0, 1.0),
        "stats": {"crack": stats},
    }
    return TaskEvidence(**{**values, **changes})
