"""Learn from clicks in seconds: they are pixel labels for a small head on frozen hypercolumns.

Ours: where the class activation map of a patch classifier lights up the whole neighbourhood of an
edge, a click says which very pixels are meant. The labelled pixels of a version are kept with it,
so that a refit computes only what has changed since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import calibration, confidence, evidence, pixel_labels, pixel_training, planning, saving
from models.base import (
    ClassProposal,
    ClassSpec,
    Fitted,
    HeatMap,
    Image,
    NotEnoughLabels,
    Profile,
    Progress,
    Report,
    Sample,
    TaskProposal,
)
from models.confidence import Confidence
from models.networks.hypercolumn import Hypercolumn, PixelHead
from models.pixel_labels import Pixels, Places
from models.pixel_scan import Scan, scan
from models.planning import ClassPlan
from models.settings import Settings, apply, default_settings, is_thin, resolve
from models.training import Clock, has_bf16

FORMAT = 1
NAME = "pixel_head"
PIXELS_FILE = "pixels.safetensors"
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
RULE_THRESHOLD = 0.5
THIN_THRESHOLD = 0.9  # a click on a crack lights up its neighbours: darkness draws the outline

Memory = Mapping[str, Pixels]  # by key of the sample


class NeedsWeights(ValueError):
    """The pipeline stands on a pretrained encoder, and none is named."""


@dataclass(frozen=True)
class Geometry:
    """What a saved version needs to compute as it did when trained."""

    encoder: str
    window_px: int
    tile_px: int
    bf16: bool


@dataclass(frozen=True)
class PixelModel:
    """One class: its head, how its heat becomes a mask, and the labelled pixels it learnt from."""

    name: str
    head: PixelHead
    settings: Settings
    memory: Memory
    confidence: Confidence = field(default_factory=Confidence)


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
        seen = self.scan(image, [spec.name for spec in known])
        made = [
            self._proposal(spec, image, probability)
            for spec, probability in zip(known, seen.probabilities, strict=True)
        ]
        names = [spec.name for spec in known]
        stats = {p.class_name: evidence.proposal_stats(p.mask, heats) for p, heats in made}
        probs = [evidence.window_probs(heats, self.geometry.window_px) for _, heats in made]
        gathered = evidence.gather(names, probs, [seen.embedding][: len(names)], stats)
        proposals = tuple(replace(p, heat=heats) if heat else p for p, heats in made)
        return TaskProposal(proposals, gathered)

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
                }
                for model in models
            ],
            "metrics": self._metrics,
        }
        names = ["encoder", *self.models]
        saving.write(folder, about, [self.trunk, *(m.head for m in models)], names)
        pixel_labels.write(folder / PIXELS_FILE, [model.memory for model in models])

    def _proposal(
        self, spec: ClassSpec, image: Image, probability: HeatMap
    ) -> tuple[ClassProposal, HeatMap]:
        model = self.models[spec.name]
        settings = resolve(model.settings, spec, threshold=RULE_THRESHOLD)
        mask = apply(image, probability, settings)
        score = float(evidence.window_probs(probability, self.geometry.window_px).max())
        regions = confidence.regions(mask, probability, score, model.confidence)
        return ClassProposal(spec.name, mask, score, None, regions), probability


class PixelHeads:
    """The pipeline; `clock` gives seconds."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
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
    ) -> PixelHeadFitted:
        """Train one head per class that has labelled pixels of both signs; samples in any order.

        A class that `warm_start` knows on the same encoder is trained on, and the labelled pixels
        of samples that have not changed since are taken from it. Classes that cannot start are
        skipped and say why in `metrics`. Raises NeedsWeights without pretrained weights,
        NotEnoughLabels when no class can start, and whatever `report` raises to cancel.
        """
        began = self._clock()
        samples = planning.ordered(samples)
        plans, skipped = planning.plan(samples, specs, profile.crop_px, seed)
        if not plans:
            reasons = "; ".join(skipped.values()) or "the label config names no class"
            raise NotEnoughLabels(f"nothing to train on: {reasons}")
        trunk = _trunk(profile)
        warm = _usable(warm_start, trunk, profile)
        fitting = _Fitting(samples, profile, trunk, device, warm, report, self._clock)
        figures: dict[str, Any] = {name: {"skipped": why} for name, why in skipped.items()}
        models = []
        for plan, memory in zip(plans, fitting.memories(plans), strict=True):
            model, figures[plan.spec.name] = fitting.run(plan, memory)
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
        memories = pixel_labels.read(folder / PIXELS_FILE, len(of_heads))
        models = []
        for entry, state, memory in zip(about["classes"], of_heads, memories, strict=True):
            head = PixelHead(sum(trunk.channels))
            head.load_state_dict(state)
            settings, sure = Settings(**entry["settings"]), Confidence(**entry["confidence"])
            models.append(PixelModel(entry["name"], head, settings, memory, sure))
        return PixelHeadFitted(geometry, trunk, models, about["metrics"], device)


