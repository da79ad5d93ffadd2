"""Pipelines that learn at once and are off by so many pixels, to be chosen from and combined."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.base import (
    ClassProposal,
    ClassSpec,
    Evidence,
    Fitted,
    Image,
    Mask,
    NotEnoughLabels,
    Pipeline,
    Profile,
    Progress,
    Report,
    Sample,
    TaskProposal,
)
from models.learning.training import PROFILES
from models.pipelines.auto import Auto, AutoFitted
from models.pipelines.segmenter import Segmenter

CRACK, RUST = ClassSpec("crack"), ClassSpec("rust")
BARE = PROFILES["cpu"]
PRETRAINED = replace(BARE, encoder_weights="hub")
SQUARE: Mask = np.zeros((40, 40), dtype=bool)
SQUARE[10:30, 10:30] = True


@dataclass
class PlayedFitted:
    """Proposes the square moved to the right by `off_px`; remembers nothing."""

    pipeline: str
    classes: tuple[str, ...]
    off_px: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        names = tuple(spec.name for spec in specs if spec.name in self.classes)
        mask = np.roll(SQUARE, self.off_px, axis=1)
        size = len(self.pipeline)
        evidence = Evidence(
            names,
            np.arange(size * len(names), dtype=np.float32).reshape(size, len(names)),
            np.full(len(names), size, dtype=np.float32),
            {name: {"area_px": float(size)} for name in names},
        )
        shown = np.ones((40, 40), np.float32) if heat else None
        proposals = (ClassProposal(name, mask, 0.5, shown) for name in names)
        return TaskProposal(tuple(proposals), evidence)

    def save(self, folder: Path) -> None:
        (folder / "played.json").write_text(json.dumps([self.classes, self.off_px]))


@dataclass
class Played:
    """A pipeline that learns at once; `off_px` makes its proposals wrong."""

    name: str
    off_px: int = 0
    fits: list[dict[str, Any]] = field(default_factory=list)
    cannot: tuple[str, ...] = ()
    refuses: bool = False

    def fit(
        self,
        samples: Sequence[Sample],
        *,
        specs: Sequence[ClassSpec],
        profile: Profile,
        seed: int,
        device: str,
        report: Report,
        warm_start: Fitted | None = None,
    ) -> PlayedFitted:
        names = tuple(spec.name for spec in specs)
        self.fits.append({"classes": names, "samples": samples, "warm": warm_start})
        if self.refuses:
            raise NotEnoughLabels(f"{self.name} cannot start {names}")
        for done in (0.5, 1.0):
            left = 10 * len(names) * (1 - done)
            report(Progress("training", names[0], 1, 2, done, seconds_left=left))
        figures: dict[str, Any] = {name: {"by": self.name} for name in names}
        figures |= {name: {"skipped": "no points"} for name in self.cannot}
        known = tuple(name for name in names if name not in self.cannot)
        return PlayedFitted(self.name, known, self.off_px, {"classes": figures})

    def load(self, folder: Path, *, device: str) -> PlayedFitted:
        classes, off_px = json.loads((folder / "played.json").read_text())
        return PlayedFitted(self.name, tuple(classes), off_px)


@dataclass(frozen=True)
class PlayedSegmenter(Segmenter):
    """A segmenter that learns at once."""

    played: Played = field(default_factory=lambda: Played("segmenter"))
    started_from: list[tuple[Fitted, ...]] = field(default_factory=list)

    def fit(self, *args: Any, **named: Any) -> Any:
        self.started_from.append(self.starts)
        return self.played.fit(*args, **named)

    def load(self, folder: Path, *, device: str) -> Any:
        return self.played.load(folder, device=device)


def sample(n: int, *classes: str, held_out: bool = False) -> Sample:
    image = np.zeros((40, 40, 3), np.uint8)
    masks: dict[str, Callable[[], Mask]] = {name: lambda: SQUARE for name in classes}
    return Sample(f"task-{n:03}", lambda: image, (), masks, held_out)


def parts(**off_px: int) -> dict[str, Pipeline]:
    return {name: Played(name, off) for name, off in off_px.items()}


def fit(
    pipelines: Mapping[str, Pipeline],
    *specs: ClassSpec,
    samples: Sequence[Sample] = (),
    segmenter_off_px: int = 0,
    least_masks: int = 15,
    profile: Profile = BARE,
    report: Report = lambda _: None,
    warm_start: Fitted | None = None,
    segmenter: Segmenter | None = None,
) -> AutoFitted:
    played = PlayedSegmenter(least_masks=least_masks, played=Played("segmenter", segmenter_off_px))
    return Auto(pipelines=pipelines, segmenter=segmenter or played).fit(
        samples,
        specs=specs,
        profile=profile,
        seed=0,
        device="cpu",
        report=report,
        warm_start=warm_start,
    )


def serving(fitted: AutoFitted) -> dict[str, str]:
    return {name: part.pipeline for part in fitted.parts for name in part.serves}


MASKED = [sample(n, "rust") for n in range(16)]
