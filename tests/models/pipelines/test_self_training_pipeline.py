"""A student that learns from a pixel head's masks: fit, propose, save, load, train on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models.base
from models.base import ClassSpec, Fitted, Image, Mask, Profile, Progress, Sample, WeakPoint
from models.learning import dense, pseudo_labels
from models.learning.dense_crops import DenseSample
from models.learning.training import PROFILES, Trained
from models.metrics import f_measure
from models.networks.unet import TruncatedUNet
from models.pipelines import self_training
from models.pipelines.pixel_head import NeedsWeights, PixelHeads
from models.pipelines.self_training import SelfTraining, SelfTrainingFitted
from tests.models.small_network import state
from tests.models.surfaces import same

pytestmark = pytest.mark.training

CRACK, RUST = ClassSpec("crack"), ClassSpec("rust")
TEACHER = PixelHeads(steps=80, warm_steps=10)
METHOD = SelfTraining(teacher=TEACHER)


def profile(weights: str | None) -> Profile:
    return replace(
        PROFILES["cpu"],
        crop_px=16,
        tile_px=256,
        bf16=False,
        encoder_weights=weights,
        dense_crop_px=32,
        dense_batch=4,
        dense_steps=30,
        dense_warm_steps=3,
        dense_learning_rate=4e-3,
    )


def picture(seed: int) -> tuple[Image, dict[str, Mask]]:
    """Grey noise with a dark line in its upper half and a brown spot in its lower one."""
    rng = np.random.default_rng(seed)
    image = rng.normal(150, 12, (64, 64, 3)).astype(np.float32)
    line, spot = np.zeros((64, 64), np.uint8), np.zeros((64, 64), dtype=bool)
    ends = (4, int(rng.integers(8, 24))), (59, int(rng.integers(8, 24)))
    cv2.line(line, *ends, color=1, thickness=3)
    left = int(rng.integers(4, 36))
    spot[38:60, left : left + 24] = True
    image[line > 0] = 50
    image[spot] += (10, -60, -100)
    masks = {"crack": line > 0, "rust": spot}
    return cv2.GaussianBlur(image, (0, 0), 0.6).clip(0, 255).astype(np.uint8), masks


def clicked(seed: int, *, verified: bool = False, held_out: bool = False) -> Sample:
    image, masks = picture(seed)
    points, rng = [], np.random.default_rng(seed)
    for name, mask in masks.items():
        free = cv2.dilate(mask.astype(np.uint8), np.ones((17, 17), np.uint8)) == 0
        for places, positive in ((np.argwhere(mask), True), (np.argwhere(free), False)):
            chosen = rng.permutation(places)[:4]
            points += [WeakPoint(name, float(x), float(y), positive) for y, x in chosen]
    known = {name: (lambda m=m: m) for name, m in masks.items()} if verified else {}
    return Sample(f"task-{seed:03}", lambda: image, tuple(points), known, held_out)


SAMPLES = [clicked(seed) for seed in range(5)]


def fit(
    weights: str | None,
    samples: list[Sample] | None = None,
    *,
    method: SelfTraining = METHOD,
    specs: tuple[ClassSpec, ...] = (CRACK,),
    report: models.base.Report = lambda _: None,
    warm_start: Fitted | None = None,
    size: Profile | None = None,
) -> SelfTrainingFitted:
    return method.fit(
        SAMPLES if samples is None else samples,
        specs=specs,
        profile=size or profile(weights),
        seed=0,
        device="cpu",
        report=report,
        warm_start=warm_start,
    )


@pytest.fixture(scope="module")
def fitted(encoder_weights: str) -> SelfTrainingFitted:
    return fit(encoder_weights, specs=(CRACK, RUST))


class Recorded:
    """Stands for dense.train: keeps what it was given, learns nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: dict[str, torch.Tensor] = {}
        self.learn: list[DenseSample] = []
        self.steps = 0
        monkeypatch.setattr(dense, "train", self)

    def __call__(
        self, network: TruncatedUNet, learn: list, held_out: list, *, steps: int, **_: object
    ) -> Trained:
        assert not held_out
        self.started, self.steps = state(network), steps
        self.learn = [load() for load in learn]
        return Trained(network.eval(), steps, steps, 0.0, None)


def test_the_registry_knows_it() -> None:
    assert models.base.get("self_training") is self_training.PIPELINE


def test_students_of_both_kinds_find_their_class(fitted: SelfTrainingFitted) -> None:
    for seed in (100, 101):
        image, truth = picture(seed)
        found = fitted.propose(image, specs=[RUST, ClassSpec("unknown"), CRACK]).proposals
        assert [proposal.class_name for proposal in found] == ["rust", "crack"]
        for proposal in found:
            mask = truth[proposal.class_name]
            tolerance_px = 2 if proposal.class_name == "crack" else 0
            assert f_measure(proposal.mask, mask, tolerance_px) > 0.5
            assert proposal.score > 0.5 and proposal.heat is None
            assert sum(region.area_px for region in proposal.regions) == proposal.mask.sum()