PIPELINE = PixelHeads()


def geometry_of(profile: Profile) -> Geometry:
    """Return what a version trained under this profile needs to remember."""
    return Geometry(profile.encoder, profile.crop_px, profile.tile_px, profile.bf16)


def rule_for(spec: ClassSpec) -> Settings:
    """Return how probabilities become masks where no masks tell."""
    threshold = THIN_THRESHOLD if is_thin(spec.name) else RULE_THRESHOLD
    return default_settings(spec, threshold=threshold)


def _trunk(profile: Profile) -> Hypercolumn:
    if profile.encoder_weights is None:
        raise NeedsWeights(
            "pixel_head learns on features of a pretrained encoder, and there is none: set "
            "ENCODER_WEIGHTS to a safetensors file or to hub, or use the pipeline advcam, which "
            "learns its own"
        )
    return Hypercolumn(profile.encoder, profile.encoder_weights)


def _usable(version: Fitted | None, trunk: Hypercolumn, profile: Profile) -> PixelHeadFitted | None:
    """Return the version if its heads stand on the same features."""
    if not isinstance(version, PixelHeadFitted) or version.geometry.encoder != profile.encoder:
        return None
    pairs = zip(version.trunk.parameters(), trunk.parameters(), strict=True)
    return version if all(torch.equal(old, new) for old, new in pairs) else None


