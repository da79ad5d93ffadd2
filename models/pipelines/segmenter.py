"""Learn from corrected masks: the U-Net of the classifier, its score map trained pixel by pixel.

As Janouskova et al. propose, it may start from the classifier of the class. Pixels that nobody has
verified are ignored; weak points of images without a mask speak of little discs and patches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from models import evidence, refine, saving
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
from models.learning import dense, losses, partial_labels, planning, training
from models.learning.dense import Scan
from models.learning.dense_crops import Load
from models.masks import calibration, confidence
from models.masks.confidence import Confidence
from models.masks.settings import Settings, apply, resolve
from models.networks.unet import TruncatedUNet, inference_copy
from models.pipelines.advcam import AdvCamFitted, ClassModel, Geometry, geometry_of
from models.pipelines.self_training import SelfTrainingFitted, widths_of

FORMAT, READABLE = 2, (1, 2)
NAME, STUDENT = "segmenter", "student"
LEARNT_PER_PIXEL = (NAME, STUDENT)  # a few steps suffice from there
LEAST_MASKS = 15  # that show the class
WEAK_WEIGHT = 0.25  # of a pixel that a weak point speaks of, beside one of a verified mask
WEAK_PER_MASK = 2  # samples with weak points alone, at most
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
RULE_THRESHOLD = 0.5


class SegmenterFitted:
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

        image: (H, W, 3) uint8 RGB of any size from 1 x 1. The heat is a probability; `iterations`
        of a spec mean nothing here. Raises ValueError for another kind of array.
        """
        known = [spec for spec in specs if spec.name in self.models]
        proposals, probs, embeddings, stats, samples = [], [], [], {}, []
        window_px = self.geometry.window_px
        for spec in known:
            scan = self.scan(spec.name, image)
            probs.append(evidence.window_probs(scan.probability, window_px))
            samples.append(evidence.window_samples(scan.passes, image.shape[:2], window_px))
            proposed = self._proposal(spec, image, scan.probability, float(probs[-1].max()))
            stats[spec.name] = evidence.proposal_stats(proposed.mask, scan.probability)
            proposals.append(proposed if heat else replace(proposed, heat=None))
            embeddings.append(scan.embedding)
        names = [spec.name for spec in known]
        seen = evidence.gather(names, probs, embeddings, stats, samples)
        return TaskProposal(tuple(proposals), seen)

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
                    "decoder_widths": model.network.decoder_widths,
                    "settings": asdict(model.settings),
                    "confidence": asdict(model.confidence),
                }
                for model in models
            ],
            "metrics": self._metrics,
        }
        saving.write(folder, about, [m.network for m in models], [m.name for m in models])

    def scan(self, class_name: str, image: Image) -> Scan:
        """Return the probability of each pixel, and mean features, for a class that it knows."""
        return dense.scan(self._resident[class_name], image, self.geometry.tile_px)

    def _proposal(
        self, spec: ClassSpec, image: Image, heat: HeatMap, score: float
    ) -> ClassProposal:
        model = self.models[spec.name]
        settings = resolve(model.settings, spec, threshold=RULE_THRESHOLD)
        mask = apply(image, heat, settings)
        regions = confidence.regions(mask, heat, score, model.confidence)
        return ClassProposal(spec.name, mask, score, heat, regions)


