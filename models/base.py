"""What every pipeline takes and gives: images and weak points in, masks and evidence out."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models import pipelines

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB, upright
Mask = npt.NDArray[np.bool_]  # (H, W)
HeatMap = npt.NDArray[np.float32]  # (H, W), larger = more defect


@dataclass(frozen=True)
class WeakPoint:
    """A point that says of one class: a defect is here (positive) or none is near (negative)."""

    class_name: str
    x_px: float
    y_px: float
    positive: bool
    weight: float = 1.0


@dataclass(frozen=True)
class Sample:
    """One image with its weak points, and verified masks where a person has corrected them.

    key: unique and stable (the task id); orders samples, so that results do not depend on theirs.
    load: decodes the image when called; (H, W, 3) uint8 RGB, upright.
    masks: class name -> (H, W) bool, verified by a person; all-False means "verified: none here".
    held_out: True = nothing is learnt from it; its points choose the best step, its masks how heat
        becomes a mask.
    weight: of the pixels of its masks beside those of other samples; points have their own.
    """

    key: str
    load: Callable[[], Image]
    points: tuple[WeakPoint, ...]
    masks: Mapping[str, Callable[[], Mask]] = field(default_factory=dict)
    held_out: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class ClassSpec:
    """A class to be served and its settings; None = what the version chose for itself.

    refine: name of a refinement (`models.refine.names()`).
    iterations: as the papers count; 1 = plain CAM, 2 = one climb.
    threshold: on the heat map normalised per image to [0, 1].
    min_area_px: smaller connected regions are dropped.
    closing_px: gaps up to this width are closed.
    pipeline: name of the pipeline that is to serve it (`names()`); read by `auto` alone.
    """

    name: str
    refine: str | None = None
    iterations: int | None = None
    threshold: float | None = None
    min_area_px: int | None = None
    closing_px: int | None = None
    pipeline: str | None = None


@dataclass(frozen=True)
class Region:
    """A connected part of a proposed mask: its box, its area and how sure it is.

    x_px, y_px: the upper left corner; confidence: in [0, 1], the calibrated probability that at
        least half of its pixels are defect.
    """

    x_px: int
    y_px: int
    width_px: int
    height_px: int
    area_px: int
    confidence: float


@dataclass(frozen=True)
class ClassProposal:
    """The mask of one class.

    score: confidence in [0, 1] that the class is present (largest window probability).
    heat: in [0, 1]: the attribution normalised per image, or a probability where the pipeline
        makes one; present only when asked for.
    regions: the 8-connected parts of the mask, largest first.
    """

    class_name: str
    mask: Mask
    score: float
    heat: HeatMap | None = None
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What strategies and the difficulty model read of one image.

    tile_probs: (T, C) float32, probability of class c in window t; C in the order of `classes`.
    embedding: (D,) float32, pooled features.
    stats: per class `area_px`, `outline_px`, `components`, `heat_sharpness`, `outline_doubt` of its
        proposal (`models.evidence.proposal_stats`).
    samples: (S, T, C) float32, like `tile_probs`, of S stochastic passes (`models.passes`); S = 0
        where the pipeline makes none.
    """

    classes: tuple[str, ...]
    tile_probs: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    stats: Mapping[str, Mapping[str, float]]
    samples: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 0, 0), np.float32)
    )


@dataclass(frozen=True)
class TaskProposal:
    """All proposals for one image."""

    proposals: tuple[ClassProposal, ...]
    evidence: Evidence


@dataclass(frozen=True)
class Progress:
    """Where a training stands; `step` of `steps` within `stage`, over all classes in `fraction`."""

    stage: str
    class_name: str
    step: int
    steps: int
    fraction: float
    loss: float | None = None
    f_measure: float | None = None
    seconds_left: float | None = None


Report = Callable[[Progress], None]  # may raise to cancel the training


@dataclass(frozen=True)
class Profile:
    """Size and length of a training; `cpu` and `gpu` are in `models.learning.training.PROFILES`.

    encoder_weights: a safetensors file in timm's names, "hub" to let timm download, or None
        (random weights).
    decoder_widths: one per stage of the encoder that is kept, coarse to fine.
    crops_per_click: of a positive point, until what is hard is drawn more often.
    max_steps: optimiser steps per class of a fresh training; `warm_steps` when it starts from
        another version.
    point_loss: weight of the loss that asks for a positive disc of `point_radius_px` around each
        positive point and for negative pixels in negative crops; 0 = the paper's route.
    hard_mining: how much more often points with a large loss are drawn; 0 = by weight alone.
    scale_jitter: crops are enlarged or reduced by up to this factor; 1 = never.
    colour_jitter: strength of changes of saturation and hue; 0 = none.
    patience: evaluations without a better F-measure after which a training ends; 0 = never.
    shared_trunk: one network with a head per class instead of a network per class.
    dense_...: the same sizes where a U-Net learns per pixel, which needs more surroundings.
    """

    name: str
    encoder: str
    decoder_widths: tuple[int, ...]
    crop_px: int
    crops_per_click: int
    batch: int
    max_steps: int
    warm_steps: int
    learning_rate: float
    weight_decay: float
    bf16: bool
    compile: bool
    tile_px: int
    encoder_weights: str | None = None
    point_loss: float = 0.0
    point_radius_px: float = 3.0
    hard_mining: float = 0.0
    scale_jitter: float = 1.0
    colour_jitter: float = 0.0
    patience: int = 0
    shared_trunk: bool = False
    dense_crop_px: int = 128
    dense_batch: int = 8
    dense_steps: int = 400
    dense_warm_steps: int = 120
    dense_learning_rate: float = 1e-3


class Fitted(Protocol):
    """A trained pipeline: immutable, deterministic on CPU."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names it was trained for."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """JSON-able figures of its training, per class."""

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        """Propose masks for the classes of `specs` that it knows; others are left out."""

    def save(self, folder: Path) -> None:
        """Write safetensors and JSON into an existing empty folder."""


class Pipeline(Protocol):
    """A method: how to train one and how to load what was saved."""

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
    ) -> Fitted:
        """Train on weak points; raises `models.base.NotEnoughLabels` when a class cannot start."""

    def load(self, folder: Path, *, device: str) -> Fitted:
        """Load what `Fitted.save` wrote."""


class NotEnoughLabels(ValueError):
    """No class has both positive and negative weak points."""


def names() -> tuple[str, ...]:
    """Return the names of all pipelines, sorted: the modules of `models.pipelines`."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(pipelines.__path__)))


def get(name: str) -> Pipeline:
    """Return the pipeline of this name; raises ValueError naming the known ones."""
    if name not in names():
        raise ValueError(f"unknown pipeline {name!r}; known: {', '.join(names())}")
    pipeline: Pipeline = importlib.import_module(f"models.pipelines.{name}").PIPELINE
    return pipeline


def resolve_device(name: str) -> str:
    """Return the device to use for "auto": "cuda" when there is one, else "cpu"."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
