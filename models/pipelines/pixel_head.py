"""Learn from clicks in seconds: they are pixel labels for a small head on frozen hypercolumns.

Ours: where the class activation map of a patch classifier lights up the whole neighbourhood of an
edge, a click says which very pixels are meant. The labelled pixels of a version are kept with it,
so that a refit computes only what has changed since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models import saving
from models.base import (
    ClassSpec,
    Fitted,
    Image,
    NotEnoughLabels,
    Profile,
    Progress,
    Report,
    Sample,
    TaskProposal,
)
from models.learning import planning
from models.learning.training import ClassProgress, Clock, has_bf16
from models.masks.confidence import Confidence
from models.masks.settings import Settings
from models.networks.hypercolumn import Hypercolumn, PixelHead
from models.pixels import pixel_memory, pixel_training
from models.pixels.pixel_fitting import Fitting, PixelModel
from models.pixels.pixel_scan import Scan, scan
from models.proposing import task_proposal

FORMAT = 1
NAME = "pixel_head"
FEATURES_SHARE = 0.5  # of the time of a fresh training


class NeedsWeights(ValueError):
    """The pipeline stands on a pretrained encoder, and none is named."""


@dataclass(frozen=True)
class Geometry:
    """What a saved version needs to compute as it did when trained."""

    encoder: str
    window_px: int
    tile_px: int
    bf16: bool


class PixelHeadFitted:
    """A trained version, resident on one device; safe to share between threads.

    trunk: as it was loaded, on the CPU in float32.
    """

    def __init__(
        self,
        geometry: Geometry,
        trunk: Hypercolumn,
        models: Sequence[PixelModel],
        metrics: Mapping[str, Any],
        device: str,
    ) -> None:
        bf16 = geometry.bf16 and has_bf16(device)
        self.geometry = geometry
        self.trunk = trunk
        self.models = {model.name: model for model in models}
        self.resident = trunk.resident(device=device, bf16=bf16)
        self._metrics = dict(metrics)
        self._device = device
        for model in models:
            model.head.to(device).eval()

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

        image: (H, W, 3) uint8 RGB of any size from 1 x 1. The heat is a probability; `iterations`
        of a spec mean nothing here. Raises ValueError for another kind of array.
        """
        known = [spec for spec in specs if spec.name in self.models]
        names = [spec.name for spec in known]
        seen = self.scan(image, names)
        return task_proposal(
            image,
            known,
            seen.probabilities,
            self.models,
            [seen.embedding],
            seen.passes,
            window_px=self.geometry.window_px,
            heat=heat,
        )

    def scan(self, image: Image, class_names: Sequence[str]) -> Scan:
        """Return the probabilities of classes that it knows, and mean features of the image."""
        heads = [self.models[name].head for name in class_names]
        return scan(self.resident, heads, image, tile_px=self.geometry.tile_px)

    def save(self, folder: Path) -> None:
        """Write safetensors and JSON into an existing empty folder.

        Raises ValueError for weights that are not finite.
        """
        models = list(self.models.values())
        about = {
            "format": FORMAT,
            "pipeline": NAME,
            "geometry": asdict(self.geometry),
            "classes": [
                {
                    "name": model.name,
                    "settings": asdict(model.settings),
                    "confidence": asdict(model.confidence),
                    "judged": model.judged,
                }
                for model in models
            ],
            "metrics": self._metrics,
        }
        names = ["encoder", *self.models]
        saving.write(folder, about, [self.trunk, *(m.head for m in models)], names)
        memories = [memory for model in models for memory in (model.memory, model.unseen)]
        pixel_memory.write(folder / saving.PIXELS_FILE, memories)