@dataclass(frozen=True)
class Segmenter:
    """The pipeline; `clock` gives seconds.

    loss: name of one of `models.learning.losses`; least_masks: verified masks that must show a
    class; weak_weight: see WEAK_WEIGHT, 0 = masks alone; starts: versions whose networks are
    started from where `warm_start` has none of the class, the first that has one.
    """

    clock: training.Clock = time.monotonic
    loss: str = "focal_soft_iou"
    least_masks: int = LEAST_MASKS
    weak_weight: float = WEAK_WEIGHT
    starts: tuple[Fitted, ...] = ()

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
    ) -> SegmenterFitted:
        """Train one network per class that enough verified masks show; samples in any order.

        Classes that cannot start are skipped and say why in `metrics`. A class of which
        `warm_start` or one of `starts` has a network of a known shape starts from it: what was
        learnt per pixel (a segmenter's, a self-trained student's) is trained on for `warm_steps`,
        a classifier as long as a fresh network. Raises NotEnoughLabels when no class can start,
        training.TrainingDiverged, and whatever `report` raises to cancel.
        """
        began = self.clock()
        samples = planning.ordered(samples)
        showing = shown_by(samples, [spec.name for spec in specs])
        skipped = {
            name: f"{len(keys)} verified masks show {name!r}; {self.least_masks} are needed"
            for name, keys in showing.items()
            if not can_learn(samples, keys, self.least_masks)
        }
        jobs = [
            _Job(self, samples, spec, showing[spec.name], profile, seed, device)
            for spec in specs
            if spec.name not in skipped
        ]
        if not jobs:
            reasons = "; ".join(skipped.values()) or "the label config names no class"
            raise NotEnoughLabels(f"nothing to train on: {reasons}")
        figures: dict[str, Any] = {name: {"skipped": why} for name, why in skipped.items()}
        models = []
        for index, job in enumerate(jobs):
            progress = training.ClassProgress(report, job.spec.name, index, len(jobs))
            model, figures[job.spec.name] = job.run(progress, warm_start)
            models.append(model)
        metrics = {
            "profile": profile.name,
            "seed": seed,
            "encoder_weights": "none" if profile.encoder_weights is None else "pretrained",
            "seconds": self.clock() - began,
            "classes": figures,
        }
        return SegmenterFitted(geometry_of(profile), models, metrics, device)

    def load(self, folder: Path, *, device: str) -> SegmenterFitted:
        """Load what `save` wrote; raises ValueError for a folder of another format."""
        about = saving.read(folder, NAME, READABLE)
        fields = about["geometry"]
        geometry = Geometry(**{**fields, "decoder_widths": tuple(fields["decoder_widths"])})
        models = []
        states = saving.read_weights(folder)
        for entry, state in zip(about["classes"], states, strict=True):
            widths = tuple(entry.get("decoder_widths", geometry.decoder_widths))  # since format 2
            network = TruncatedUNet(geometry.encoder, widths)
            network.load_state_dict(state)
            settings, sure = Settings(**entry["settings"]), Confidence(**entry["confidence"])
            models.append(ClassModel(entry["name"], network.eval(), settings, sure))
        return SegmenterFitted(geometry, models, about["metrics"], device)


PIPELINE = Segmenter()