def test_the_student_has_learnt_by_itself(fitted: SelfTrainingFitted) -> None:
    """Its own probabilities tell the class from the rest; before, they did not."""
    image, truth = picture(102)
    for name, student in fitted.students.items():
        torch.manual_seed(0)
        untaught = TruncatedUNet("resnet18", self_training.widths_of(name)).eval()
        mask = truth[name]
        taught, before = (
            dense.predict(network, image, 256) for network in (student.network, untaught)
        )
        gap, gap_before = (heat[mask].mean() - heat[~mask].mean() for heat in (taught, before))
        assert gap > 0.3 and gap > gap_before + 0.2


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_the_heat_is_shared_with_the_teacher(fitted: SelfTrainingFitted, share: float) -> None:
    image, _ = picture(103)
    students = [replace(fitted.students[name], share=share) for name in ("crack", "rust")]
    version = SelfTrainingFitted(fitted.geometry, fitted.teacher, students, {}, "cpu")
    found = version.propose(image, specs=[RUST, CRACK], heat=True)
    taught = fitted.teacher.scan(image, ["rust", "crack"])
    for proposal, of_teacher in zip(found.proposals, taught.probabilities, strict=True):
        network = fitted.students[proposal.class_name].network
        own = dense.predict(network, image, 256)
        expected = share * own + (1 - share) * of_teacher
        assert proposal.heat is not None and np.abs(own - of_teacher).max() > 0.1
        np.testing.assert_allclose(proposal.heat, expected, atol=1e-4)
    assert found.evidence.classes == ("rust", "crack")
    assert (len(found.evidence.embedding) == 256) == (share < 1)  # the teacher's, if it looked


def test_a_teacher_without_a_share_does_not_look(
    fitted: SelfTrainingFitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [replace(student, share=1.0) for student in fitted.students.values()]
    version = SelfTrainingFitted(fitted.geometry, fitted.teacher, alone, {}, "cpu")
    monkeypatch.delattr(type(fitted.teacher), "scan")
    assert len(version.propose(picture(0)[0], specs=[CRACK, RUST]).proposals) == 2


def test_a_student_may_look_at_a_smaller_image(fitted: SelfTrainingFitted) -> None:
    image, _ = picture(104)
    small = replace(fitted.students["rust"], scale=0.5, share=1.0)
    version = SelfTrainingFitted(fitted.geometry, fitted.teacher, [small], {}, "cpu")
    (heat,) = version.look(image, ["rust"]).heats
    reduced = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    seen = dense.predict(small.network, reduced, 256)
    assert heat.shape == (64, 64) and heat.min() >= 0 and heat.max() <= 1
    np.testing.assert_allclose(
        cv2.resize(heat, (32, 32), interpolation=cv2.INTER_AREA), seen, atol=0.1
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (20, 7)])
def test_any_size_of_image_gets_proposals(
    fitted: SelfTrainingFitted, size: tuple[int, int]
) -> None:
    found = fitted.propose(np.full((*size, 3), 140, np.uint8), specs=[CRACK, RUST], heat=True)
    assert all(p.mask.shape == size and np.isfinite(p.heat).all() for p in found.proposals)


def test_without_a_known_class_the_proposal_is_empty(fitted: SelfTrainingFitted) -> None:
    found = fitted.propose(picture(0)[0], specs=[ClassSpec("unknown")])
    assert found.proposals == () and found.evidence.embedding.shape == (0,)
    with pytest.raises(ValueError, match="give uint8"):
        fitted.propose(np.zeros((4, 4), np.uint8), specs=[])


