"""Clicks and rectangles of Label Studio's smart tools: what the context of a call asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.labelstudio import shapes
from backend.labelstudio.config import LabelConfig
from models.prompting.prompts import Prompt

KINDS = KEYPOINT, RECTANGLE = "keypointlabels", "rectanglelabels"
MOST_PROMPTS = 30  # the newest count; nobody places more before accepting
MOST_ROWS = 1000  # looked at, from the newest on
MOST_ITERATIONS = 100


@dataclass(frozen=True)
class Asked:
    """A prompt as Label Studio counts, in percent of the image; class None: it denies all classes.

    width, height: None of a click; rotation: in degrees, clockwise about (x, y).
    """

    class_name: str | None
    positive: bool
    x: float
    y: float
    width: float | None = None
    height: float | None = None
    rotation: float = 0.0

    def on(self, height_px: int, width_px: int) -> Prompt:
        """Return the prompt in pixels of an image."""
        x_px, y_px = self.x / 100 * width_px, self.y / 100 * height_px
        if self.width is None or self.height is None:
            return Prompt(((x_px, y_px),), self.positive)
        side, down = self.width / 100 * width_px, self.height / 100 * height_px
        cos, sin = math.cos(math.radians(self.rotation)), math.sin(math.radians(self.rotation))
        away = ((0.0, 0.0), (side, 0.0), (side, down), (0.0, down))
        corners = ((x_px + u * cos - v * sin, y_px + u * sin + v * cos) for u, v in away)
        return Prompt(tuple(corners), self.positive)


def parse(context: Any, config: LabelConfig) -> list[Asked]:
    """Return the pending prompts that mean something, oldest first.

    An empty or foreign context gives none; prompts that are malformed, or whose label is no class,
    are left out. Raises nothing.
    """
    rows = context.get("result") if isinstance(context, Mapping) else None
    newest = rows[-MOST_ROWS:] if isinstance(rows, list) else []
    asked = (_asked(row, config) for row in newest if isinstance(row, Mapping))
    return [one for one in asked if one is not None][-MOST_PROMPTS:]


def iterations(context: Any, payload: Mapping[str, Any], config: LabelConfig) -> int | None:
    """Return how often a person wants the heat climbed: the newest value of the <Number> control.

    It stands among the prompts, or in the draft that the person has open, or in the annotation.
    None without such a control or value.
    """
    if config.iterations_control is None:
        return None
    drafts, annotations = payload.get("drafts"), payload.get("annotations")
    for place in (context, *_newest_first(drafts), *_newest_first(annotations)):
        rows = place.get("result") if isinstance(place, Mapping) else None
        found = [_number(row, config.iterations_control) for row in _newest_first(rows)]
        wanted = next((value for value in found if value is not None), None)
        if wanted is not None:
            return min(max(round(wanted), 1), MOST_ITERATIONS)
    return None


def classes_of(asked: Iterable[Asked]) -> list[str]:
    """Return the classes that are asked about, in the order of their first prompt."""
    return list(dict.fromkeys(one.class_name for one in asked if one.class_name is not None))


def _asked(row: Mapping[str, Any], config: LabelConfig) -> Asked | None:
    kind, value = row.get("type"), row.get("value")
    if kind not in KINDS or not isinstance(value, Mapping):
        return None
    names = ("x", "y") if kind == KEYPOINT else ("x", "y", "width", "height", "rotation")
    place = [value.get(name, 0.0 if name == "rotation" else None) for name in names]
    labels = value.get(kind) or value.get("labels")
    if not all(map(shapes.number, place)) or not isinstance(labels, list) or len(labels) != 1:
        return None
    if kind == RECTANGLE and not (place[2] and place[3]):
        return None
    meaning = _meaning(labels[0], config)
    if meaning is None:
        return None
    class_name, positive = meaning
    return Asked(class_name, positive and row.get("is_positive", True) is not False, *place)


def _meaning(label: Any, config: LabelConfig) -> tuple[str | None, bool] | None:
    """Return the class of a label and its sign; None when it means no class."""
    if not isinstance(label, str):
        return None
    for clicks in config.clicks:
        if label in clicks.negative:
            return None, False
        if label in clicks.positive:
            return clicks.positive[label], True
    return (label, True) if label in config.classes else None


def _newest_first(rows: Any) -> Sequence[Any]:
    return rows[: -MOST_ROWS - 1 : -1] if isinstance(rows, list) else []


def _number(row: Any, control: str) -> float | None:
    """Return the value of a row of the control."""
    if not isinstance(row, Mapping) or row.get("from_name") != control:
        return None
    value = row.get("value")
    number = value.get("number") if isinstance(value, Mapping) else None
    return float(number) if shapes.number(number) else None
