"""The pixel head from clicks to proposals: fit, propose, save, load, refit after a correction."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import models.base
from models.base import ClassSpec, Fitted, Image, Mask, NotEnoughLabels, Profile, Progress, Sample
from models.base import WeakPoint as Point
from models.learning.training import PROFILES
from models.metrics import f_measure
from models.networks.hypercolumn import Hypercolumn
from models.pipelines import pixel_head
from models.pipelines.pixel_head import NeedsWeights, PixelHeadFitted, PixelHeads
from models.pixels import pixel_fitting, pixel_training
from tests.models.small_network import state
from tests.models.surfaces import same

pytestmark = pytest.mark.training

RUST, MOSS = ClassSpec("rust"), ClassSpec("moss")
METHOD = PixelHeads(steps=80, warm_steps=30)
COLOURS = {"rust": (150, 80, 40), "moss": (70, 120, 60)}


def profile(weights: str | None) -> Profile:
    return replace(PROFILES["cpu"], crop_px=16, tile_px=256, bf16=False, encoder_weights=weights)


def picture(seed: int) -> tuple[Image, dict[str, Mask]]:
    """Grey noise with a spot of each class."""
    rng = np.random.default_rng(seed)
    image = rng.normal(140, 15, (64, 64, 3)).astype(np.float32)
    masks = {name: np.zeros((64, 64), dtype=bool) for name in COLOURS}
    for n, (name, colour) in enumerate(COLOURS.items()):
        top, left = rng.integers(2, 40), rng.integers(0, 16) + 32 * n
        masks[name][top : top + 20, left : left + 16] = True
        image[masks[name]] += np.array(colour) - 140
    return cv2.GaussianBlur(image, (0, 0), 0.7).clip(0, 255).astype(np.uint8), masks


class Clicked:
    """Samples that count how often their images and masks are decoded."""

    def __init__(self) -> None:
        self.loads: list[str] = []

    def sample(
        self, seed: int, *, verified: bool = False, held_out: bool = False, clicks: int = 3
    ) -> Sample:
        image, masks = picture(seed)
        key, rng = f"task-{seed:03}", np.random.default_rng(seed)
        points = []
        for name, mask in masks.items():
            free = cv2.dilate(mask.astype(np.uint8), np.ones((17, 17), np.uint8)) == 0
            for places, positive in ((np.argwhere(mask), True), (np.argwhere(free), False)):
                chosen = rng.permutation(places)[:clicks]
                points += [Point(name, float(x), float(y), positive) for y, x in chosen]

        def load() -> Image:
            self.loads.append(key)
            return image

        known: dict[str, Callable[[], Mask]] = {n: lambda m=m: m for n, m in masks.items()}
        return Sample(key, load, tuple(points), known if verified else {}, held_out)


SAMPLES = [Clicked().sample(seed) for seed in range(6)]


def fit(
    weights: str | None,
    samples: list[Sample] | None = None,
    *,
    method: PixelHeads = METHOD,
    specs: tuple[ClassSpec, ...] = (RUST,),
    report: models.base.Report = lambda _: None,
    warm_start: Fitted | None = None,
) -> PixelHeadFitted:
    return method.fit(
        SAMPLES if samples is None else samples,
        specs=specs,
        profile=profile(weights),
        seed=0,
        device="cpu",
        report=report,
        warm_start=warm_start,
    )


@pytest.fixture(scope="module")
def fitted(encoder_weights: str) -> PixelHeadFitted:
    return fit(encoder_weights, specs=(RUST, MOSS))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training learns nothing: for tests of what surrounds it."""

    def train(head: torch.nn.Module, *_: object, **__: object) -> float:
        head.eval()
        return 0.5

    monkeypatch.setattr(pixel_training, "train", train)


def test_the_registry_knows_it() -> None:
    assert models.base.get("pixel_head") is pixel_head.PIPELINE


def test_a_few_clicks_give_masks_of_both_classes_on_unseen_surfaces(
    fitted: PixelHeadFitted,
) -> None:
    for seed in (100, 101):
        image, truth = picture(seed)
        found = fitted.propose(image, specs=[MOSS, ClassSpec("unknown"), RUST]).proposals
        assert [proposal.class_name for proposal in found] == ["moss", "rust"]
        for proposal in found:
            assert f_measure(proposal.mask, truth[proposal.class_name]) > 0.5  # all: 0.15
            assert proposal.score > 0.5 and proposal.heat is None
            assert sum(region.area_px for region in proposal.regions) == proposal.mask.sum()


def test_the_heat_is_the_probability_of_the_scan(fitted: PixelHeadFitted) -> None:
    image, truth = picture(102)
    found = fitted.propose(image, specs=[RUST, MOSS], heat=True)
    seen = fitted.scan(image, ["rust", "moss"])
    for proposal, heat in zip(found.proposals, seen.probabilities, strict=True):
        assert proposal.heat is not None and np.array_equal(proposal.heat, heat)
        inside = truth[proposal.class_name]
        assert heat[inside].mean() > heat[~inside].mean() + 0.5
    evidence = found.evidence
    assert evidence.classes == ("rust", "moss") and evidence.tile_probs.shape == (49, 2)
    assert np.array_equal(evidence.embedding, seen.embedding)
    assert evidence.stats["rust"]["area_px"] == found.proposals[0].mask.sum()
    assert found.proposals[1].score == evidence.tile_probs[:, 1].max()