def test_what_is_loaded_proposes_bit_for_bit_as_what_was_saved(
    fitted: SelfTrainingFitted, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    loaded = self_training.PIPELINE.load(tmp_path, device="cpu")
    assert (loaded.classes, loaded.geometry) == (fitted.classes, fitted.geometry)
    assert json.dumps(loaded.metrics, allow_nan=False) == json.dumps(fitted.metrics)
    image, _ = picture(105)
    one, other = (f.propose(image, specs=[CRACK, RUST], heat=True) for f in (fitted, loaded))
    assert same(one, other)
    for left, right in zip(one.proposals, other.proposals, strict=True):
        assert np.array_equal(left.heat, right.heat) and left.regions == right.regions


def test_a_folder_of_another_pipeline_is_refused(
    fitted: SelfTrainingFitted, tmp_path: Path
) -> None:
    fitted.teacher.save(tmp_path)
    with pytest.raises(ValueError, match="'pixel_head' format 1, not 'self_training' format 1"):
        self_training.PIPELINE.load(tmp_path, device="cpu")


def test_weights_that_are_no_numbers_are_not_saved(
    fitted: SelfTrainingFitted, tmp_path: Path
) -> None:
    network = TruncatedUNet("resnet18", self_training.widths_of("crack"))
    with torch.no_grad():
        network.head.weight.fill_(float("nan"))
    student = replace(fitted.students["crack"], network=network)
    version = SelfTrainingFitted(fitted.geometry, fitted.teacher, [student], {}, "cpu")
    with pytest.raises(ValueError, match="head.weight of 'crack' is not finite; train again"):
        version.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_student_learns_what_the_teacher_and_people_say(
    encoder_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    verified, unseen = clicked(0, verified=True), clicked(50, verified=True, held_out=True)
    found = fit(encoder_weights, [verified, *SAMPLES[1:], unseen])
    assert len(recorded.learn) == 5  # nothing of the held-out sample
    assert not any(np.array_equal(s.image, unseen.load()) for s in recorded.learn)
    assert np.array_equal(recorded.learn[0].target > 0, verified.masks["crack"]())
    assert np.all(recorded.learn[0].weight == 1)
    heat = found.teacher.scan(SAMPLES[1].load(), ["crack"]).probabilities[0]
    settings = found.teacher.models["crack"].settings
    target, _ = pseudo_labels.thin(SAMPLES[1].load(), heat, settings)
    agreed = np.mean(recorded.learn[1].target == target)
    assert 0.8 < agreed < 1  # but for what the clicks say
    for point in SAMPLES[1].points:
        if point.class_name == "crack":
            at = int(point.y_px), int(point.x_px)
            assert recorded.learn[1].target[at] == point.positive
            assert recorded.learn[1].weight[at] == 1
    assert recorded.steps == 30
    figures = found.metrics["classes"]["crack"]
    assert figures["labelled_samples"] == 5 and figures["teacher"]["positive_points"] == 20


def test_most_samples_bound_the_work(encoder_weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    monkeypatch.setattr(self_training, "MOST_SAMPLES", 2)
    fit(encoder_weights)
    assert len(recorded.learn) == 2


def test_compact_classes_are_seen_smaller_when_images_are_large(
    encoder_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    monkeypatch.setattr(self_training, "SIDE_PX", 20)  # 64 px are three times as much
    found = fit(encoder_weights, SAMPLES[:3], specs=(CRACK, RUST))
    assert (found.students["crack"].scale, found.students["rust"].scale) == (1.0, 0.25)
    assert recorded.learn[0].target.shape == (16, 16)
    assert found.metrics["classes"]["rust"]["scale"] == 0.25


def test_a_version_is_trained_on(
    fitted: SelfTrainingFitted, encoder_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    before = state(fitted.students["crack"].network)
    found = fit(encoder_weights, warm_start=fitted)
    figures = found.metrics["classes"]["crack"]
    assert figures["warm_start"] and figures["teacher"]["warm_start"]
    assert (recorded.steps, figures["teacher"]["steps"]) == (3, 10)
    assert all(torch.equal(recorded.started[key], value) for key, value in before.items())
    assert all(
        torch.equal(value, before[key])
        for key, value in state(fitted.students["crack"].network).items()
    )


def test_a_version_with_another_encoder_is_not_trained_on(
    fitted: SelfTrainingFitted, encoder_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    geometry = replace(fitted.geometry, encoder="resnet34")
    students = list(fitted.students.values())
    other = SelfTrainingFitted(geometry, fitted.teacher, students, {}, "cpu")
    for version in (other, object()):
        found = fit(encoder_weights, warm_start=version)  # type: ignore[arg-type]
        assert found.metrics["classes"]["crack"]["warm_start"] is False
        assert recorded.steps == 30


def test_a_pixel_head_is_taken_for_the_teacher(
    fitted: SelfTrainingFitted, encoder_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recorded(monkeypatch)
    figures = fit(encoder_weights, warm_start=fitted.teacher).metrics["classes"]["crack"]
    assert figures["teacher"]["warm_start"] is True and figures["warm_start"] is False


def test_the_same_seed_gives_the_same_student_in_any_order(encoder_weights: str) -> None:
    method = SelfTraining(steps=3, teacher=PixelHeads(steps=3))
    one, other = (fit(encoder_weights, s, method=method) for s in (SAMPLES, SAMPLES[::-1]))
    networks = [state(version.students["crack"].network) for version in (one, other)]
    assert all(torch.equal(value, networks[1][key]) for key, value in networks[0].items())


def test_progress_rises_through_teacher_and_students(encoder_weights: str) -> None:
    seen: list[Progress] = []
    method = SelfTraining(steps=10, teacher=PixelHeads(steps=50))
    fit(encoder_weights, method=method, specs=(CRACK, RUST), report=seen.append)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions) and fractions[0] > 0 and fractions[-1] <= 1
    teachers = [progress for progress in seen if progress.fraction <= 0.3]
    assert {"features", "training", "calibration"} == {p.stage for p in teachers}
    students = [p for p in seen if p.fraction > 0.3 and p.stage == "training"]
    assert [p.class_name for p in students] == ["crack", "rust"]
    assert all(p.seconds_left is not None for p in students)


def test_without_pretrained_weights_it_says_so() -> None:
    with pytest.raises(NeedsWeights, match="set ENCODER_WEIGHTS"):
        fit(None)
