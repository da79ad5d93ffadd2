"""The advcam pipeline from clicks to masks: fit, propose, save, load, train on."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models.base
from models import calibration
from models.base import (
    ClassSpec,
    HeatMap,
    Image,
    Mask,
    NotEnoughLabels,
    Progress,
    Sample,
    TaskProposal,
    WeakPoint,
)
from models.metrics import f_measure
from models.pipelines import advcam
from models.pipelines.advcam import AdvCam, AdvCamFitted
from models.training import PROFILES

PROFILE = replace(
    PROFILES["cpu"],
    decoder_widths=(8, 8),
    crop_px=24,
    batch=8,
    max_steps=60,
    warm_steps=20,
    learning_rate=4e-3,
    tile_px=64,
    bf16=False,
)
CRACK = ClassSpec("crack")
SIZE = 72


def surface(seed: int, cracked: bool = True) -> tuple[Image, Mask]:
    """Grey noise with a dark crooked line, or without."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(150, 12, (SIZE, SIZE, 1)).repeat(3, axis=2).astype(np.float32)
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 0.8), 0, 255).astype(np.uint8)
    line = np.zeros((SIZE, SIZE), np.uint8)
    if cracked:
        xs = np.linspace(4, SIZE - 5, 5)
        ys = np.cumsum(rng.normal(0, 6, 5)) + rng.uniform(20, 52)
        corners = np.stack((xs, ys), axis=1).round().astype(np.int32)
        cv2.polylines(line, [corners.reshape(-1, 1, 2)], isClosed=False, color=1, thickness=2)
    image[line > 0] = 50
    return image, line > 0


def clicked(seed: int, *, cracked: bool = True, verified: bool = False) -> Sample:
    image, truth = surface(seed, cracked)
    rng = np.random.default_rng(seed)
    around = cv2.dilate(truth.astype(np.uint8), np.ones((27, 27), np.uint8))
    points = [
        WeakPoint("crack", float(x), float(y), positive)
        for places, positive in ((np.argwhere(truth), True), (np.argwhere(around == 0), False))
        for y, x in rng.permutation(places)[:4]
    ]
    masks: dict[str, Callable[[], Mask]] = {"crack": lambda: truth} if verified else {}
    return Sample(f"task-{seed}", lambda: image, tuple(points), masks)


SAMPLES = [clicked(seed) for seed in range(10)]


def fit(
    samples: list[Sample] = SAMPLES,
    *,
    specs: tuple[ClassSpec, ...] = (CRACK,),
    profile: models.base.Profile = PROFILE,
    report: models.base.Report = lambda _: None,
    warm_start: models.base.Fitted | None = None,
) -> AdvCamFitted:
    return AdvCam().fit(
        samples,
        specs=specs,
        profile=profile,
        seed=0,
        device="cpu",
        report=report,
        warm_start=warm_start,
    )


@pytest.fixture(scope="module")
def fitted() -> AdvCamFitted:
    return fit()


def same(a: TaskProposal, b: TaskProposal) -> bool:
    pairs = zip(a.proposals, b.proposals, strict=True)
    return (
        all(np.array_equal(p.mask, q.mask) and p.score == q.score for p, q in pairs)
        and np.array_equal(a.evidence.tile_probs, b.evidence.tile_probs)
        and np.array_equal(a.evidence.embedding, b.evidence.embedding)
        and a.evidence.stats == b.evidence.stats
    )


def test_the_registry_knows_it() -> None:
    assert models.base.get("advcam") is advcam.PIPELINE


def test_clicks_alone_give_masks_of_unseen_surfaces(fitted: AdvCamFitted) -> None:
    scores = []
    for seed in range(100, 106):
        image, truth = surface(seed)
        proposal = fitted.propose(image, specs=[CRACK]).proposals[0]
        assert proposal.heat is None
        assert proposal.score > 0.5
        scores.append(f_measure(proposal.mask, truth, 2))
    assert np.mean(scores) > 0.6


def test_a_clean_surface_gets_no_mask_and_a_low_score(fitted: AdvCamFitted) -> None:
    cracked, _ = surface(100)
    blank = np.full((SIZE, SIZE, 3), 150, np.uint8)
    image, _ = surface(101, cracked=False)
    dirty = fitted.propose(cracked, specs=[CRACK]).proposals[0]
    for clean in (blank, image):
        proposal = fitted.propose(clean, specs=[CRACK], heat=True).proposals[0]
        assert proposal.score < dirty.score
        if proposal.score < 0.5:
            assert not proposal.mask.any()
            assert proposal.heat is not None
            assert not proposal.heat.any()


def test_evidence_describes_the_proposal(fitted: AdvCamFitted) -> None:
    image, _ = surface(100)
    result = fitted.propose(image, specs=[CRACK], heat=True)
    seen, proposal = result.evidence, result.proposals[0]
    assert seen.classes == ("crack",)
    assert seen.tile_probs.shape == (25, 1)  # windows of 24 px, half a window apart
    assert proposal.score >= seen.tile_probs.max()
    assert seen.embedding.shape == (8,)
    assert seen.stats["crack"]["area_px"] == proposal.mask.sum() > 0
    assert proposal.heat is not None
    assert proposal.heat.max() == 1
    assert proposal.heat.dtype == np.float32