def shown_by(samples: Sequence[Sample], class_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return for each class the keys of the samples whose verified masks show it."""
    return {
        name: tuple(s.key for s in samples if name in s.masks and s.masks[name]().any())
        for name in class_names
    }


def can_learn(samples: Sequence[Sample], showing: Sequence[str], least: int) -> bool:
    """Tell whether a class has `least` masks, not more than half of them held out."""
    own = {sample.key for sample in samples if not sample.held_out}
    return len(showing) >= least <= 2 * len(own.intersection(showing))


@dataclass(frozen=True)
class _Job:
    """One class to be trained; showing: keys of the samples whose masks show it."""

    method: Segmenter
    samples: Sequence[Sample]
    spec: ClassSpec
    showing: Sequence[str]
    profile: Profile
    seed: int
    device: str

    def run(
        self, progress: training.ClassProgress, warm_start: Fitted | None
    ) -> tuple[ClassModel, dict[str, Any]]:
        clock = self.method.clock
        began = clock()
        learn, unseen = self._split()
        weak = self._weak(len(learn))
        network, source = self._network(warm_start)
        profile = dense.profile_for(self.profile)
        trained = dense.train(
            network,
            [partial_labels.verified(s, self.spec.name) for s in learn] + weak,
            [partial_labels.verified(s, self.spec.name) for s in unseen],
            profile=profile,
            steps=profile.warm_steps if source in LEARNT_PER_PIXEL else profile.max_steps,
            seed=self.seed,
            device=self.device,
            report=progress.training,
            loss=losses.get(self.method.loss),
            clock=clock,
        )
        network.to("cpu")
        progress.calibrating()
        choice = self._calibrated(network, unseen)
        figures = {
            "masks": len(learn),
            "masks_with_class": len(self.showing),
            "held_out_masks": len(unseen),
            "samples_with_points": len(weak),
            "warm_start": source,
            "loss_name": self.method.loss,
            "steps": trained.steps,
            "best_step": trained.best_step,
            "loss": trained.loss,
            "f_measure": trained.f_measure,
            "seconds": clock() - began,
            "settings": asdict(choice.settings),
            "calibration": choice.table,
        }
        return ClassModel(self.spec.name, network, choice.settings, choice.confidence), figures

    def _split(self) -> tuple[list[Sample], list[Sample]]:
        """Part the samples with masks into those to learn and those held out."""
        out = planning.held_out(self.samples)
        masked = [n for n, s in enumerate(self.samples) if self.spec.name in s.masks]
        learn, unseen = (
            [self.samples[n] for n in masked if (n in out) == side] for side in (False, True)
        )
        if any(s.key in self.showing for s in learn) or any(s.held_out for s in unseen):
            return learn, unseen
        return learn + unseen, []

    def _weak(self, masks: int) -> list[Load]:
        """Draw samples that have weak points of the class and no mask."""
        if self.method.weak_weight == 0:
            return []
        out = planning.held_out(self.samples)
        own = [
            sample
            for n, sample in enumerate(self.samples)
            if n not in out
            and self.spec.name not in sample.masks
            and partial_labels.has_points(sample, self.spec.name)
        ]
        drawn = np.random.default_rng(self.seed).permutation(len(own))[: WEAK_PER_MASK * masks]
        return [
            partial_labels.clicked(
                own[n],
                self.spec.name,
                patch_px=self.profile.crop_px,
                radius_px=self.profile.point_radius_px,
                weight=self.method.weak_weight,
            )
            for n in sorted(drawn)
        ]

    def _network(self, warm_start: Fitted | None) -> tuple[TruncatedUNet, str]:
        """Copy the network to start from, or make a fresh one; says which it is."""
        for version in (warm_start, *self.method.starts):
            found = _copied(version, self.spec.name, self.profile)
            if found is not None:
                return found
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            profile = self.profile
            network = TruncatedUNet(
                profile.encoder, profile.decoder_widths, profile.encoder_weights
            )
        return network, "none"

    def _calibrated(self, network: TruncatedUNet, unseen: Sequence[Sample]) -> calibration.Choice:
        """Choose how probabilities are cut, on masks that were not learnt: others look too good."""
        geometry = geometry_of(self.profile)
        rule = rule_for(self.spec)
        model = ClassModel(self.spec.name, network, rule)
        trial = SegmenterFitted(geometry, [model], {}, self.device)

        def heat_and_score(image: Image, _: int) -> tuple[HeatMap, float]:
            heat = trial.scan(self.spec.name, image).probability
            return heat, float(evidence.window_probs(heat, geometry.window_px).max())

        return calibration.choose(
            unseen, self.spec, heat_and_score, iterations=(1,), thresholds=THRESHOLDS, rule=rule
        )


def rule_for(spec: ClassSpec) -> Settings:
    """Cut probabilities in the middle, unless masks or the spec say otherwise."""
    plain = refine.get("threshold")
    rule = Settings("threshold", 1, RULE_THRESHOLD, plain.default_min_area_px)
    return resolve(rule, spec, threshold=RULE_THRESHOLD)


class _Source(NamedTuple):
    """A network to start from, which of its outputs is the class's, and what had learnt it."""

    network: TruncatedUNet
    encoder: str
    head: int
    kind: str


def _source(version: Fitted | None, class_name: str) -> _Source | None:
    """Find what a version knows of a class; a student that looks at smaller images does not do."""
    if isinstance(version, SelfTrainingFitted):
        student = version.students.get(class_name)
        if student is None or student.scale != 1:
            return None
        return _Source(student.network, version.geometry.encoder, 0, STUDENT)
    if isinstance(version, (SegmenterFitted, AdvCamFitted)) and class_name in version.models:
        model = version.models[class_name]
        kind = NAME if isinstance(version, SegmenterFitted) else "classifier"
        return _Source(model.network, version.geometry.encoder, model.head, kind)
    return None


def _copied(
    version: Fitted | None, class_name: str, profile: Profile
) -> tuple[TruncatedUNet, str] | None:
    """Copy the network of a class if it has a wanted shape; says what had learnt it."""
    found = _source(version, class_name)
    if found is None or found.encoder != profile.encoder:
        return None
    widths = found.network.decoder_widths
    if widths not in (profile.decoder_widths, widths_of(class_name)):
        return None
    state = found.network.state_dict()
    state["head.weight"] = state["head.weight"][found.head : found.head + 1]
    network = TruncatedUNet(profile.encoder, widths)
    network.load_state_dict(state)
    return network, found.kind