@dataclass(frozen=True)
class _Fitting:
    """What the classes of one training share."""

    samples: Sequence[Sample]
    profile: Profile
    trunk: Hypercolumn
    device: str
    warm: PixelHeadFitted | None
    report: Report
    clock: Clock

    def memories(self, plans: Sequence[ClassPlan]) -> list[tuple[Memory, Memory]]:
        """Look at each image once; per class the pixels to learn and those held out."""
        wanted = [self._places(plan) for plan in plans]
        found: list[tuple[dict[str, Pixels], dict[str, Pixels]]] = [({}, {}) for _ in plans]
        extractor = self.trunk.resident(
            device=self.device, bf16=self.profile.bf16 and has_bf16(self.device)
        )
        for index, sample in enumerate(self.samples):
            levels = None
            for plan, (learn, unseen), kept in zip(plans, wanted, found, strict=True):
                for places, memory in zip((learn.get(index), unseen.get(index)), kept, strict=True):
                    if places is None:
                        continue
                    memory_of = self._remembered(plan.spec.name, sample.key, places)
                    if memory_of is None:
                        levels = extractor.levels(sample.load()) if levels is None else levels
                        memory_of = pixel_labels.look(levels, places)
                    memory[sample.key] = memory_of
            fraction = 0.5 * (index + 1) / len(self.samples)
            step = Progress("features", "", index + 1, len(self.samples), fraction)
            self.report(step)
        return list(found)

    def run(
        self, plan: ClassPlan, memory: tuple[Memory, Memory]
    ) -> tuple[PixelModel, dict[str, Any]]:
        """Train, judge and calibrate the head of one class."""
        began = self.clock()
        learn, unseen = (list(part.values()) for part in memory)
        name = plan.spec.name
        head, is_warm = self._head(name, learn, plan.seed)
        steps = pixel_training.WARM_STEPS if is_warm else pixel_training.STEPS
        loss = pixel_training.train(
            head, learn, steps=steps, seed=plan.seed, report=self._reporter(name, steps)
        )
        model = PixelModel(name, head, rule_for(plan.spec), memory[0])
        choice = self._calibrated(model, plan)
        labels = np.concatenate([pixels.labels for pixels in learn])
        figures = {
            "positive_points": len(plan.learn.positives),
            "negative_points": len(plan.learn.negatives),
            "contradicted_points": plan.learn.contradicted,
            "held_out_points": len(plan.held_out.positives) + len(plan.held_out.negatives),
            "pixels": {"positive": int(labels.sum()), "negative": int((~labels).sum())},
            "warm_start": is_warm,
            "steps": steps,
            "loss": loss,
            "f_measure": pixel_training.f_measure(head, unseen),
            "seconds": self.clock() - began,
            "settings": asdict(choice.settings),
            "calibration": choice.table,
        }
        chosen = replace(model, settings=choice.settings, confidence=choice.confidence)
        return chosen, figures

    def _places(self, plan: ClassPlan) -> tuple[Mapping[int, Places], Mapping[int, Places]]:
        learnt = [n for n, sample in enumerate(self.samples) if sample.key not in plan.unseen]
        name, patch_px = plan.spec.name, self.profile.crop_px
        return (
            pixel_labels.places(self.samples, name, plan.learn, patch_px, among=learnt),
            pixel_labels.places(self.samples, name, plan.held_out, patch_px, among=()),
        )

    def _remembered(self, class_name: str, key: str, places: Places) -> Pixels | None:
        if self.warm is None or class_name not in self.warm.models:
            return None
        kept = self.warm.models[class_name].memory.get(key)
        return kept if kept is not None and kept.digest == places.digest else None

    def _head(self, class_name: str, pixels: Sequence[Pixels], seed: int) -> tuple[PixelHead, bool]:
        """Copy the head of the version to start from, or make a fresh one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = PixelHead(sum(self.trunk.channels)).to(self.device)
        if self.warm is not None and class_name in self.warm.models:
            head.load_state_dict(self.warm.models[class_name].head.state_dict())
            return head, True
        columns = np.concatenate([p.columns for p in pixels]).astype(np.float32)
        head.set_range(torch.from_numpy(columns))
        return head, False

    def _calibrated(self, model: PixelModel, plan: ClassPlan) -> calibration.Choice:
        """Choose how probabilities are cut, on masks that were not learnt: others look too good."""
        trial = PixelHeadFitted(geometry_of(self.profile), self.trunk, [model], {}, self.device)

        def heat_and_score(image: Image, _: int) -> tuple[HeatMap, float]:
            (heat,) = trial.scan(image, [model.name]).probabilities
            return heat, float(evidence.window_probs(heat, self.profile.crop_px).max())

        unseen = [sample for sample in self.samples if sample.key in plan.unseen]
        return calibration.choose(
            unseen,
            plan.spec,
            heat_and_score,
            iterations=(1,),
            thresholds=THRESHOLDS,
            rule=rule_for(plan.spec),
        )

    def _reporter(self, class_name: str, steps: int) -> Callable[[int, float], None]:
        began = self.clock()

        def report(step: int, loss: float) -> None:
            left = (self.clock() - began) / step * (steps - step)
            fraction = 0.5 + 0.4 * step / steps
            progress = Progress(
                "training", class_name, step, steps, fraction, loss=loss, seconds_left=left
            )
            self.report(progress)

        return report
