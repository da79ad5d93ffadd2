"""The advcam pipeline from clicks to masks: fit, propose, save, load, train on."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import models.base
from models import saving
from models.base import (
    ClassSpec,
    Image,
    NotEnoughLabels,
    Progress,
    Sample,
    WeakPoint,
)
from models.learning.training import TrainingDiverged
from models.masks.confidence import Confidence
from models.metrics import f_measure
from models.pipelines import advcam
from models.pipelines.advcam import AdvCam, AdvCamFitted
from tests.models.surfaces import CRACK, PROFILE, SAMPLES, SIZE, fit, same, surface

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def fitted() -> AdvCamFitted:
    return fit()


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
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        network.head.weight[0] = float("inf")
    broken = AdvCamFitted(fitted.geometry, [replace(model, network=network)], {}, "cpu")
    with pytest.raises(ValueError, match="head.weight of 'crack' is not finite"):
        broken.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_format_is_refused(fitted: AdvCamFitted, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    file = tmp_path / saving.SETTINGS_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="format 99, not 'advcam' format 1 or 2; load it with"):
        AdvCam().load(tmp_path, device="cpu")


def test_versions_of_the_first_format_still_load(fitted: AdvCamFitted, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    file = tmp_path / saving.SETTINGS_FILE
    about = json.loads(file.read_text())
    settings = about["classes"][0]["settings"]
    old = {key: settings[key] for key in ("refine", "iterations", "threshold", "min_area_px")}
    about |= {"format": 1, "classes": [{"name": "crack", **old}]}
    file.write_text(json.dumps(about))
    loaded = AdvCam().load(tmp_path, device="cpu")
    image, _ = surface(100)
    assert same(loaded.propose(image, specs=[CRACK]), fitted.propose(image, specs=[CRACK]))


def test_regions_are_the_parts_of_the_mask(fitted: AdvCamFitted, tmp_path: Path) -> None:
    image, _ = surface(100)
    sure = Confidence((0, 0, 0, 0), (1, 1, 1, 1), (1.0, 2.0, 0.1, 0.5), -2.0)
    model = replace(fitted.models["crack"], confidence=sure)
    made = AdvCamFitted(fitted.geometry, [model], {}, "cpu")
    proposal = made.propose(image, specs=[CRACK]).proposals[0]
    assert sum(region.area_px for region in proposal.regions) == proposal.mask.sum() > 0
    assert all(0 < region.confidence < 1 for region in proposal.regions)
    plain = fitted.propose(image, specs=[CRACK]).proposals[0].regions
    assert [r.confidence for r in plain] != [r.confidence for r in proposal.regions]
    made.save(tmp_path)
    loaded = AdvCam().load(tmp_path, device="cpu")
    assert loaded.propose(image, specs=[CRACK]).proposals[0].regions == proposal.regions


def test_each_image_is_decoded_once_for_all_classes() -> None:
    decoded: list[str] = []

    def counted(sample: Sample) -> Sample:
        def load() -> Image:
            decoded.append(sample.key)
            return sample.load()

        points = [replace(point, class_name=name) for name in "ab" for point in sample.points]
        return Sample(sample.key, load, tuple(points))

    brief = replace(PROFILE, max_steps=1)
    fit([counted(s) for s in SAMPLES], specs=(ClassSpec("a"), ClassSpec("b")), profile=brief)
    assert sorted(decoded) == sorted(sample.key for sample in SAMPLES)


def test_one_click_of_each_sign_in_a_picture_smaller_than_the_crop_is_enough_to_start() -> None:
    image = surface(1)[0][:20, :15]
    points = (WeakPoint("crack", 3, 3, True), WeakPoint("crack", 14, 19, False))
    only = Sample("1", lambda: image, points)
    version = fit([only], profile=replace(PROFILE, crop_px=16, max_steps=3))
    figures = version.metrics["classes"]["crack"]
    assert (figures["positive_points"], figures["negative_points"]) == (1, 1)
    assert figures["f_measure"] is None
    assert version.propose(image, specs=[CRACK]).proposals[0].mask.shape == (20, 15)


def test_a_damaged_version_to_start_from_is_named_at_once(fitted: AdvCamFitted) -> None:
    network = copy.deepcopy(fitted.models["crack"].network)
    with torch.no_grad():
        network.head.weight[0] = float("nan")
    broken = replace(fitted.models["crack"], network=network)
    start = AdvCamFitted(fitted.geometry, [broken], {}, "cpu")
    with pytest.raises(TrainingDiverged, match="train on without warm start"):
        fit(warm_start=start)
