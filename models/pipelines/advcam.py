"""Janouskova et al.: one patch classifier per class, its (climbed) activation map, refined.

Trained on crops around weak points; images of any size are proposed for by tiles.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import calibration, crops, evidence, tiling, training
from models.base import (
    ClassProposal,
    ClassSpec,
    Fitted,
    HeatMap,
    Image,
    NotEnoughLabels,
    Profile,
    Report,
    Sample,
    TaskProposal,
)
from models.calibration import Settings
from models.crops import Click, Clicks
from models.networks.unet import TruncatedUNet, inference_copy

FORMAT = 1
WEIGHTS_FILE, SETTINGS_FILE = "weights.safetensors", "version.json"
HELD_OUT_IN = 8  # one sample in eight chooses the best step


@dataclass(frozen=True)
class Geometry:
    """What a saved version needs to compute as it did when trained."""

    encoder: str
    decoder_widths: tuple[int, int]
    window_px: int
    tile_px: int
    bf16: bool


@dataclass(frozen=True)
class ClassModel:
    """One class: its network as trained (float32, on the CPU), and how its heat becomes a mask."""

    name: str
    network: TruncatedUNet
    settings: Settings


class AdvCamFitted:
    """A trained version, its networks resident on one device; safe to share between threads."""

    def __init__(
        self,
        geometry: Geometry,
        models: Sequence[ClassModel],
        metrics: Mapping[str, Any],
        device: str,
    ) -> None:
        bf16 = geometry.bf16 and training.has_bf16(device)
        self.geometry = geometry
        self.models = {model.name: model for model in models}
        self._metrics = dict(metrics)
        self._resident = {
            model.name: inference_copy(model.network, device=device, bf16=bf16) for model in models
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names it was trained for."""
        return tuple(self.models)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """JSON-able figures of its training; `classes` holds those of each class."""
        return self._metrics

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        """Propose a mask for each class of `specs` that it knows; others are left out.

        image: (H, W, 3) uint8 RGB of any size from 1 x 1. Where no window of the crop size is
        positive, the mask is empty. Raises ValueError for another kind of array.
        """
        known = [spec for spec in specs if spec.name in self.models]
        analyses = []
        proposals = []
        for spec in known:
            settings = calibration.resolve(self.models[spec.name].settings, spec)
            analysis = self.analyse(spec.name, image, settings.iterations)
            mask = calibration.apply(image, analysis.heat, settings)
            shown = analysis.heat if heat else None
            analyses.append(analysis)
            proposals.append(ClassProposal(spec.name, mask, analysis.score, shown))
        seen = evidence.gather(
            [spec.name for spec in known],
            [analysis.window_probs for analysis in analyses],
            [analysis.embedding for analysis in analyses],
            {
                p.class_name: evidence.proposal_stats(p.mask, analysis.heat)
                for p, analysis in zip(proposals, analyses, strict=True)
            },
        )
        return TaskProposal(tuple(proposals), seen)

    def save(self, folder: Path) -> None:
        """Write safetensors and JSON into an existing empty folder.

        Raises ValueError for weights that are not finite.
        """
        weights: dict[str, Tensor] = {}
        for index, model in enumerate(self.models.values()):
            for key, value in model.network.state_dict().items():
                if not bool(torch.isfinite(value).all()):
                    raise ValueError(f"{key} of {model.name!r} is not finite; train again")
                weights[f"{index}.{key}"] = value.contiguous()
        save_file(weights, folder / WEIGHTS_FILE)
        about = {
            "format": FORMAT,
            "pipeline": "advcam",
            "geometry": asdict(self.geometry),
            "classes": [{"name": m.name, **asdict(m.settings)} for m in self.models.values()],
            "metrics": self._metrics,
        }
        text = json.dumps(about, allow_nan=False, indent=1)
        (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")

    def analyse(self, class_name: str, image: Image, iterations: int) -> tiling.Analysis:
        """Score, window and explain an image for one class that it knows."""
        return tiling.analyse(
            self._resident[class_name],
            image,
            tile_px=self.geometry.tile_px,
            window_px=self.geometry.window_px,
            iterations=iterations,
        )


class AdvCam:
    """The pipeline; `clock` gives seconds."""

    def __init__(self, clock: training.Clock = time.monotonic) -> None:
        self._clock = clock

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
    ) -> AdvCamFitted:
        """Train one network per class that has points of both signs; the order of samples is free.

        Classes that cannot start are skipped and say why in `metrics`; those that `warm_start`
        knows with networks of the same shape are trained on for `warm_steps`.
        Raises NotEnoughLabels when no class can start, training.TrainingDiverged, and whatever
        `report` raises to cancel.
        """
        began = self._clock()
        ordered = sorted(samples, key=lambda sample: sample.key)
        trainings, skipped = self._plan(ordered, specs, profile, seed)
        if not trainings:
            reasons = "; ".join(skipped.values()) or "the label config names no class"
            raise NotEnoughLabels(f"nothing to train on: {reasons}")
        geometry = geometry_of(profile)
        figures: dict[str, Any] = {name: {"skipped": why} for name, why in skipped.items()}
        models = []
        for index, job in enumerate(trainings):
            progress = training.ClassProgress(report, job.spec.name, index, len(trainings))
            model, figures[job.spec.name] = self._fit_class(
                job, geometry, device, progress, _warm_network(warm_start, job.spec.name, geometry)
            )
            models.append(model)
        metrics = {
            "profile": profile.name,
            "seed": seed,
            "encoder_weights": "none" if profile.encoder_weights is None else "pretrained",
            "seconds": self._clock() - began,
            "classes": figures,
        }
        return AdvCamFitted(geometry, models, metrics, device)

    def load(self, folder: Path, *, device: str) -> AdvCamFitted:
        """Load what `save` wrote; raises ValueError for a folder of another format."""
        about = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        if (about.get("pipeline"), about.get("format")) != ("advcam", FORMAT):
            raise ValueError(
                f"{folder} holds {about.get('pipeline')!r} format {about.get('format')!r}, not "
                f"'advcam' format {FORMAT}; load it with the release that wrote it"
            )
        fields = about["geometry"]
        geometry = Geometry(**{**fields, "decoder_widths": tuple(fields["decoder_widths"])})
        weights = load_file(folder / WEIGHTS_FILE)
        models = []
        for index, entry in enumerate(about["classes"]):
            network = TruncatedUNet(geometry.encoder, geometry.decoder_widths)
            network.load_state_dict(_part(weights, f"{index}."))
            name = entry.pop("name")
            models.append(ClassModel(name, network.eval(), Settings(**entry)))
        return AdvCamFitted(geometry, models, about["metrics"], device)

    def _plan(
        self, samples: Sequence[Sample], specs: Sequence[ClassSpec], profile: Profile, seed: int
    ) -> tuple[list[_Training], dict[str, str]]:
        trainings: list[_Training] = []
        skipped: dict[str, str] = {}
        for spec in specs:
            class_seed = [seed, zlib.crc32(spec.name.encode())]
            rng = np.random.default_rng(class_seed)
            try:
                clicks = crops.collect(samples, spec.name, profile.crop_px, rng)
            except NotEnoughLabels as error:
                skipped[spec.name] = str(error)
            else:
                number = int(rng.integers(2**31))
                trainings.append(_Training(spec, samples, clicks, profile, number))
        return trainings, skipped

    def _fit_class(
        self,
        job: _Training,
        geometry: Geometry,
        device: str,
        progress: training.ClassProgress,
        warm: TruncatedUNet | None,
    ) -> tuple[ClassModel, dict[str, Any]]:
        began = self._clock()
        learn, held_out = job.split()
        network = job.network() if warm is None else warm
        trained = training.train(
            network,
            job.source(learn),
            job.held_out(held_out),
            profile=job.profile,
            steps=job.profile.max_steps if warm is None else job.profile.warm_steps,
            seed=job.seed,
            device=device,
            report=progress.training,
            clock=self._clock,
        )
        network.to("cpu")
        progress.calibrating()
        model = ClassModel(job.spec.name, network, calibration.default_settings(job.spec))
        settings, table = _calibrated(model, job, geometry, device)
        figures = {
            "positive_points": len(job.clicks.positives),
            "negative_points": len(job.clicks.negatives),
            "contradicted_points": job.clicks.contradicted,
            "held_out_points": len(held_out.positives) + len(held_out.negatives),
            "warm_start": warm is not None,
            "steps": trained.steps,
            "best_step": trained.best_step,
            "loss": trained.loss,
            "f_measure": trained.f_measure,
            "seconds": self._clock() - began,
            "settings": asdict(settings),
            "calibration": table,
        }
        return replace(model, settings=settings), figures


