"""A version that sees the same on every image: a long bar and a block of rust, and a crack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from models.base import (
    ClassProposal,
    ClassSpec,
    Evidence,
    HeatMap,
    Image,
    Mask,
    Region,
    TaskProposal,
)

HEIGHT, WIDTH = 320, 480
COLOURS = {"crack": "#e6194b", "rust": "#4363d8"}
LABEL_CONFIG = f"""<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image">
<Label value="crack" background="{COLOURS["crack"]}"/>
<Label value="rust" background="{COLOURS["rust"]}"/></BrushLabels>
<KeyPointLabels name="point" toName="image" smart="true">
<Label value="crack" background="#f0a0b0" smart="true"/>
<Label value="rust" background="#a0b0f0" smart="true"/></KeyPointLabels></View>"""
CHOSEN = {
    "refine": "threshold", "iterations": 1, "threshold": 0.5, "min_area_px": 0, "closing_px": 1,
}  # fmt: skip
Box = tuple[int, int, int, int]  # top, left, bottom, right
BAR, BLOCK, CRACK = (60, 40, 90, 440), (180, 300, 280, 420), (200, 40, 208, 240)
PARTS: dict[str, tuple[Box, ...]] = {"crack": (CRACK,), "rust": (BAR, BLOCK)}


def filled(*boxes: Box) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def _heat(name: str) -> HeatMap:
    return np.where(filled(*PARTS[name]), 0.9, 0.0).astype(np.float32)


def _regions(name: str) -> tuple[Region, ...]:
    return tuple(
        Region(left, top, right - left, bottom - top, (right - left) * (bottom - top), 0.9)
        for top, left, bottom, right in PARTS[name]
    )


@dataclass
class TwoParts:
    classes: tuple[str, ...] = tuple(PARTS)
    metrics: dict[str, Any] = field(
        default_factory=lambda: {"classes": {name: {"settings": CHOSEN} for name in PARTS}}
    )

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        found = [
            ClassProposal(s.name, filled(*PARTS[s.name]), 0.9, _heat(s.name), _regions(s.name))
            for s in specs
        ]
        names = tuple(spec.name for spec in specs)
        one = {"area_px": 1.0, "outline_px": 1.0, "components": 1.0, "heat_sharpness": 1.0}
        windows = np.full((1, len(names)), 0.5, np.float32)
        evidence = Evidence(names, windows, np.zeros(2, np.float32), dict.fromkeys(names, one))
        return TaskProposal(tuple(found), evidence)


@dataclass
class TwoPartsResidents:
    def get(self, project: int, number: int, pipeline: str) -> TwoParts:
        return TwoParts()


def pictures(folder: Path, count: int) -> list[Path]:
    """Write concrete with what the version sees darker, each picture of its own grain."""
    files = []
    for n in range(count):
        grey = np.random.default_rng(n).normal(160.0, 6.0, (HEIGHT, WIDTH))
        grey[filled(BAR, BLOCK)] -= 40
        grey[filled(CRACK)] -= 80
        files.append(folder / f"surface-{n}.png")
        rgb = np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
        Pillow.fromarray(rgb).save(files[-1])
    return files
