"""Clicks and rectangles of Label Studio's smart tools, answered from a task's proposals."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from backend.labelstudio import rle, shapes
from backend.labelstudio.config import LabelConfig
from models.base import Mask

SUPPORTED = ("keypointlabels", "rectanglelabels")


@dataclass(frozen=True)
class Prompt:
    """A pending prompt; x, y, width, height in percent of the image, width = 0 for a click."""

    class_name: str
    x_percent: float
    y_percent: float
    width_percent: float
    height_percent: float
    positive: bool


def parse(context: Any, config: LabelConfig) -> list[Prompt]:
    """Return the pending prompts, oldest first; an empty or foreign context gives none."""
    result = context.get("result") if isinstance(context, Mapping) else None
    rows = result if isinstance(result, Sequence) else []
    found = (_prompt(row, config) for row in rows if isinstance(row, Mapping))
    return [prompt for prompt in found if prompt is not None]


def _prompt(row: Mapping[str, Any], config: LabelConfig) -> Prompt | None:
    kind, value = row.get("type"), row.get("value")
    if kind not in SUPPORTED or not isinstance(value, Mapping):
        return None
    labels = value.get(kind) or value.get("labels") or []
    if len(labels) != 1 or not all(shapes.number(value.get(axis)) for axis in ("x", "y")):
        return None
    extent = [value.get(side) if kind == "rectanglelabels" else 0 for side in ("width", "height")]
    width, height = (float(side) if shapes.number(side) else 0.0 for side in extent)
    return Prompt(
        class_name=_class_of(str(labels[0]), config),
        x_percent=float(value["x"]),
        y_percent=float(value["y"]),
        width_percent=width,
        height_percent=height,
        positive=row.get("is_positive", True) is not False,
    )


def _class_of(label: str, config: LabelConfig) -> str:
    """Return the class that a click's label means; brushes may call it otherwise."""
    for clicks in config.clicks:
        if label in clicks.positive:
            return clicks.positive[label]
    return label


def select(
    prompts: Sequence[Prompt], proposed: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the proposed parts that the prompts choose, as at most one new region.

    All prompts apply in order: a click adds the connected part under it, a rectangle adds what
    lies inside it, a negative click takes the part under it away. The class is the newest
    prompt's.
    """
    class_name = prompts[-1].class_name
    region = next((r for r in proposed if class_name in r["value"].get("brushlabels", ())), None)
    if region is None:
        return []
    height_px, width_px = region["original_height"], region["original_width"]
    whole = rle.decode_mask(region["value"]["rle"], height_px, width_px)
    chosen: Mask = np.zeros_like(whole)
    for prompt in (p for p in prompts if p.class_name == class_name):
        part = _part(whole, prompt)
        chosen = chosen | part if prompt.positive else chosen & ~part
    if not chosen.any():
        return []
    value = {**region["value"], "rle": rle.encode(chosen)}
    return [{**region, "id": f"{region['id']}-{secrets.token_hex(4)}", "value": value}]


def _part(whole: Mask, prompt: Prompt) -> Mask:
    height_px, width_px = whole.shape
    left = int(np.clip(prompt.x_percent / 100 * width_px, 0, width_px - 1))
    top = int(np.clip(prompt.y_percent / 100 * height_px, 0, height_px - 1))
    if prompt.width_percent > 0:
        right = left + round(prompt.width_percent / 100 * width_px)
        bottom = top + round(prompt.height_percent / 100 * height_px)
        inside = np.zeros_like(whole)
        inside[top : bottom + 1, left : right + 1] = True
        return whole & inside
    _, parts = cv2.connectedComponents(whole.astype(np.uint8), connectivity=8)
    part: Mask = (parts == parts[top, left]) & whole
    return part
