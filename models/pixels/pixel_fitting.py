"""Fit the classes of a pixel head: gather labelled pixels, train, judge, choose settings.

What a version to start from knows is used where it still holds: pixels of samples that have not
changed, and settings until there is much more to choose them by.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from models.base import ClassSpec, HeatMap, Image, Profile, Sample
from models.learning.crops import Clicks
from models.learning.planning import ClassPlan
from models.learning.training import ClassProgress, Clock, Standing
from models.masks import calibration
from models.masks.confidence import Confidence
from models.masks.settings import Settings, default_settings, is_thin
from models.networks.hypercolumn import Hypercolumn, PixelHead
from models.pixels import pixel_labels, pixel_memory, pixel_training
from models.pixels.pixel_labels import Pixels
from models.pixels.pixel_memory import Memory, Wanted
from models.pixels.pixel_scan import scan
from models.proposing import RULE_THRESHOLD, score_of

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MORE_MASKS, MORE_SAMPLES = 1.25, 2.0  # times as many: settings are chosen anew in a refit
THIN_THRESHOLD = 0.9  # a click on a crack lights up its neighbours: darkness draws the outline


@dataclass(frozen=True)
class PixelModel:
    """One class: its head, how its heat becomes a mask, and the labelled pixels that people gave.

    memory: what the head learnt from; unseen: what was held out; judged: names what settings and
    confidence were chosen by, see `Fitting`.
    """

    name: str
    head: PixelHead
    settings: Settings
    memory: Memory
    unseen: Memory
    judged: str
    confidence: Confidence = field(default_factory=Confidence)


def rule_for(spec: ClassSpec) -> Settings:
    """Return how probabilities become masks where no masks tell."""
    threshold = THIN_THRESHOLD if is_thin(spec.name) else RULE_THRESHOLD
    return default_settings(spec, threshold=threshold)


@dataclass(frozen=True)
class Fitting:
    """What the classes of one training share.

    trunk: resident on the device. warm, warm_figures: the classes of a version to start from, whose
    heads stand on the same features, and the figures of their training. Settings of such a class
    are kept until its spec changes, or there are MORE_MASKS times as many held-out masks or
    MORE_SAMPLES times as many samples to learn from: choosing takes longer than learning.
    """

    samples: Sequence[Sample]
    profile: Profile
    trunk: Hypercolumn
    device: str
    warm: Mapping[str, PixelModel]
    warm_figures: Mapping[str, Any]
    clock: Clock

    def memories(
        self, plans: Sequence[ClassPlan], report: Callable[[int], None]
    ) -> list[tuple[Memory, Memory]]:
        """Look at each changed image once; per class the pixels to learn and those held out."""
        found = pixel_memory.gather(
            self.samples,
            [wanted for plan in plans for wanted in self._wanted(plan)],
            self.trunk,
            tile_px=self.profile.tile_px,
            report=report,
        )
        return list(zip(found[::2], found[1::2], strict=True))

    def run(
        self,
        plan: ClassPlan,
        memories: tuple[Memory, Memory],
        steps: int,
        progress: ClassProgress,
    ) -> tuple[PixelModel, dict[str, Any]]:
        """Train, judge and calibrate the head of one class."""
        began = self.clock()
        memory, unseen = memories
        learn = list(memory.values())
        head = self._head(plan, learn)
        loss = pixel_training.train(
            head, learn, steps=steps, seed=plan.seed, report=self._reporter(progress, steps)
        )
        progress.calibrating()
        judged = self._judged(plan, len(learn))
        name = plan.spec.name
        model = PixelModel(name, head, rule_for(plan.spec), memory, unseen, judged)
        choice = self._kept(plan, judged) or self._calibrated(model, plan)
        labels = np.concatenate([pixels.labels for pixels in learn])
        figures = {
            "positive_points": len(plan.learn.positives),
            "negative_points": len(plan.learn.negatives),
            "contradicted_points": plan.learn.contradicted,
            "held_out_points": len(plan.held_out.positives) + len(plan.held_out.negatives),
            "pixels": {"positive": int(labels.sum()), "negative": int((~labels).sum())},
            "warm_start": plan.spec.name in self.warm,
            "steps": steps,
            "loss": loss,
            "f_measure": pixel_training.f_measure(head, list(unseen.values())),
            "seconds": self.clock() - began,
            "settings": asdict(choice.settings),
            "calibration": choice.table,
        }
        return replace(model, settings=choice.settings, confidence=choice.confidence), figures

    def _wanted(self, plan: ClassPlan) -> tuple[Wanted, Wanted]:
        """Return what is to be learnt and what is held out, beside what is known of both."""
        learnt = {n for n, sample in enumerate(self.samples) if sample.key not in plan.unseen}
        before = self.warm.get(plan.spec.name)
        known = {**before.memory, **before.unseen} if before else {}

        def wanted(clicks: Clicks, among: Collection[int]) -> Wanted:
            name, patch_px = plan.spec.name, self.profile.crop_px
            return Wanted(
                pixel_labels.places(self.samples, name, clicks, patch_px, among=among), known
            )

        return wanted(plan.learn, learnt), wanted(plan.held_out, ())

    def _head(self, plan: ClassPlan, pixels: Sequence[Pixels]) -> PixelHead:
        """Copy the head of the version to start from, or make a fresh one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            head = PixelHead(sum(self.trunk.channels)).to(self.device)
        before = self.warm.get(plan.spec.name)
        if before:
            head.load_state_dict(before.head.state_dict())
        else:
            columns = np.concatenate([p.columns for p in pixels]).astype(np.float32)
            head.set_range(torch.from_numpy(columns))
        return head

    def _judged(self, plan: ClassPlan, learnt: int) -> str:
        """Name what settings are chosen by; changes as the samples grow, ever more rarely."""
        masks = sum(plan.spec.name in sample.masks for sample in self._unseen(plan))
        spec = replace(plan.spec, pipeline=None)
        levels = _level(masks, MORE_MASKS), _level(learnt, MORE_SAMPLES)
        return hashlib.sha256(f"{spec} {levels}".encode()).hexdigest()[:16]

    def _kept(self, plan: ClassPlan, judged: str) -> calibration.Choice | None:
        """Return the settings of the version to start from while nothing speaks against them."""
        before = self.warm.get(plan.spec.name)
        if before is None or before.judged != judged:
            return None
        table = self.warm_figures[plan.spec.name]["calibration"]
        return calibration.Choice(before.settings, before.confidence, {**table, "kept": True})

    def _calibrated(self, model: PixelModel, plan: ClassPlan) -> calibration.Choice:
        """Choose how probabilities are cut, on masks that were not learnt: others look too good."""

        def heat_and_score(image: Image, _: int) -> tuple[HeatMap, float]:
            seen = scan(self.trunk, [model.head], image, tile_px=self.profile.tile_px)
            (heat,) = seen.probabilities
            return heat, score_of(heat, self.profile.crop_px)

        return calibration.choose(
            self._unseen(plan),
            plan.spec,
            heat_and_score,
            iterations=(1,),
            thresholds=THRESHOLDS,
            rule=model.settings,
        )

    def _unseen(self, plan: ClassPlan) -> list[Sample]:
        return [sample for sample in self.samples if sample.key in plan.unseen]

    def _reporter(self, progress: ClassProgress, steps: int) -> Callable[[int, float], None]:
        began = self.clock()

        def report(step: int, loss: float) -> None:
            spent = self.clock() - began
            left = spent / step * (steps - step)
            progress.training(Standing(step, steps, loss, None, spent, left))

        return report


def _level(count: int, factor: float) -> int:
    """Return how often `count` has grown by the factor."""
    return int(math.log(max(count, 1), factor))
