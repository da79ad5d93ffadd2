"""One trunk with a head per class: learns both, serves both in one pass, and is saved once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models import tiling
from models.base import ClassSpec, Progress, Sample, WeakPoint
from models.networks.unet import TruncatedUNet
from models.pipelines.advcam import AdvCam, AdvCamFitted
from tests.models.surfaces import CRACK, PROFILE, SAMPLES, SIZE, fit, same, surface

pytestmark = pytest.mark.training

SHARED = replace(PROFILE, shared_trunk=True)
SPECS = (CRACK, ClassSpec("stain"))


def stained(seed: int) -> Sample:
    image, _ = surface(seed, cracked=False)
    rng = np.random.default_rng(seed)
    x, y = (int(at) for at in rng.integers(14, SIZE - 14, 2))
    cv2.circle(image, (x, y), 6, (250, 250, 250), cv2.FILLED)
    far = [p for p in np.ndindex(SIZE, SIZE) if max(abs(p[0] - y), abs(p[1] - x)) > 24]
    clean = [WeakPoint("stain", far[n][1], far[n][0], False) for n in rng.permutation(len(far))[:3]]
    return Sample(f"stain-{seed}", lambda: image, (WeakPoint("stain", x, y, True), *clean))


@pytest.fixture(scope="module")
def shared() -> AdvCamFitted:
    samples = SAMPLES + [stained(seed) for seed in range(400, 410)]
    return fit(samples, specs=SPECS, profile=SHARED)


def test_one_network_knows_both_classes_apart(shared: AdvCamFitted) -> None:
    crack, stain = (shared.models[spec.name] for spec in SPECS)
    assert crack.network is stain.network
    assert (crack.head, stain.head) == (0, 1)
    assert shared.metrics["classes"]["stain"]["steps"] == 2 * PROFILE.max_steps
    for image, there in ((surface(100)[0], 0), (stained(500).load(), 1)):
        scores = [p.score for p in shared.propose(image, specs=SPECS).proposals]
        assert scores[there] > 0.5
        assert scores[there] > scores[1 - there]


def test_one_pass_serves_both_and_each_alone_is_the_same(
    shared: AdvCamFitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = surface(100)
    passes: list[int] = []
    features = TruncatedUNet.features

    def counting(network: TruncatedUNet, x: torch.Tensor) -> torch.Tensor:
        passes.append(1)
        return features(network, x)

    monkeypatch.setattr(TruncatedUNet, "features", counting)
    plain = [replace(spec, iterations=1) for spec in SPECS]
    both = shared.propose(image, specs=plain)
    assert len(passes) == len(tiling.tiles(SIZE, SIZE, tile_px=64, halo_px=40))
    assert both.evidence.embedding.shape == (8,)
    assert both.evidence.tile_probs.shape[1] == 2
    for index, spec in enumerate(plain):
        alone = shared.propose(image, specs=[spec])
        assert np.array_equal(alone.proposals[0].mask, both.proposals[index].mask)
        assert alone.proposals[0].score == both.proposals[index].score


def test_each_class_climbs_as_often_as_it_is_told(shared: AdvCamFitted) -> None:
    image, _ = surface(100)
    for climbed, other in (("crack", "stain"), ("stain", "crack")):
        found = shared.analyse(image, {climbed: 2, other: 1})
        assert found[other].tiles_climbed == 0
        assert (found[climbed].tiles_climbed > 0) == (found[climbed].score > 0.5)
    assert shared.analyse(image, {"crack": 2})["crack"].tiles_climbed > 0


def test_saved_and_loaded_it_proposes_the_same(shared: AdvCamFitted, tmp_path: Path) -> None:
    shared.save(tmp_path)
    loaded = AdvCam().load(tmp_path, device="cpu")
    assert loaded.models["crack"].network is loaded.models["stain"].network
    image, _ = surface(100)
    specs = [replace(spec, iterations=2) for spec in SPECS]
    assert same(loaded.propose(image, specs=specs), shared.propose(image, specs=specs))


def test_it_trains_on_for_the_same_classes_alone(shared: AdvCamFitted) -> None:
    samples = SAMPLES + [stained(seed) for seed in range(400, 404)]
    brief = replace(SHARED, max_steps=2, warm_steps=1)
    shown: list[Progress] = []
    warm = fit(samples, specs=SPECS, profile=brief, warm_start=shared, report=shown.append)
    assert all(warm.metrics["classes"][spec.name]["warm_start"] for spec in SPECS)
    assert {p.class_name for p in shown} == {"crack, stain"}
    other = fit(samples, specs=SPECS[::-1], profile=brief, warm_start=shared)
    assert not other.metrics["classes"]["stain"]["warm_start"]
    alone = fit(samples, specs=SPECS[:1], profile=brief, warm_start=shared)
    assert not alone.metrics["classes"]["crack"]["warm_start"]
