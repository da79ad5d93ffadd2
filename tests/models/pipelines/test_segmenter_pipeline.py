"""The segmenter from verified masks to proposals: fit, propose, save, load, train on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import models.base
from models import saving
from models.base import ClassSpec, Fitted, Image, Mask, NotEnoughLabels, Progress, Sample, WeakPoint
from models.evidence import window_probs
from models.learning import dense
from models.learning.dense_crops import DenseSample
from models.learning.training import PROFILES, Trained
from models.masks.settings import default_settings
from models.metrics import f_measure
from models.networks.unet import TruncatedUNet
from models.pipelines import pixel_head, segmenter
from models.pipelines.advcam import AdvCamFitted, ClassModel, Geometry, geometry_of
from models.pipelines.segmenter import Segmenter, SegmenterFitted
from models.pipelines.self_training import SelfTrainingFitted, Student, widths_of
from tests.models.small_network import small_network, state

pytestmark = pytest.mark.training

PROFILE = replace(
    PROFILES["cpu"],
    encoder="resnet18",
    decoder_widths=(8, 8),
    crop_px=24,
    batch=8,
    max_steps=24,
    warm_steps=8,
    learning_rate=4e-3,
    dense_crop_px=24,
    dense_batch=8,
    dense_steps=24,
    dense_warm_steps=8,
    dense_learning_rate=4e-3,
    tile_px=64,
    bf16=False,
)
RUST = ClassSpec("rust")
FEW = Segmenter(least_masks=4)


def picture(seed: int, *, rusty: bool = True) -> tuple[Image, Mask]:
    rng = np.random.default_rng(seed)
    image, mask = rng.normal(150, 20, (48, 56, 3)), np.zeros((48, 56), dtype=bool)
    if rusty:
        top, left = rng.integers(2, 30), rng.integers(2, 38)
        mask[top : top + 14, left : left + 16] = True
        image[mask] -= 60
    return image.clip(0, 255).astype(np.uint8), mask


def corrected(seed: int, *, rusty: bool = True, **changes: object) -> Sample:
    image, mask = picture(seed, rusty=rusty)
    made = Sample(f"task-{seed:03}", lambda: image, (), {"rust": lambda: mask})
    return replace(made, **changes)  # type: ignore[arg-type]


def clicked(seed: int) -> Sample:
    image, mask = picture(seed)
    y, x = np.argwhere(mask)[60]
    return Sample(f"click-{seed:03}", lambda: image, (WeakPoint("rust", float(x), float(y), True),))


SAMPLES = [corrected(seed) for seed in range(5)]
UNSEEN = [corrected(seed, held_out=True) for seed in range(50, 54)]


def fit(
    method: Segmenter = FEW,
    samples: list[Sample] | None = None,
    *,
    specs: tuple[ClassSpec, ...] = (RUST,),
    report: models.base.Report = lambda _: None,
    warm_start: Fitted | None = None,
    profile: models.base.Profile = PROFILE,
) -> SegmenterFitted:
    return method.fit(
        [*SAMPLES, *UNSEEN] if samples is None else samples,
        specs=specs,
        profile=profile,
        seed=0,
        device="cpu",
        report=report,
        warm_start=warm_start,
    )


@pytest.fixture(scope="module")
def fitted() -> SegmenterFitted:
    return fit()


class Recorded:
    """Stands for dense.train: keeps what it was given, learns nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: dict[str, torch.Tensor] = {}
        self.learn: list[DenseSample] = []
        self.held_out: list[DenseSample] = []
        self.steps = 0
        monkeypatch.setattr(dense, "train", self)

    def __call__(
        self,
        network: TruncatedUNet,
        learn: list[Callable[[], DenseSample]],
        held_out: list[Callable[[], DenseSample]],
        *,
        steps: int,
        **_: object,
    ) -> Trained:
        self.started = state(network)
        self.learn, self.held_out = [load() for load in learn], [load() for load in held_out]
        self.steps = steps
        return Trained(network.eval(), steps, steps, 0.0, None)


