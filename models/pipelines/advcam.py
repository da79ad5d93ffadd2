"""Janouskova et al.: patch classifiers, their (climbed) activation maps, refined.

Trained on crops around weak points: one network per class as in the paper, or one trunk with a head
per class. Images of any size are proposed for by tiles.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from models import evidence, saving, tiling
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
from models.learning import planning, training
from models.learning.planning import ClassPlan, Material
from models.learning.training import Trained
from models.masks import calibration, confidence
from models.masks.calibration import Settings
from models.masks.confidence import Confidence
from models.networks.unet import TruncatedUNet, inference_copy

FORMAT, READABLE = 2, (1, 2)


@dataclass(frozen=True)
class Geometry:
    """What a saved version needs to compute as it did when trained."""

    encoder: str
    decoder_widths: tuple[int, ...]
    window_px: int
    tile_px: int
    bf16: bool


@dataclass(frozen=True)
class ClassModel:
    """One class: its network as trained (float32, on the CPU), and how its heat becomes a mask.

    head: the output of the network that is the class's; classes of a shared trunk hold the same
    network.
    """

    name: str
    network: TruncatedUNet
    settings: Settings
    confidence: Confidence = field(default_factory=Confidence)
    head: int = 0


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
            id(network): inference_copy(network, device=device, bf16=bf16)
            for network in _networks(models)
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
        settings = {
            spec.name: calibration.resolve(self.models[spec.name].settings, spec)
            for spec in specs
            if spec.name in self.models
        }
        analyses = self.analyse(image, {name: s.iterations for name, s in settings.items()})
        proposals = []
        for name, analysis in analyses.items():
            mask = calibration.apply(image, analysis.heat, settings[name])
            sure = self.models[name].confidence
            regions = confidence.regions(mask, analysis.heat, analysis.score, sure)
            shown = analysis.heat if heat else None
            proposals.append(ClassProposal(name, mask, analysis.score, shown, regions))
        asked = {id(self.models[name].network): analyses[name].embedding for name in analyses}
        seen = evidence.gather(
            list(analyses),
            [analysis.window_probs for analysis in analyses.values()],
            list(asked.values()),
            {
                p.class_name: evidence.proposal_stats(p.mask, analyses[p.class_name].heat)
                for p in proposals
            },
            [analysis.samples for analysis in analyses.values()],
        )
        return TaskProposal(tuple(proposals), seen)

    def save(self, folder: Path) -> None:
        """Write safetensors and JSON into an existing empty folder.

        Raises ValueError for weights that are not finite.
        """
        networks = _networks(self.models.values())
        places = [id(network) for network in networks]
        entries = [
            {
                "name": model.name,
                "network": places.index(id(model.network)),
                "head": model.head,
                "settings": asdict(model.settings),
                "confidence": asdict(model.confidence),
            }
            for model in self.models.values()
        ]
        about = {
            "format": FORMAT,
            "pipeline": "advcam",
            "geometry": asdict(self.geometry),
            "classes": entries,
            "metrics": self._metrics,
        }
        saving.write(folder, about, networks, [self._served_by(network) for network in networks])

    def analyse(self, image: Image, iterations: Mapping[str, int]) -> dict[str, tiling.Analysis]:
        """Score, window and explain an image for the classes of `iterations`, all known.

        Classes of one network share its forward pass.
        """
        found: dict[str, tiling.Analysis] = {}
        wanted = [self.models[name] for name in iterations]
        for network in _networks(wanted):
            own = [model for model in wanted if model.network is network]
            climbs = [1] * network.head.out_channels
            for model in own:
                climbs[model.head] = iterations[model.name]
            analyses = tiling.analyse_classes(
                self._resident[id(network)],
                image,
                tile_px=self.geometry.tile_px,
                window_px=self.geometry.window_px,
                iterations=climbs,
            )
            found |= {model.name: analyses[model.head] for model in own}
        return {name: found[name] for name in iterations}

    def _served_by(self, network: TruncatedUNet) -> str:
        return ", ".join(name for name, model in self.models.items() if model.network is network)


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
        """Train the classes that have points of both signs; the order of samples is free.

        Classes that cannot start are skipped and say why in `metrics`; networks that `warm_start`
        has in the same shape and for the same classes are trained on for `warm_steps`.
        Raises NotEnoughLabels when no class can start, ValueError when samples have equal keys,
        training.TrainingDiverged, and whatever `report` raises to cancel.
        """
        began = self._clock()
        ordered = planning.ordered(samples)
        plans, skipped = planning.plan(ordered, specs, profile.crop_px, seed)
        if not plans:
            reasons = "; ".join(skipped.values()) or "the label config names no class"
            raise NotEnoughLabels(f"nothing to train on: {reasons}")
        material = planning.cut(ordered, plans, profile)
        cutting_s = self._clock() - began
        pairs = list(zip(plans, material, strict=True))
        groups = [pairs] if profile.shared_trunk else [[pair] for pair in pairs]
        job = _Job(ordered, profile, device)
        figures: dict[str, Any] = {name: {"skipped": why} for name, why in skipped.items()}
        models: list[ClassModel] = []
        for index, group in enumerate(groups):
            names = [one.spec.name for one, _ in group]
            warm = _warm_network(warm_start, names, job.geometry)
            progress = training.ClassProgress(report, ", ".join(names), index, len(groups))
            made, rows = self._fit_network(job, group, progress, warm)
            models += made
            figures |= rows
        metrics = {
            "profile": profile.name,
            "seed": seed,
            "encoder": profile.encoder,
            "encoder_weights": "none" if profile.encoder_weights is None else "pretrained",
            "shared_trunk": profile.shared_trunk,
            "cutting_seconds": cutting_s,
            "seconds": self._clock() - began,
            "classes": figures,
        }
        return AdvCamFitted(job.geometry, models, metrics, device)

    def load(self, folder: Path, *, device: str) -> AdvCamFitted:
        """Load what `save` wrote; raises ValueError for a folder of another format."""
        about = saving.read(folder, "advcam", READABLE)
        fields = about["geometry"]
        geometry = Geometry(**{**fields, "decoder_widths": tuple(fields["decoder_widths"])})
        networks = []
        for state in saving.read_weights(folder):
            heads = len(state["head.weight"])
            network = TruncatedUNet(geometry.encoder, geometry.decoder_widths, classes=heads)
            network.load_state_dict(state)
            networks.append(network.eval())
        entries = about["classes"] if about["format"] == FORMAT else _of_format_1(about["classes"])
        models = [
            ClassModel(
                entry["name"],
                networks[entry["network"]],
                Settings(**entry["settings"]),
                Confidence(**entry["confidence"]),
                entry["head"],
            )
            for entry in entries
        ]
        return AdvCamFitted(geometry, models, about["metrics"], device)

    def _fit_network(
        self,
        job: _Job,
        group: Sequence[tuple[ClassPlan, Material]],
        progress: training.ClassProgress,
        warm: TruncatedUNet | None,
    ) -> tuple[list[ClassModel], dict[str, Any]]:
        """Train one network for the classes of a group, then choose settings for each."""
        began = self._clock()
        plans = [one for one, _ in group]
        network = job.network(plans) if warm is None else warm
        per_class = job.profile.max_steps if warm is None else job.profile.warm_steps
        trained = training.train(
            network,
            [material.source for _, material in group],
            [material.held_out for _, material in group],
            profile=job.profile,
            steps=per_class * len(group),
            seed=plans[0].seed,
            device=job.device,
            report=progress.training,
            clock=self._clock,
        )
        network.to("cpu")
        share_s = (self._clock() - began) / len(group)
        bare = [
            ClassModel(one.spec.name, network, calibration.default_settings(one.spec), head=head)
            for head, one in enumerate(plans)
        ]
        trial = AdvCamFitted(job.geometry, bare, {}, job.device)
        models, figures = [], {}
        for model, one in zip(bare, plans, strict=True):
            since = self._clock()
            progress.calibrating(model.head, len(plans))
            chosen = job.calibrated(trial, one)
            models.append(
                ClassModel(model.name, network, chosen.settings, chosen.confidence, model.head)
            )
            figures[model.name] = {
                **_figures(one, trained, model.head),
                "warm_start": warm is not None,
                "seconds": share_s + self._clock() - since,
                "settings": asdict(chosen.settings),
                "calibration": chosen.table,
            }
        return models, figures


PIPELINE = AdvCam()


def geometry_of(profile: Profile) -> Geometry:
    """Return what a version trained under this profile needs to remember."""
    return Geometry(
        profile.encoder, profile.decoder_widths, profile.crop_px, profile.tile_px, profile.bf16
    )


@dataclass(frozen=True)
class _Job:
    """What all networks of one training have in common."""

    samples: Sequence[Sample]
    profile: Profile
    device: str

    @property
    def geometry(self) -> Geometry:
        return geometry_of(self.profile)

    def network(self, plans: Sequence[ClassPlan]) -> TruncatedUNet:
        """Make a fresh network, its random part from the seed of the first class alone."""
        profile = self.profile
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plans[0].seed)
            return TruncatedUNet(
                profile.encoder, profile.decoder_widths, profile.encoder_weights, len(plans)
            )

    def calibrated(self, trial: AdvCamFitted, plan: ClassPlan) -> calibration.Choice:
        """Choose how the heat of a class becomes a mask, on samples it has not learnt if it can."""
        name = plan.spec.name

        def heat_and_score_of(image: Image, iterations: int) -> tuple[HeatMap, float]:
            analysis = trial.analyse(image, {name: iterations})[name]
            return analysis.heat, analysis.score

        return calibration.choose(self.samples, plan.spec, heat_and_score_of, preferred=plan.unseen)


def _figures(plan: ClassPlan, trained: Trained, head: int) -> dict[str, Any]:
    learn, held_out = plan.learn, plan.held_out
    return {
        "positive_points": len(learn.positives) + len(held_out.positives),
        "negative_points": len(learn.negatives) + len(held_out.negatives),
        "contradicted_points": learn.contradicted + held_out.contradicted,
        "held_out_points": len(held_out.positives) + len(held_out.negatives),
        "steps": trained.steps,
        "best_step": trained.best_step,
        "loss": trained.loss,
        "f_measure": trained.f_measures[head],
        "waiting_seconds": trained.waiting_s,
    }


def _networks(models: Iterable[ClassModel]) -> list[TruncatedUNet]:
    """Return the networks of some classes, each once, in order."""
    return list({id(model.network): model.network for model in models}.values())


def _warm_network(
    version: Fitted | None, names: Sequence[str], geometry: Geometry
) -> TruncatedUNet | None:
    """Copy the network of another version if it has one of the same shape for these classes."""
    if not isinstance(version, AdvCamFitted) or not version.models.keys() >= set(names):
        return None
    old = version.geometry
    if (old.encoder, old.decoder_widths) != (geometry.encoder, geometry.decoder_widths):
        return None
    models = [version.models[name] for name in names]
    network = models[0].network
    same = all(model.network is network and model.head == n for n, model in enumerate(models))
    if not same or network.head.out_channels != len(names):
        return None
    return copy.deepcopy(network)


def _of_format_1(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Read the first format: a network per class, four settings, no confidence."""
    return [
        {
            "name": entry["name"],
            "network": index,
            "head": 0,
            "settings": {key: value for key, value in entry.items() if key != "name"},
            "confidence": {},
        }
        for index, entry in enumerate(entries)
    ]
