"""One round of self-training: a U-Net learns from masks that a pixel head made of the clicks.

The teacher, a `pixel_head`, labels the very images that were clicked on; its masks are refined
(outlines follow darkness or colour), what people said overrules them, and what the teacher is
unsure of counts less. The student sees more than a pixel's hypercolumn and smooths the teacher's
mistakes (Koenig et al. 2022 train on pseudo-labels likewise).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from models import passes, saving
from models.base import (
    ClassSpec,
    Fitted,
    HeatMap,
    Image,
    Profile,
    Report,
    Sample,
    TaskProposal,
)
from models.learning import dense, losses, planning, pseudo_labels
from models.learning.dense import Scan
from models.learning.dense_crops import FloatMap, Load, check_image
from models.learning.training import ClassProgress, Clock, has_bf16
from models.masks import calibration
from models.masks.confidence import Confidence
from models.masks.settings import Settings, is_thin, resolve
from models.networks.unet import TruncatedUNet, inference_copy
from models.passes import Cells
from models.pipelines.pixel_head import Geometry, PixelHeadFitted, PixelHeads, geometry_of, within
from models.pixels.pixel_fitting import THRESHOLDS, rule_for
from models.proposing import score_of, task_proposal

FORMAT = 1
NAME = "self_training"
TEACHER_FOLDER = "teacher"
TEACHER_SHARE = 0.3  # of the time
MOST_SAMPLES = 120  # labelled by the teacher; more take time and bring little
SIDE_PX = 448  # compact defects are seen at a scale at which images are about this large
THIN_WIDTHS, COMPACT_WIDTHS = (64, 32), (128, 64, 32)  # of the student's decoder
THIN_RULE = Settings("threshold", 1, 0.85, 40)  # the student draws the outline itself
SHARE = 0.5  # of the student in the heat; their mean beat either by .02 to .05 on cracks
LOSS = "bce_soft_iou"


@dataclass(frozen=True)
class Student:
    """One class: the U-Net, the scale at which it looks, and how its heat becomes a mask.

    share: of the student in the heat; the rest is the teacher's.
    """

    name: str
    network: TruncatedUNet
    scale: float
    share: float
    settings: Settings
    confidence: Confidence = field(default_factory=Confidence)


class Look(NamedTuple):
    """What one look gives: per class the probabilities (H, W), mean features (D,), and passes."""

    heats: list[HeatMap]
    embeddings: list[FloatMap]
    passes: list[Cells]


class SelfTrainingFitted:
    """A trained version, resident on one device; safe to share between threads."""

    def __init__(
        self,
        geometry: Geometry,
        teacher: PixelHeadFitted,
        students: Sequence[Student],
        metrics: Mapping[str, Any],
        device: str,
    ) -> None:
        bf16 = geometry.bf16 and has_bf16(device)
        self.geometry = geometry
        self.teacher = teacher
        self.students = {student.name: student for student in students}
        self._metrics = dict(metrics)
        self._resident = {
            s.name: inference_copy(s.network, device=device, bf16=bf16) for s in students
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names it was trained for."""
        return tuple(self.students)

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
        known = [spec for spec in specs if spec.name in self.students]
        seen = self.look(image, [spec.name for spec in known])
        return task_proposal(
            image,
            known,
            seen.heats,
            self.students,
            seen.embeddings,
            seen.passes,
            window_px=self.geometry.window_px,
            heat=heat,
        )

    def look(self, image: Image, class_names: Sequence[str]) -> Look:
        """Return the probability maps of classes that it knows, mean features, and passes.

        The teacher looks only where it has a share in the heat; then its features are returned.
        """
        check_image(image)
        mixed = [name for name in class_names if self.students[name].share < 1]
        found = [self._student_scan(name, image) for name in class_names]
        heats, drawn = [own.probability for own in found], [own.passes for own in found]
        if not mixed:
            return Look(heats, [own.embedding for own in found], drawn)
        seen = self.teacher.scan(image, mixed)
        for name, taught, votes in zip(mixed, seen.probabilities, seen.passes, strict=True):
            n, share = class_names.index(name), self.students[name].share
            heats[n] = share * heats[n] + (1 - share) * taught
            drawn[n] = share * drawn[n] + (1 - share) * passes.repeated(votes, len(drawn[n]))
        return Look(heats, [seen.embedding], drawn)

    def save(self, folder: Path) -> None:
        """Write safetensors and JSON into an existing empty folder, the teacher below it.

        Raises ValueError for weights that are not finite.
        """
        students = list(self.students.values())
        about = {
            "format": FORMAT,
            "pipeline": NAME,
            "geometry": asdict(self.geometry),
            "classes": [
                {
                    "name": student.name,
                    "scale": student.scale,
                    "share": student.share,
                    "settings": asdict(student.settings),
                    "confidence": asdict(student.confidence),
                }
                for student in students
            ],
            "metrics": self._metrics,
        }
        saving.write(folder, about, [s.network for s in students], list(self.students))
        (folder / TEACHER_FOLDER).mkdir()
        self.teacher.save(folder / TEACHER_FOLDER)

    def _student_scan(self, name: str, image: Image) -> Scan:
        scale = self.students[name].scale
        seen = image if scale == 1 else pseudo_labels.shrunk(image, scale)
        found = dense.scan(self._resident[name], seen, self.geometry.tile_px)
        if scale == 1:
            return found
        size = image.shape[1], image.shape[0]
        enlarged = cv2.resize(found.probability, size, interpolation=cv2.INTER_LINEAR)
        size = -(-size[0] // passes.CELL_PX), -(-size[1] // passes.CELL_PX)
        cells = [cv2.resize(own, size, interpolation=cv2.INTER_LINEAR) for own in found.passes]
        return Scan(np.asarray(enlarged, np.float32), found.embedding, np.stack(cells))


class SelfTraining:
    """The pipeline; `clock` gives seconds; `steps` of the student, None = those of the profile."""

    def __init__(
        self,
        clock: Clock = time.monotonic,
        steps: int | None = None,
        teacher: PixelHeads | None = None,
    ) -> None:
        self._clock, self._steps = clock, steps
        self._teacher = teacher or PixelHeads(clock)

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
    ) -> SelfTrainingFitted:
        """Train the teacher, let it label, train a student per class; samples in any order.

        What `warm_start` knows, teacher and students, is trained on. Raises what `pixel_head`
        raises, training.TrainingDiverged, and whatever `report` raises to cancel.
        """
        began = self._clock()
        samples = planning.ordered(samples)
        warm = _usable(warm_start, profile)
        teacher = self._teacher.fit(
            samples,
            specs=specs,
            profile=profile,
            seed=seed,
            device=device,
            report=within(report, 0.0, TEACHER_SHARE),
            warm_start=warm.teacher if warm else warm_start,
        )
        own = [spec for spec in specs if spec.name in teacher.classes]
        figures = dict(teacher.metrics["classes"])
        students = []
        for index, spec in enumerate(own):
            progress = ClassProgress(within(report, TEACHER_SHARE, 1.0), spec.name, index, len(own))
            job = _Job(self, teacher, samples, spec, profile, seed, device, warm)
            student, of_student = job.run(progress)
            students.append(student)
            figures[spec.name] = {**of_student, "teacher": figures[spec.name]}
        metrics = {**teacher.metrics, "seconds": self._clock() - began, "classes": figures}
        return SelfTrainingFitted(geometry_of(profile), teacher, students, metrics, device)

    def load(self, folder: Path, *, device: str) -> SelfTrainingFitted:
        """Load what `save` wrote; raises ValueError for a folder of another format."""
        about = saving.read(folder, NAME, (FORMAT,))
        geometry = Geometry(**about["geometry"])
        teacher = self._teacher.load(folder / TEACHER_FOLDER, device=device)
        students = []
        states = saving.read_weights(folder)
        for entry, state in zip(about["classes"], states, strict=True):
            network = TruncatedUNet(geometry.encoder, widths_of(entry["name"]))
            network.load_state_dict(state)
            settings, sure = Settings(**entry["settings"]), Confidence(**entry["confidence"])
            students.append(
                Student(
                    entry["name"], network.eval(), entry["scale"], entry["share"], settings, sure
                )
            )
        return SelfTrainingFitted(geometry, teacher, students, about["metrics"], device)

    def steps(self, profile: Profile, *, is_warm: bool) -> int:
        """Return how many steps a student takes."""
        return self._steps or (profile.warm_steps if is_warm else profile.max_steps)

    @property
    def clock(self) -> Clock:
        """Seconds."""
        return self._clock