PIPELINE = AdvCam()


def geometry_of(profile: Profile) -> Geometry:
    """Return what a version trained under this profile needs to remember."""
    return Geometry(
        profile.encoder, profile.decoder_widths, profile.crop_px, profile.tile_px, profile.bf16
    )


def is_held_out(key: str) -> bool:
    """Tell whether the points of this sample choose the best step instead of being learnt."""
    digest = hashlib.sha256(f"best step of {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_IN == 0


@dataclass(frozen=True)
class _Training:
    """What one class is trained on."""

    spec: ClassSpec
    samples: Sequence[Sample]
    clicks: Clicks
    profile: Profile
    seed: int

    def split(self) -> tuple[Clicks, Clicks]:
        """Part the points into those to learn and those held out; all to learn if few remain."""
        kept, out = (
            Clicks(self._of(self.clicks.positives, side), self._of(self.clicks.negatives, side))
            for side in (False, True)
        )
        if not (kept.positives and kept.negatives):
            return self.clicks, Clicks((), ())
        return kept, out

    def network(self) -> TruncatedUNet:
        """Make a fresh network, its random part from the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            profile = self.profile
            return TruncatedUNet(profile.encoder, profile.decoder_widths, profile.encoder_weights)

    def source(self, clicks: Clicks) -> crops.CropSource:
        """Cut the crops to learn from."""
        return crops.CropSource(
            self._around(clicks.positives, crops.CLICK_REACH),
            self._around(clicks.negatives, crops.JITTER),
            self.profile.crops_per_click,
        )

    def held_out(self, clicks: Clicks) -> tuple[crops.Surroundings, crops.Surroundings]:
        """Cut the crops to choose the best step by."""
        return self._around(clicks.positives, 0.0), self._around(clicks.negatives, 0.0)

    def _of(self, clicks: Sequence[Click], held_out: bool) -> tuple[Click, ...]:
        return tuple(c for c in clicks if is_held_out(self.samples[c.sample].key) == held_out)

    def _around(self, clicks: Sequence[Click], reach: float) -> crops.Surroundings:
        return crops.surroundings(self.samples, clicks, self.profile.crop_px, reach)


def _calibrated(
    model: ClassModel, job: _Training, geometry: Geometry, device: str
) -> tuple[Settings, dict[str, Any]]:
    trial = AdvCamFitted(geometry, [model], {}, device)

    def heat_of(image: Image, iterations: int) -> HeatMap:
        return trial.analyse(model.name, image, iterations).heat

    unseen = [sample.key for sample in job.samples if is_held_out(sample.key)]
    return calibration.calibrate(job.samples, job.spec, heat_of, preferred=unseen)


def _warm_network(
    version: Fitted | None, class_name: str, geometry: Geometry
) -> TruncatedUNet | None:
    """Copy the network of another version if it has one of the same shape."""
    if not isinstance(version, AdvCamFitted) or class_name not in version.models:
        return None
    old = version.geometry
    if (old.encoder, old.decoder_widths) != (geometry.encoder, geometry.decoder_widths):
        return None
    network = TruncatedUNet(geometry.encoder, geometry.decoder_widths)
    network.load_state_dict(version.models[class_name].network.state_dict())
    return network


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