class PixelHeads:
    """The pipeline; `clock` gives seconds, `steps` and `warm_steps` are those of each head.

    trunk: gives the frozen part for a profile; None = it is built anew for each training.
    """

    def __init__(
        self,
        clock: Clock = time.monotonic,
        steps: int = pixel_training.STEPS,
        warm_steps: int = pixel_training.WARM_STEPS,
        trunk: Callable[[Profile], Hypercolumn] | None = None,
    ) -> None:
        self._clock, self._steps, self._warm_steps = clock, steps, warm_steps
        self._trunk = trunk

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
    ) -> PixelHeadFitted:
        """Train one head per class that has labelled pixels of both signs; samples in any order.

        A class that `warm_start` knows on the same encoder is trained on, and the labelled pixels
        of samples that have not changed since are taken from it; so are its settings until there
        are clearly more masks to choose them by (`pixel_fitting.Fitting`). Classes that cannot
        start are skipped and say why in `metrics`. Raises NeedsWeights without pretrained weights,
        NotEnoughLabels when no class can start, training.TrainingDiverged, and whatever `report`
        raises to cancel.
        """
        began = self._clock()
        samples = planning.ordered(samples)
        plans, skipped = planning.plan(samples, specs, profile.crop_px, seed)
        if not plans:
            reasons = "; ".join(skipped.values()) or "the label config names no class"
            raise NotEnoughLabels(f"nothing to train on: {reasons}")
        trunk = (self._trunk or _trunk)(profile)
        warm = _usable(warm_start, trunk, profile)
        fitting = Fitting(
            samples,
            profile,
            trunk.resident(device=device, bf16=profile.bf16 and has_bf16(device)),
            device,
            warm.models if warm else {},
            warm.metrics["classes"] if warm else {},
            self._clock,
        )
        gathered = fitting.memories(plans, _counted(report, len(samples)))
        training = within(report, FEATURES_SHARE, 1.0)
        figures: dict[str, Any] = {name: {"skipped": why} for name, why in skipped.items()}
        models = []
        for index, (plan, memories) in enumerate(zip(plans, gathered, strict=True)):
            progress = ClassProgress(training, plan.spec.name, index, len(plans))
            steps = self._warm_steps if plan.spec.name in fitting.warm else self._steps
            model, figures[plan.spec.name] = fitting.run(plan, memories, steps, progress)
            models.append(model)
        metrics = {
            "profile": profile.name,
            "seed": seed,
            "encoder_weights": "pretrained",
            "seconds": self._clock() - began,
            "classes": figures,
        }
        return PixelHeadFitted(geometry_of(profile), trunk, models, metrics, device)

    def load(self, folder: Path, *, device: str) -> PixelHeadFitted:
        """Load what `save` wrote; raises ValueError for a folder of another format."""
        about = saving.read(folder, NAME, (FORMAT,))
        geometry = Geometry(**about["geometry"])
        trunk = Hypercolumn(geometry.encoder)
        of_trunk, *of_heads = saving.read_weights(folder)
        trunk.load_state_dict(of_trunk)
        memories = pixel_memory.read(folder / saving.PIXELS_FILE, 2 * len(of_heads))
        models = []
        pairs = zip(memories[::2], memories[1::2], strict=True)
        for entry, state, (memory, unseen) in zip(about["classes"], of_heads, pairs, strict=True):
            head = PixelHead(sum(trunk.channels))
            head.load_state_dict(state)
            settings, sure = Settings(**entry["settings"]), Confidence(**entry["confidence"])
            model = PixelModel(entry["name"], head, settings, memory, unseen, entry["judged"], sure)
            models.append(model)
        return PixelHeadFitted(geometry, trunk, models, about["metrics"], device)


PIPELINE = PixelHeads()


def geometry_of(profile: Profile) -> Geometry:
    """Return what a version trained under this profile needs to remember."""
    return Geometry(profile.encoder, profile.crop_px, profile.tile_px, profile.bf16)


def within(report: Report, start: float, stop: float) -> Report:
    """Place the progress of a part between two fractions of the whole.

    What comes after the part is not known: neither is the time left, unless it is the last.
    """

    def placed(progress: Progress) -> None:
        fraction = start + (stop - start) * progress.fraction
        left = progress.seconds_left if stop == 1 else None
        report(replace(progress, fraction=fraction, seconds_left=left))

    return placed


def weights_of(profile: Profile) -> str:
    """Return where the pretrained weights are; raises NeedsWeights without any."""
    if profile.encoder_weights is None:
        raise NeedsWeights(
            "pixel_head learns on features of a pretrained encoder, and there is none: set "
            "ENCODER_WEIGHTS to a safetensors file or to hub, or use the pipeline advcam, which "
            "learns its own"
        )
    return profile.encoder_weights


def _trunk(profile: Profile) -> Hypercolumn:
    return Hypercolumn(profile.encoder, weights_of(profile))


def _usable(version: Fitted | None, trunk: Hypercolumn, profile: Profile) -> PixelHeadFitted | None:
    """Return the version if its heads stand on the same features."""
    if not isinstance(version, PixelHeadFitted) or version.geometry.encoder != profile.encoder:
        return None
    old, new = version.trunk.state_dict(), trunk.state_dict()
    return version if all(torch.equal(old[key], new[key]) for key in new) else None


def _counted(report: Report, samples: int) -> Callable[[int], None]:
    def done(number: int) -> None:
        fraction = FEATURES_SHARE * number / samples
        report(Progress("features", "", number, samples, fraction))

    return done