PIPELINE = SelfTraining()


def widths_of(class_name: str) -> tuple[int, ...]:
    """Return the widths of a student's decoder; compact defects need one more stage."""
    return THIN_WIDTHS if is_thin(class_name) else COMPACT_WIDTHS


@dataclass(frozen=True)
class _Job:
    """One class to be taught."""

    method: SelfTraining
    teacher: PixelHeadFitted
    samples: Sequence[Sample]
    spec: ClassSpec
    profile: Profile
    seed: int
    device: str
    warm: SelfTrainingFitted | None

    def run(self, progress: ClassProgress) -> tuple[Student, dict[str, Any]]:
        clock = self.method.clock
        began = clock()
        name = self.spec.name
        chosen = self._chosen()
        before = self.warm.students.get(name) if self.warm else None
        scale = before.scale if before else self._scale(chosen)
        network = self._network(before)
        profile = dense.profile_for(self.profile)
        trained = dense.train(
            network,
            [self._labelled(sample, scale) for sample in chosen],
            [],  # the last weights are kept: clicks do not tell which masks are better
            profile=profile,
            steps=self.method.steps(profile, is_warm=before is not None),
            seed=self.seed,
            device=self.device,
            report=progress.training,
            loss=losses.get(LOSS),
            clock=clock,
        )
        network.to("cpu")
        progress.calibrating()
        share = SHARE
        student = Student(name, network, scale, share, _rule(self.spec))
        choice = self._calibrated(student)
        figures = {
            "labelled_samples": len(chosen),
            "scale": scale,
            "warm_start": before is not None,
            "steps": trained.steps,
            "loss": trained.loss,
            "f_measure": trained.f_measure,
            "seconds": clock() - began,
            "settings": asdict(choice.settings),
            "calibration": choice.table,
        }
        return replace(student, settings=choice.settings, confidence=choice.confidence), figures

    def _chosen(self) -> list[Sample]:
        """Pick the samples that the teacher learnt from, at most MOST_SAMPLES of them."""
        learnt = self.teacher.models[self.spec.name].memory
        own = [sample for sample in self.samples if sample.key in learnt]
        drawn = np.random.default_rng(self.seed).permutation(len(own))[:MOST_SAMPLES]
        return [own[n] for n in sorted(drawn)]

    def _scale(self, chosen: Sequence[Sample]) -> float:
        """Return 1 for thin classes, else a power of 1/2 that brings images to about SIDE_PX."""
        if is_thin(self.spec.name):
            return 1.0
        sides = [max(sample.load().shape[:2]) for sample in chosen[:9]]
        halvings = int(np.ceil(np.log2(max(float(np.median(sides)) / SIDE_PX, 1))))
        return float(0.5**halvings)

    def _labelled(self, sample: Sample, scale: float) -> Load:
        name = self.spec.name
        return pseudo_labels.labelled(
            sample,
            name,
            lambda image: self.teacher.scan(image, [name]).probabilities[0],
            self.teacher.models[name].settings,
            is_thin=is_thin(name),
            scale=scale,
            patch_px=self.profile.crop_px,
            radius_px=self.profile.point_radius_px,
        )

    def _network(self, before: Student | None) -> TruncatedUNet:
        """Copy the student to train on, or make a fresh one."""
        widths = widths_of(self.spec.name)
        if before is not None:
            network = TruncatedUNet(self.profile.encoder, widths)
            network.load_state_dict(before.network.state_dict())
            return network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return TruncatedUNet(self.profile.encoder, widths, self.profile.encoder_weights)

    def _calibrated(self, student: Student) -> calibration.Choice:
        geometry = geometry_of(self.profile)
        trial = SelfTrainingFitted(geometry, self.teacher, [student], {}, self.device)

        def heat_and_score(image: Image, _: int) -> tuple[HeatMap, float]:
            (heat,) = trial.look(image, [student.name]).heats
            return heat, score_of(heat, geometry.window_px)

        learnt = self.teacher.models[self.spec.name].memory
        unseen = [sample for sample in self.samples if sample.key not in learnt or sample.held_out]
        return calibration.choose(
            unseen,
            self.spec,
            heat_and_score,
            iterations=(1,),
            thresholds=THRESHOLDS,
            rule=student.settings,
        )


def _usable(version: Fitted | None, profile: Profile) -> SelfTrainingFitted | None:
    """Return the version if its networks have the wanted encoder."""
    if isinstance(version, SelfTrainingFitted) and version.geometry.encoder == profile.encoder:
        return version
    return None


def _rule(spec: ClassSpec) -> Settings:
    """Return how the mean of student and teacher becomes a mask where no masks tell."""
    if is_thin(spec.name) and spec.refine in (None, THIN_RULE.refine):
        return resolve(THIN_RULE, spec)
    return rule_for(spec)