def classifier(widths: tuple[int, int] = (8, 8)) -> AdvCamFitted:
    """A shared trunk of two classes, rust being the second head."""
    network = (
        small_network(seed=5, classes=2) if widths == (8, 8) else TruncatedUNet("resnet18", widths)
    )
    settings = default_settings(RUST)
    made = [
        ClassModel(name, network, settings, head=n) for n, name in enumerate(("crack", "rust"))
    ][-network.head.out_channels :]
    return AdvCamFitted(Geometry("resnet18", widths, 24, 64, False), made, {}, "cpu")


def self_taught(*, scale: float, name: str = "rust") -> SelfTrainingFitted:
    """A version of `self_training` whose teacher nobody asks."""
    network = TruncatedUNet("resnet18", widths_of(name)).eval()
    student = Student(name, network, scale, 1.0, default_settings(RUST))
    teacher: Any = None
    geometry = pixel_head.Geometry("resnet18", 24, 64, False)
    return SelfTrainingFitted(geometry, teacher, [student], {}, "cpu")


def test_the_registry_knows_it() -> None:
    assert models.base.get("segmenter") is segmenter.PIPELINE
    assert segmenter.PIPELINE.least_masks == 15


def test_corrected_masks_give_masks_of_unseen_surfaces(fitted: SegmenterFitted) -> None:
    scores = []
    for seed in range(100, 104):
        image, truth = picture(seed)
        (proposal,) = fitted.propose(image, specs=[RUST]).proposals
        scores.append(f_measure(proposal.mask, truth))
        assert proposal.score > 0.5
        assert sum(region.area_px for region in proposal.regions) == proposal.mask.sum()
    assert np.mean(scores) > 0.8


def test_heat_is_the_probability_and_only_given_when_asked_for(fitted: SegmenterFitted) -> None:
    image = picture(100)[0]
    (hidden,) = fitted.propose(image, specs=[RUST]).proposals
    (shown,) = fitted.propose(image, specs=[RUST], heat=True).proposals
    assert hidden.heat is None and shown.heat is not None
    network = fitted.models["rust"].network
    assert shown.heat == pytest.approx(dense.predict(network, image, 64), abs=1e-5)


def test_evidence_tells_windows_with_rust_from_those_without(fitted: SegmenterFitted) -> None:
    image, truth = picture(100)
    seen = fitted.propose(image, specs=[RUST, ClassSpec("unknown")]).evidence
    assert seen.classes == ("rust",)
    assert seen.tile_probs.shape == (12, 1)  # 24 px windows, 12 px apart: 3 rows, 4 columns
    tops, lefts = (0, 12, 24), (0, 12, 24, 32)
    windows = [truth[y : y + 24, x : x + 24].mean() for y in tops for x in lefts]
    probs = seen.tile_probs[:, 0]
    full = [p for p, share in zip(probs, windows, strict=True) if share > 0.2]
    clean = [p for p, share in zip(probs, windows, strict=True) if share == 0]
    assert full and clean and min(full) > max(clean)
    assert seen.embedding.shape == (8,) and seen.stats["rust"]["area_px"] > 0


def test_window_probabilities_are_the_largest_of_a_spot() -> None:
    probability = np.zeros((30, 41), np.float32)
    probability[20:25, 30:35] = 0.8
    probability[2, 2] = 1.0  # a speck is no spot
    found = window_probs(probability, 16)
    assert found.shape == (3 * 5,)  # rows 0, 8, 14; columns 0, 8, 16, 24, 25
    grid = found.reshape(3, 5)
    assert grid[2, 3] == pytest.approx(0.8) and grid[2, 4] == pytest.approx(0.8)
    assert grid[0, 0] == pytest.approx(1 / 25)
    assert grid[0, 2] == 0
    assert window_probs(probability[:1, :1], 16).shape == (1,)


def test_the_windows_are_those_of_the_classifier(fitted: SegmenterFitted) -> None:
    for size in ((48, 56), (24, 100), (7, 30), (25, 25)):
        image = np.zeros((*size, 3), np.uint8)
        one = fitted.propose(image, specs=[RUST]).evidence.tile_probs
        other = classifier().propose(image, specs=[RUST]).evidence.tile_probs
        assert one.shape == other.shape


