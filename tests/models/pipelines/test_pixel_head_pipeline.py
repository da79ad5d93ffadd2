"""The pixel head from clicks to proposals: propose, save, load, refuse what is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import models.base
from models.base import ClassSpec
from models.metrics import f_measure
from models.pipelines import pixel_head
from models.pipelines.pixel_head import NeedsWeights, PixelHeadFitted
from tests.models.clicked_spots import MOSS, RUST, fit, picture
from tests.models.surfaces import same

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def fitted(encoder_weights: str) -> PixelHeadFitted:
    return fit(encoder_weights, specs=(RUST, MOSS))


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


def test_nothing_of_the_encoder_changes(fitted: PixelHeadFitted, encoder_weights: str) -> None:
    stored = load_file(encoder_weights)
    kept = fitted.trunk.encoder.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in stored.items())