def test_a_spec_overrules_the_settings_of_the_version(fitted: PixelHeadFitted) -> None:
    image, _ = picture(103)
    heat = fitted.scan(image, ["rust"]).probabilities[0]
    asked = ClassSpec("rust", refine="threshold", threshold=0.3, min_area_px=0, closing_px=1)
    (found,) = fitted.propose(image, specs=[asked]).proposals
    assert np.array_equal(found.mask, heat > 0.3)


def test_without_a_known_class_the_proposal_is_empty(fitted: PixelHeadFitted) -> None:
    found = fitted.propose(picture(1)[0], specs=[ClassSpec("unknown")])
    assert found.proposals == () and found.evidence.tile_probs.shape == (0, 0)
    assert found.evidence.embedding.shape == (0,)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (20, 7), (64, 300)])
def test_any_size_of_image_gets_a_proposal(fitted: PixelHeadFitted, size: tuple[int, int]) -> None:
    (found,) = fitted.propose(np.full((*size, 3), 140, np.uint8), specs=[RUST], heat=True).proposals
    assert found.mask.shape == size and found.heat is not None
    assert 0 <= found.heat.min() <= found.heat.max() <= 1


def test_without_pretrained_weights_it_says_so() -> None:
    with pytest.raises(NeedsWeights, match="ENCODER_WEIGHTS .* or use the pipeline advcam"):
        fit(None)


def test_what_is_loaded_proposes_bit_for_bit_as_what_was_saved(
    fitted: PixelHeadFitted, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    loaded = pixel_head.PIPELINE.load(tmp_path, device="cpu")
    assert (loaded.classes, loaded.geometry) == (fitted.classes, fitted.geometry)
    assert json.dumps(loaded.metrics) == json.dumps(fitted.metrics)
    image, _ = picture(104)
    one, other = (f.propose(image, specs=[RUST, MOSS], heat=True) for f in (fitted, loaded))
    assert same(one, other)
    for left, right in zip(one.proposals, other.proposals, strict=True):
        assert np.array_equal(left.heat, right.heat) and left.regions == right.regions
    second = tmp_path / "second"
    second.mkdir()
    loaded.save(second)
    for file in sorted(path.name for path in second.iterdir()):
        assert (second / file).read_bytes() == (tmp_path / file).read_bytes()


def test_a_folder_of_another_pipeline_or_format_is_refused(
    fitted: PixelHeadFitted, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    file = tmp_path / "version.json"
    about = json.loads(file.read_text())
    for change, says in (
        ({"pipeline": "advcam"}, "'advcam' format 1"),
        ({"format": 9}, "format 9"),
    ):
        file.write_text(json.dumps({**about, **change}))
        with pytest.raises(ValueError, match=f"{says}, not 'pixel_head' format 1; load it with"):
            pixel_head.PIPELINE.load(tmp_path, device="cpu")


@pytest.mark.parametrize("file", ["weights.safetensors", "pixels.safetensors"])
def test_a_file_that_is_cut_short_is_refused(
    fitted: PixelHeadFitted, tmp_path: Path, file: str
) -> None:
    fitted.save(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SafetensorError):
        pixel_head.PIPELINE.load(tmp_path, device="cpu")


def test_weights_that_are_no_numbers_are_not_saved(
    encoder_weights: str, tmp_path: Path, quick: None
) -> None:
    version = fit(encoder_weights)
    with torch.no_grad():
        version.models["rust"].head.last_bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="last_bias of 'rust' is not finite; train again"):
        version.save(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="activate an older one"):
        version.propose(picture(0)[0], specs=[RUST])


def test_damaged_encoder_weights_are_refused(encoder_weights: str, tmp_path: Path) -> None:
    weights = load_file(encoder_weights)
    weights["layer3.1.bn2.running_var"][3] = torch.nan
    save_file(weights, tmp_path / "nan.safetensors")
    with pytest.raises(RuntimeError, match="not finite; fetch the file again"):
        fit(str(tmp_path / "nan.safetensors"))


def test_the_same_seed_gives_the_same_head_in_any_order(encoder_weights: str) -> None:
    method = PixelHeads(steps=5)
    one, other = (fit(encoder_weights, s, method=method) for s in (SAMPLES, SAMPLES[::-1]))
    heads = [state(version.models["rust"].head) for version in (one, other)]
    assert all(torch.equal(value, heads[1][key]) for key, value in heads[0].items())
    assert one.models["rust"].settings == other.models["rust"].settings


def test_nothing_of_the_encoder_changes(fitted: PixelHeadFitted, encoder_weights: str) -> None:
    stored = load_file(encoder_weights)
    kept = fitted.trunk.encoder.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in stored.items())


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
    fitted: PixelHeadFitted, tmp_path: Path, encoder_weights: str, quick: None
) -> None:
    weights = load_file(encoder_weights)
    weights["bn1.running_mean"] = weights["bn1.running_mean"] + 1  # a buffer alone
    save_file(weights, tmp_path / "other.safetensors")
    clicked = Clicked()
    samples = [clicked.sample(seed) for seed in range(6)]
    for version, path in ((fitted, tmp_path / "other.safetensors"), (object(), encoder_weights)):
        clicked.loads.clear()
        found = fit(str(path), samples, warm_start=version)  # type: ignore[arg-type]
        assert found.metrics["classes"]["rust"]["warm_start"] is False
        assert len(clicked.loads) >= 6
    assert fit(encoder_weights, warm_start=fitted).metrics["classes"]["rust"]["warm_start"]


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