def test_saved_and_loaded_it_proposes_the_same_to_the_bit(
    fitted: AdvCamFitted, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors", ".json"}
    loaded = models.base.get("advcam").load(tmp_path, device="cpu")
    assert (loaded.classes, loaded.metrics) == (fitted.classes, fitted.metrics)
    for seed in (100, 101):
        image, _ = surface(seed)
        assert same(loaded.propose(image, specs=[CRACK]), fitted.propose(image, specs=[CRACK]))


def test_many_threads_propose_what_one_does(fitted: AdvCamFitted) -> None:
    spec = replace(CRACK, iterations=2)
    images = [surface(seed)[0] for seed in (100, 101)] * 3
    alone = [fitted.propose(image, specs=[spec]) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: fitted.propose(image, specs=[spec]), images))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_training_repeats_itself_whatever_the_order_of_samples() -> None:
    brief = replace(PROFILE, max_steps=8)
    one = fit(SAMPLES, profile=brief).models["crack"].network.state_dict()
    torch.rand(3)  # the state of torch's own generator plays no part
    other = fit(SAMPLES[::-1], profile=brief).models["crack"].network.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_specs_choose_classes_and_overrule_settings(fitted: AdvCamFitted) -> None:
    image, _ = surface(100)
    unknown = fitted.propose(image, specs=[ClassSpec("rust")])
    assert (unknown.proposals, unknown.evidence.tile_probs.shape) == ((), (0, 0))
    wide = fitted.propose(image, specs=[replace(CRACK, refine="threshold", iterations=1)])
    thin = fitted.propose(image, specs=[CRACK])
    none = fitted.propose(image, specs=[replace(CRACK, min_area_px=SIZE * SIZE)])
    assert wide.proposals[0].mask.sum() > 2 * thin.proposals[0].mask.sum() > 0
    assert not none.proposals[0].mask.any()


def test_any_size_of_image_is_proposed_for(fitted: AdvCamFitted) -> None:
    for shape in ((1, 1), (7, 200), (131, 67)):
        image = np.zeros((*shape, 3), np.uint8)
        assert fitted.propose(image, specs=[CRACK]).proposals[0].mask.shape == shape
    with pytest.raises(ValueError, match="image is"):
        fitted.propose(np.zeros((5, 5, 4), np.uint8), specs=[CRACK])


def test_training_on_starts_from_the_weights_of_before(fitted: AdvCamFitted) -> None:
    shown: list[Progress] = []
    warm = fit(warm_start=fitted, report=shown.append)
    figures = warm.metrics["classes"]["crack"]
    assert (figures["warm_start"], figures["steps"]) == (True, PROFILE.warm_steps)
    first = next(p.loss for p in shown if p.loss is not None)
    assert first < 0.55  # not the 0.69 of a network that knows nothing
    narrower = fit(profile=replace(PROFILE, decoder_widths=(8, 4), max_steps=2), warm_start=fitted)
    assert narrower.metrics["classes"]["crack"]["warm_start"] is False


def test_progress_reaches_its_end_in_order() -> None:
    shown: list[Progress] = []
    fit(profile=replace(PROFILE, max_steps=13), report=shown.append)
    fractions = [p.fraction for p in shown]
    assert fractions == sorted(fractions)
    assert shown[0].class_name == "crack"
    assert [p.stage for p in shown] == ["training", "training", "calibration"]
    assert shown[0].seconds_left is not None


def test_classes_that_cannot_start_are_skipped_with_the_reason() -> None:
    specs = (ClassSpec("rust"), CRACK)
    only_crack = fit(specs=specs, profile=replace(PROFILE, max_steps=2))
    assert only_crack.classes == ("crack",)
    assert "no positive point" in only_crack.metrics["classes"]["rust"]["skipped"]
    with pytest.raises(NotEnoughLabels, match="'rust' has no positive point"):
        fit(specs=(ClassSpec("rust"),))
    with pytest.raises(NotEnoughLabels, match="names no class"):
        fit(specs=())


def test_metrics_are_json_and_broken_weights_are_not_saved(
    fitted: AdvCamFitted, tmp_path: Path
) -> None:
    json.dumps(fitted.metrics, allow_nan=False)
    model = fitted.models["crack"]
    network = advcam._warm_network(fitted, "crack", fitted.geometry)
    assert network is not None
    with torch.no_grad():
        network.head.weight[0] = float("inf")
    broken = AdvCamFitted(fitted.geometry, [replace(model, network=network)], {}, "cpu")
    with pytest.raises(ValueError, match="head.weight of 'crack' is not finite"):
        broken.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_format_is_refused(fitted: AdvCamFitted, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    file = tmp_path / advcam.SETTINGS_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="format 99, not 'advcam' format 1"):
        AdvCam().load(tmp_path, device="cpu")