def test_what_is_loaded_proposes_bit_for_bit_as_what_was_saved(
    fitted: SegmenterFitted, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    loaded = segmenter.PIPELINE.load(tmp_path, device="cpu")
    assert (loaded.classes, loaded.geometry) == (fitted.classes, fitted.geometry)
    assert json.dumps(loaded.metrics) == json.dumps(fitted.metrics)
    image = picture(100)[0]
    one, other = (f.propose(image, specs=[RUST], heat=True) for f in (fitted, loaded))
    assert one.proposals[0].heat is not None and other.proposals[0].heat is not None
    assert np.array_equal(one.proposals[0].heat, other.proposals[0].heat)
    assert np.array_equal(one.proposals[0].mask, other.proposals[0].mask)
    assert one.proposals[0].regions == other.proposals[0].regions
    assert np.array_equal(one.evidence.embedding, other.evidence.embedding)


def test_a_version_of_format_1_has_the_widths_of_its_profile(
    fitted: SegmenterFitted, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    path = tmp_path / saving.SETTINGS_FILE
    about = json.loads(path.read_text())
    for entry in about["classes"]:
        assert entry.pop("decoder_widths") == [8, 8]
    path.write_text(json.dumps({**about, "format": 1}))
    loaded = segmenter.PIPELINE.load(tmp_path, device="cpu")
    before, after = (state(one.models["rust"].network) for one in (fitted, loaded))
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_folder_of_another_pipeline_is_refused(tmp_path: Path) -> None:
    classifier().save(tmp_path)
    with pytest.raises(ValueError, match="holds 'advcam' format 2, not 'segmenter' format 1"):
        segmenter.PIPELINE.load(tmp_path, device="cpu")


def test_the_same_seed_gives_the_same_weights_in_any_order(fitted: SegmenterFitted) -> None:
    again = fit(samples=[*UNSEEN, *SAMPLES][::-1])
    one, other = (state(f.models["rust"].network) for f in (fitted, again))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_settings_are_chosen_on_masks_that_were_not_learnt(fitted: SegmenterFitted) -> None:
    figures = fitted.metrics["classes"]["rust"]
    assert (figures["masks"], figures["held_out_masks"]) == (5, 4)
    assert figures["calibration"]["masks"] == 4
    assert {row["iterations"] for row in figures["calibration"]["tried"]} == {1}
    json.dumps(fitted.metrics, allow_nan=False)


def test_with_few_held_out_masks_the_rule_cuts_in_the_middle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Recorded(monkeypatch)
    settings = fit(samples=[*SAMPLES, UNSEEN[0]]).models["rust"].settings
    assert (settings.refine, settings.threshold, settings.iterations) == ("threshold", 0.5, 1)
    asked = fit(samples=SAMPLES, specs=(replace(RUST, threshold=0.7, min_area_px=3),))
    assert asked.models["rust"].settings.threshold == 0.7
    assert asked.models["rust"].settings.min_area_px == 3


def test_too_few_masks_are_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = [corrected(seed, rusty=False) for seed in range(20, 24)]
    with pytest.raises(NotEnoughLabels, match="3 verified masks show 'rust'; 4 are needed"):
        fit(samples=SAMPLES[:3] + clean)
    recorded = Recorded(monkeypatch)
    found = fit(samples=SAMPLES[:4] + clean, specs=(ClassSpec("crack"), RUST))
    assert found.classes == ("rust",)
    why = found.metrics["classes"]["crack"]["skipped"]
    assert why == "0 verified masks show 'crack'; 4 are needed"
    assert sum(not sample.target.any() for sample in recorded.learn + recorded.held_out) == 4


def test_held_out_samples_are_not_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    hidden = replace(clicked(70), held_out=True)
    fit(samples=[*SAMPLES, *UNSEEN, clicked(60), hidden])
    images = [sample.image for sample in recorded.learn]
    assert len(images) == 6
    assert not any(np.array_equal(image, s.load()) for image in images for s in (*UNSEEN, hidden))
    assert len(recorded.held_out) == 4


def test_weak_points_of_other_samples_join_as_partial_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = Recorded(monkeypatch)
    weak = [clicked(seed) for seed in range(60, 80)]
    with_points = replace(SAMPLES[0], points=clicked(0).points)
    fit(samples=[with_points, *SAMPLES[1:], *UNSEEN, *weak])
    partial = [s for s in recorded.learn if s.weight.min() == 0]
    assert len(partial) == 10  # two per mask, drawn from the twenty
    assert all(set(np.unique(s.weight)) == {np.float32(0), np.float32(0.25)} for s in partial)
    assert len([s for s in recorded.learn if s.weight.min() == 1]) == 5
    fit(replace(FEW, weak_weight=0.0), [*SAMPLES, *UNSEEN, *weak])
    assert len(recorded.learn) == 5


def test_it_starts_from_the_classifiers_own_head(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    version = classifier()
    for method, warm in ((replace(FEW, starts=(version,)), None), (FEW, version)):
        found = fit(method, warm_start=warm)
        assert found.metrics["classes"]["rust"]["warm_start"] == "classifier"
        assert recorded.steps == PROFILE.dense_steps
        trunk = state(version.models["rust"].network)
        head = trunk.pop("head.weight")
        assert torch.equal(recorded.started.pop("head.weight"), head[1:])
        assert all(torch.equal(recorded.started[key], value) for key, value in trunk.items())


def test_what_a_student_has_learnt_is_trained_on_for_a_few_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorded = Recorded(monkeypatch)
    version = self_taught(scale=1)
    found = fit(replace(FEW, starts=(self_taught(scale=1, name="crack"), version)))
    assert found.metrics["classes"]["rust"]["warm_start"] == "student"
    assert recorded.steps == PROFILE.dense_warm_steps < PROFILE.dense_steps
    before = state(version.students["rust"].network)
    assert before.keys() == recorded.started.keys()
    assert all(torch.equal(recorded.started[key], value) for key, value in before.items())
    found.save(tmp_path)
    loaded = segmenter.PIPELINE.load(tmp_path, device="cpu")
    assert fit(warm_start=loaded).metrics["classes"]["rust"]["warm_start"] == "segmenter"
    assert all(torch.equal(recorded.started[key], value) for key, value in before.items())


def test_a_student_that_looks_at_smaller_images_is_not_started_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = Recorded(monkeypatch)
    found = fit(replace(FEW, starts=(self_taught(scale=0.5),)))
    assert found.metrics["classes"]["rust"]["warm_start"] == "none"
    assert recorded.steps == PROFILE.dense_steps


def test_its_own_champion_is_trained_on_first_of_all(
    fitted: SegmenterFitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    before = state(fitted.models["rust"].network)
    found = fit(replace(FEW, starts=(classifier(),)), warm_start=fitted)
    assert found.metrics["classes"]["rust"]["warm_start"] == "segmenter"
    assert recorded.steps == PROFILE.warm_steps
    assert all(torch.equal(recorded.started[key], value) for key, value in before.items())
    assert all(torch.equal(state(fitted.models["rust"].network)[k], v) for k, v in before.items())


def test_versions_that_do_not_fit_are_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    fit()
    fresh = recorded.started
    for other in (classifier((8, 4)), object()):
        found = fit(warm_start=other)  # type: ignore[arg-type]
        assert found.metrics["classes"]["rust"]["warm_start"] == "none"
        assert all(torch.equal(fresh[key], recorded.started[key]) for key in fresh)


def test_progress_names_the_class_and_rises_to_calibration() -> None:
    seen: list[Progress] = []
    fit(report=seen.append, profile=replace(PROFILE, dense_steps=10))
    assert [p.stage for p in seen] == ["training", "calibration"]
    assert all(p.class_name == "rust" for p in seen)
    assert [p.fraction for p in seen] == sorted(p.fraction for p in seen)
    assert seen[0].seconds_left is not None


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    network = small_network()
    with torch.no_grad():
        network.head.weight.fill_(float("nan"))
    model = ClassModel("rust", network, segmenter.rule_for(RUST))
    geometry = geometry_of(PROFILE)
    with pytest.raises(ValueError, match="'rust' is not finite; train again"):
        SegmenterFitted(geometry, [model], {}, "cpu").save(tmp_path)
