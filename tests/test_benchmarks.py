"""The benchmarks measure what they say: equal maps, sound cases, peaks that see allocations."""

from __future__ import annotations

import argparse
import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from backend.labelstudio import rle
from models import tiling
from models.networks.unet import TruncatedUNet

pytestmark = pytest.mark.training

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture(scope="module", autouse=True)
def _heads_are_fitted_once() -> Iterator[None]:
    """Each benchmark builds its networks anew, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        scene = module("scene")
        once = cache(scene.build)
        patch.setattr(scene, "build", lambda name, **options: deepcopy(once(name)))
        yield


@pytest.fixture(scope="module")
def network(_heads_are_fitted_once: None) -> TruncatedUNet:
    built: TruncatedUNet = module("scene").build("tiny")
    return built


@pytest.fixture
def image(_importable: None) -> torch.Tensor:
    crop: torch.Tensor = module("proposals").cracked_crop(64)
    return crop


def positive_windows(network: TruncatedUNet, scene: ModuleType, cracked: bool) -> int:
    middle = (slice(80, 176), slice(80, 176))
    surface = scene.paint(256, 256, [middle] if cracked else [], seed=7)
    found = tiling.analyse(network, surface.image, tile_px=256, window_px=64)
    assert surface.cracks.any() == cracked
    return int((found.window_probs > 0.5).sum())


def test_the_head_of_the_scene_knows_cracks(network: TruncatedUNet) -> None:
    scene = module("scene")
    assert positive_windows(network, scene, cracked=True) > 0
    assert positive_windows(network, scene, cracked=False) == 0


def test_a_scene_is_cracked_only_where_asked_and_darker_there() -> None:
    rows, columns = slice(40, 90), slice(10, 60)
    surface = module("scene").paint(128, 96, [(rows, columns)], seed=1)
    inside = np.zeros((128, 96), bool)
    inside[rows, columns] = True
    assert surface.cracks.any() and not surface.cracks[~inside].any()
    assert surface.image[surface.cracks].mean() < surface.image[~surface.cracks].mean() - 50


def test_fast_maps_equal_the_published_loop_and_the_package() -> None:
    proposals = module("proposals")
    options = proposals.parse(["--quick"])
    rows = [*proposals.equality(options), *proposals.cam(options)]
    judged = {row["name"]: row["met"] for row in rows if row["target"] is not None}
    assert len(judged) == 5
    assert all(judged.values()), rows


def test_the_literal_loop_is_the_activation_map_at_first(
    network: TruncatedUNet, image: torch.Tensor
) -> None:
    found = module("literal_advcam").literal_advcam(network, image, iterations=1, mirror=False)
    scores = network.score_map(image)[0, 0].detach().relu()
    torch.testing.assert_close(found * scores.max(), scores, atol=1e-4, rtol=1e-3)


def test_the_literal_loop_mirrors_with_its_image(
    network: TruncatedUNet, image: torch.Tensor
) -> None:
    literal = module("literal_advcam").literal_advcam
    found = literal(network, image, iterations=2)
    mirrored = literal(network, image.flip(-1), iterations=2)
    torch.testing.assert_close(found, mirrored.flip(-1), atol=1e-4, rtol=1e-4)


def test_the_published_regulariser_freezes_the_third_map_but_not_the_second(
    network: TruncatedUNet, image: torch.Tensor
) -> None:
    literal = module("literal_advcam").literal_advcam
    for count, is_inert in ((2, True), (3, False)):
        free, held = (literal(network, image, iterations=count, regulariser=r) for r in (0.0, 7.0))
        assert torch.equal(free, held) == is_inert


def test_the_literal_loop_leaves_the_network_as_it_was(
    network: TruncatedUNet, image: torch.Tensor
) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    module("literal_advcam").literal_advcam(network, image, iterations=2)
    assert all(parameter.grad is None for parameter in network.parameters())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


def large_options(side: int, tile: int, *more: str) -> argparse.Namespace:
    arguments = ["--side", str(side), "--tile", str(tile), "--networks", "tiny", *more]
    options: argparse.Namespace = module("large_image").parse(arguments)
    return options


def values(rows: list[dict[str, object]]) -> dict[str, object]:
    return {str(row["name"]).partition(": ")[2]: row["value"] for row in rows}


def test_a_large_image_is_climbed_where_it_was_painted(tmp_path: Path) -> None:
    large_image = module("large_image")
    options = large_options(640, 320)
    case = large_image.prepare("tiny", options, tmp_path)
    rows = large_image.measure("tiny", case, options)
    found = values(rows)
    assert (found["tiles"], found["tiles climbed"]) == (4, 1)
    assert 0 < float(str(found["covered by the region"])) < 5
    assert all(row["target"] is None for row in rows)  # targets are for 5000 px
    with pytest.raises(AssertionError, match="1 tiles were climbed, 2 are defective"):
        large_image.measure("tiny", replace(case, defective=2), options)


def test_overlapping_images_give_what_they_give_alone(
    network: TruncatedUNet, tmp_path: Path
) -> None:
    large_image = module("large_image")
    shares = []
    for in_flight in ("1", "3"):
        options = large_options(288, 288, "--images", "3", "--in-flight", in_flight)
        case = large_image.prepare("tiny", options, tmp_path)
        work = large_image.Work(network, options, case, lambda mask: mask)
        shares.append(large_image.run(work))
        assert all(len(taken) == 3 for taken in work.seconds.values())
    assert shares[0] == shares[1]
    assert len(set(shares[0])) == 3  # three photographs


def test_both_encoders_keep_the_region() -> None:
    name, encode = module("large_image").region_encoder()
    mask = np.random.default_rng(0).random((24, 30)) > 0.5
    assert name == "brush RLE"
    assert np.array_equal(rle.decode_mask(encode(mask), 24, 30), mask)


def test_the_peak_sees_what_was_freed_again() -> None:
    """In a process of its own: here, others' freed memory is kept for later."""
    code = """
import numpy as np, large_image
baseline = large_image.reset_peak()
np.ones(128 << 20, dtype=np.uint8).sum()
print(large_image.peak_bytes() - baseline, large_image.reset_peak() - baseline)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    seen_mib, after_mib = (int(text) / (1 << 20) for text in done.stdout.split())
    assert 120 <= seen_mib <= 192
    assert after_mib < 64


def test_the_large_image_needs_models_alone() -> None:
    tree = ast.parse((BENCHMARKS / "large_image.py").read_text())
    outside: set[str] = set()
    for node in tree.body:  # what is imported inside of functions is optional
        if isinstance(node, ast.ImportFrom) and node.module:
            outside.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
    assert "models" in outside
    assert not outside & {"backend", "strategies"}


@pytest.mark.parametrize(
    ("value", "limits", "met"),
    [
        (12.0, {"at_least": 12.0}, True),
        (11.9, {"at_least": 12.0}, False),
        (90.0, {"at_most": 90.0}, True),
        (90.1, {"at_most": 90.0}, False),
        (1.0, {}, None),
    ],
)
def test_a_figure_is_judged(value: float, limits: dict[str, float], met: bool | None) -> None:
    report = module("report")
    row = report.judged(report.row("it", value, "s"), **limits)
    assert row["met"] is met
    assert row["target"] == next(iter(limits.values()), None)