class TestCalibration:
    """Choosing how heat becomes a mask, on heat maps that are made up."""

    @staticmethod
    def cases(present: int, absent: int = 0) -> list[Sample]:
        seeds = range(200, 200 + present)
        shown = [clicked(seed, verified=True) for seed in seeds]
        return shown + [clicked(300 + n, cracked=False, verified=True) for n in range(absent)]

    @staticmethod
    def band(image: Image, iterations: int) -> HeatMap:
        """A band around the dark line; a climb makes it wider."""
        dark = (image.max(axis=2) < 70).astype(np.uint8)
        side = 9 * iterations
        wide = cv2.dilate(dark, np.ones((side, side), np.uint8))
        return np.asarray(wide * 0.9, dtype=np.float32)

    def test_masks_overrule_a_rule_that_does_not_fit(self) -> None:
        spec = ClassSpec("joint")  # not a name of the list, so the rule says threshold
        assert calibration.default_settings(spec).refine == "threshold"
        chosen, table = calibration.calibrate(self.cases(6, 2), spec, self.band)
        assert (chosen.refine, table["chosen_by"]) == ("threshold", "rule")  # no masks of it
        crack = ClassSpec("crack", min_area_px=10)
        rule = calibration.default_settings(replace(crack, refine="threshold"))
        samples = self.cases(6, 2)
        chosen, table = calibration.calibrate(samples, replace(crack, threshold=0.3), self.band)
        assert chosen.refine == "fusion"
        by_threshold = [row for row in table["tried"] if row["refine"] == rule.refine]
        assert table["f1_2px"] > max(row["f1_2px"] for row in by_threshold) + 0.1
        assert table["masks_with_class"] == 6

    def test_few_masks_decide_nothing(self) -> None:
        few = self.cases(calibration.LEAST_MASKS - 1, absent=2)
        chosen, table = calibration.calibrate(few, CRACK, self.band)
        assert chosen == calibration.default_settings(CRACK)
        assert "3 verified masks show 'crack'; 4 are needed" in table["why"]

    def test_what_the_spec_fixes_stays(self) -> None:
        spec = ClassSpec("crack", refine="threshold", iterations=1, threshold=0.7, min_area_px=3)
        chosen, _ = calibration.calibrate(self.cases(4), spec, self.band)
        assert (chosen.refine, chosen.iterations) == ("threshold", 1)
        assert (chosen.threshold, chosen.min_area_px) == (0.7, 3)

    @pytest.mark.parametrize(("helps", "iterations"), [(False, 1), (True, 2)])
    def test_a_climb_is_kept_only_where_it_helps(self, helps: bool, iterations: int) -> None:
        def heat_of(image: Image, iterations: int) -> HeatMap:
            heat = self.band(image, 1)
            if helps and iterations == 1:
                heat[:, SIZE // 2 :] = 0
            return heat

        for spec in (CRACK, ClassSpec("crack", refine="threshold")):  # rules with 1 and 2
            chosen, _ = calibration.calibrate(self.cases(5), spec, heat_of)
            assert chosen.iterations == iterations

    def test_heat_is_computed_once_per_image_and_iterations(self) -> None:
        asked: list[tuple[int, int]] = []

        def counting(image: Image, iterations: int) -> HeatMap:
            asked.append((id(image), iterations))
            return self.band(image, iterations)

        calibration.calibrate(self.cases(calibration.MOST_PRESENT + 5), CRACK, counting)
        assert len(asked) == len(set(asked)) == 2 * calibration.MOST_PRESENT

    def test_large_images_are_cut_around_the_defect(self) -> None:
        truth = np.zeros((1500, 3000), bool)
        truth[1400:1410, 2900:2950] = True
        image = np.zeros((1500, 3000, 3), np.uint8)
        large = Sample("1", lambda: image, (), {"crack": lambda: truth})
        case = calibration.select([large], "crack", ())[0]
        assert case.image.shape == (calibration.SIDE_PX, calibration.SIDE_PX, 3)
        assert case.truth.sum() == truth.sum()

    def test_unseen_samples_are_looked_at_first(self) -> None:
        many = self.cases(calibration.MOST_PRESENT + 4)
        unseen = [sample.key for sample in many[-4:]]
        chosen = calibration.select(many, "crack", unseen)
        wanted = {sample.load().tobytes() for sample in many[-4:]}
        assert {case.image.tobytes() for case in chosen[:4]} == wanted

    @pytest.mark.parametrize(
        ("name", "method", "iterations"),
        [("Crack", "fusion", 1), ("Hairline fissure", "fusion", 1), ("rust", "threshold", 2)],
    )
    def test_the_rule_goes_by_names_of_thin_dark_defects(
        self, name: str, method: str, iterations: int
    ) -> None:
        rule = calibration.default_settings(ClassSpec(name))
        assert (rule.refine, rule.iterations) == (method, iterations)
