"""What the pixel head learns from, and its refit after a correction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.base import ClassSpec, NotEnoughLabels, Progress, Sample
from models.metrics import f_measure
from models.networks.hypercolumn import Hypercolumn
from models.pipelines import pixel_head
from models.pipelines.pixel_head import PixelHeads
from models.pixels import pixel_fitting
from tests.models.clicked_spots import MOSS, RUST, SAMPLES, Clicked, fit, picture
from tests.models.small_network import state

pytestmark = pytest.mark.training


def test_the_same_seed_gives_the_same_head_in_any_order(encoder_weights: str) -> None:
    method = PixelHeads(steps=5)
    one, other = (fit(encoder_weights, s, method=method) for s in (SAMPLES, SAMPLES[::-1]))
    heads = [state(version.models["rust"].head) for version in (one, other)]
    assert all(torch.equal(value, heads[1][key]) for key, value in heads[0].items())
    assert one.models["rust"].settings == other.models["rust"].settings


def test_classes_that_cannot_start_say_why(encoder_weights: str, quick: None) -> None:
    found = fit(encoder_weights, specs=(ClassSpec("crack"), RUST))
    assert found.classes == ("rust",)
    why = found.metrics["classes"]["crack"]["skipped"]
    assert why == "'crack' has no positive point yet; click on a defect"
    with pytest.raises(NotEnoughLabels, match="nothing to train on: 'crack' has no positive"):
        fit(encoder_weights, specs=(ClassSpec("crack"),))
    with pytest.raises(NotEnoughLabels, match="the label config names no class"):
        fit(encoder_weights, specs=())


def test_equal_keys_are_refused(encoder_weights: str) -> None:
    with pytest.raises(ValueError, match="1 keys name several samples, 'task-000'"):
        fit(encoder_weights, [*SAMPLES, SAMPLES[0]])


def test_nothing_is_learnt_from_held_out_samples(encoder_weights: str, quick: None) -> None:
    """Their points and masks are wrong on purpose: whatever is learnt from them would show."""
    clicked = Clicked()
    samples = [clicked.sample(seed, verified=seed < 3) for seed in range(6)]
    honest = fit(encoder_weights, [*samples, clicked.sample(50, verified=True, held_out=True)])
    wrong = clicked.sample(50, verified=True, held_out=True)
    masks = {name: lambda m=mask: ~m() for name, mask in wrong.masks.items()}
    points = tuple(replace(point, positive=not point.positive) for point in wrong.points)
    bugged = fit(encoder_weights, [*samples, replace(wrong, masks=masks, points=points)])
    memories = [version.models["rust"].memory for version in (honest, bugged)]
    assert list(memories[0]) == list(memories[1]) == [s.key for s in samples]
    for key, pixels in memories[0].items():
        assert np.array_equal(pixels.columns, memories[1][key].columns)
        assert np.array_equal(pixels.labels, memories[1][key].labels)
    assert list(honest.models["rust"].unseen) == ["task-050"]
    of_points = 3 * (9 + 24) + 5 * 24  # and five clean patches of the mask, no pixels of its own
    assert len(honest.models["rust"].unseen["task-050"].labels) == of_points
    assert honest.metrics["classes"]["rust"]["held_out_points"] == 3 + 3 + 5


def test_points_and_masks_are_counted(encoder_weights: str, quick: None) -> None:
    clicked = Clicked()
    samples = [clicked.sample(0, verified=True), clicked.sample(1), clicked.sample(2)]
    point = next(p for p in samples[1].points if p.class_name == "rust" and p.positive)
    beside = replace(point, x_px=point.x_px + 5, positive=False)
    samples[1] = replace(samples[1], points=(*samples[1].points, beside))
    figures = fit(encoder_weights, samples).metrics["classes"]["rust"]
    assert (figures["positive_points"], figures["negative_points"]) == (9, 9)
    assert figures["contradicted_points"] == 1
    assert figures["pixels"] == {"positive": 9 * 9 + 192, "negative": 9 * 24 + 192}


def test_held_out_points_judge_the_head(encoder_weights: str) -> None:
    unseen = [Clicked().sample(seed, held_out=True) for seed in (60, 61)]
    figures = fit(encoder_weights, [*SAMPLES, *unseen]).metrics["classes"]["rust"]
    assert figures["held_out_points"] == 12 and figures["f_measure"] > 0.8
    json.dumps(figures, allow_nan=False)


def test_progress_rises_over_all_classes(encoder_weights: str) -> None:
    seen: list[Progress] = []
    fit(encoder_weights, specs=(RUST, MOSS), report=seen.append, method=PixelHeads(steps=100))
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions) and fractions[0] > 0 and fractions[-1] <= 1
    assert [p.step for p in seen if p.stage == "features"] == [1, 2, 3, 4, 5, 6]
    trained = [(p.class_name, p.step, p.steps) for p in seen if p.stage == "training"]
    assert trained == [(name, n, 100) for name in ("rust", "moss") for n in (50, 100)]
    assert all(p.seconds_left is not None for p in seen if p.stage == "training")
    assert [p.class_name for p in seen if p.stage == "calibration"] == ["rust", "moss"]


@pytest.mark.parametrize("stage", ["features", "training", "calibration"])
def test_a_report_may_cancel(encoder_weights: str, stage: str) -> None:
    class Cancelled(Exception):
        pass

    def report(progress: Progress) -> None:
        if progress.stage == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        fit(encoder_weights, SAMPLES[:3], report=report, method=PixelHeads(steps=50))


class Corrections:
    """Ten clicked images, four of them held out with masks; a version of them, saved and loaded."""

    def __init__(self, encoder_weights: str, folder: Path) -> None:
        self.clicked = Clicked()
        learn = [self.clicked.sample(seed) for seed in range(6)]
        unseen = [self.clicked.sample(s, verified=True, held_out=True) for s in range(70, 74)]
        self.samples = [*learn, *unseen]
        folder.mkdir()
        fit(encoder_weights, self.samples).save(folder)
        self.version = pixel_head.PIPELINE.load(folder, device="cpu")

    def corrected(self, seed: int, *, held_out: bool = False) -> list[Sample]:
        """The samples, with the mask of one verified or one more."""
        new = self.clicked.sample(seed, verified=True, held_out=held_out)
        return [*(sample for sample in self.samples if sample.key != new.key), new]


@pytest.fixture(scope="module")
def corrections(encoder_weights: str, tmp_path_factory: pytest.TempPathFactory) -> Corrections:
    return Corrections(encoder_weights, tmp_path_factory.mktemp("versions") / "1")


@pytest.mark.parametrize("seed", [2, 30])
def test_a_refit_decodes_only_what_has_changed(
    corrections: Corrections, encoder_weights: str, seed: int
) -> None:
    before = state(corrections.version.models["rust"].head)
    corrections.clicked.loads.clear()
    found = fit(encoder_weights, corrections.corrected(seed), warm_start=corrections.version)
    assert corrections.clicked.loads == [f"task-{seed:03}"]
    figures = found.metrics["classes"]["rust"]
    assert figures["warm_start"] and figures["steps"] == 30
    old, new = (version.models["rust"] for version in (corrections.version, found))
    assert (new.settings, new.confidence) == (old.settings, old.confidence)
    assert figures["calibration"]["kept"] and figures["calibration"]["masks"] == 4
    assert all(torch.equal(value, before[key]) for key, value in state(old.head).items())
    assert not torch.equal(new.head.last, before["last"])
    image, truth = picture(105)
    (proposal,) = found.propose(image, specs=[RUST]).proposals
    assert f_measure(proposal.mask, truth["rust"]) > 0.6


def test_a_refit_learns_the_same_pixels_as_a_fresh_fit(
    corrections: Corrections, encoder_weights: str, quick: None
) -> None:
    samples = corrections.corrected(2)
    warm = fit(encoder_weights, samples, warm_start=corrections.version).models["rust"]
    fresh = fit(encoder_weights, samples).models["rust"]
    for one, other in ((warm.memory, fresh.memory), (warm.unseen, fresh.unseen)):
        assert list(one) == list(other)
        assert all(np.array_equal(one[key].columns, other[key].columns) for key in one)
        assert all(one[key].digest == other[key].digest for key in one)


def test_settings_are_chosen_anew_when_what_judges_them_has_changed(
    corrections: Corrections, encoder_weights: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []
    choose = pixel_fitting.calibration.choose

    def counted(samples: list[Sample], *rest: object, **more: object) -> object:
        judged.append(len([s for s in samples if s.masks]))
        return choose(samples[:0], *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(pixel_fitting.calibration, "choose", counted)
    warm = corrections.version
    fit(encoder_weights, corrections.samples, warm_start=warm)
    assert not judged
    fit(encoder_weights, corrections.corrected(75, held_out=True), warm_start=warm)
    assert judged == [5]
    fit(
        encoder_weights, corrections.samples, specs=(replace(RUST, threshold=0.4),), warm_start=warm
    )
    many = [*corrections.samples, *(corrections.clicked.sample(seed) for seed in (80, 81))]
    fit(encoder_weights, many, warm_start=warm)  # eight learnt instead of six: doubled
    assert judged == [5, 4, 4]


def test_a_version_on_another_encoder_is_not_trained_on(
    corrections: Corrections, tmp_path: Path, encoder_weights: str, quick: None
) -> None:
    weights = load_file(encoder_weights)
    weights["bn1.running_mean"] = weights["bn1.running_mean"] + 1  # a buffer alone
    save_file(weights, tmp_path / "other.safetensors")
    clicked, known = Clicked(), corrections.version
    samples = [clicked.sample(seed) for seed in range(6)]
    for version, path in ((known, tmp_path / "other.safetensors"), (object(), encoder_weights)):
        clicked.loads.clear()
        found = fit(str(path), samples, warm_start=version)  # type: ignore[arg-type]
        assert found.metrics["classes"]["rust"]["warm_start"] is False
        assert len(clicked.loads) >= 6
    assert fit(encoder_weights, warm_start=known).metrics["classes"]["rust"]["warm_start"]


def test_one_image_is_looked_at_once_for_all_classes(
    encoder_weights: str, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    looks: list[int] = []
    levels = Hypercolumn.levels
    monkeypatch.setattr(
        Hypercolumn, "levels", lambda self, image: (looks.append(1), levels(self, image))[1]
    )
    fit(encoder_weights, specs=(RUST, MOSS))
    assert len(looks) == len(SAMPLES)
