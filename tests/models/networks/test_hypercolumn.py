"""Hypercolumns and heads on them, against loops, scipy, and passes over the whole image."""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
import scipy.ndimage
import skimage.color
import torch
from torch.nn import functional

from models.base import Image
from models.networks import hypercolumn
from models.networks.hypercolumn import COLOURS, Hypercolumn, Levels, PixelHead
from models.pixels.pixel_labels import Pixels
from models.pixels.pixel_scan import scan
from models.pixels.pixel_training import train
from tests.models.small_network import state

MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def trunk(encoder_weights: str) -> Hypercolumn:
    return Hypercolumn("resnet18", encoder_weights)


def picture(height_px: int, width_px: int, seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    rough = rng.normal(120, 60, (height_px, width_px, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(rough, (0, 0), 1.5).reshape(rough.shape)
    return np.clip((smooth - 120) * 2 + 120, 0, 255).astype(np.uint8)


def head_for(trunk: Hypercolumn, seed: int = 0) -> PixelHead:
    """A head as a training starts with: random weights, the range of some pixels."""
    torch.manual_seed(seed)
    head = PixelHead(sum(trunk.channels)).eval()
    levels = trunk.levels(picture(64, 64, seed=9))
    points = np.argwhere(np.ones((64, 64), bool))[::7]
    head.set_range(torch.from_numpy(hypercolumn.at(levels, points)))
    with torch.no_grad():  # far from all undecided
        head.last.mul_(20)
    return head


def bilinear(level: np.ndarray, row_px: float, column_px: float, stride: float) -> np.ndarray:
    """One place (in pixel coordinates, where pixel 0 spans 0 to 1) of a map (C, h, w)."""
    value = np.zeros(len(level))
    rows, columns = row_px / stride - 0.5, column_px / stride - 0.5
    for i in (math.floor(rows), math.floor(rows) + 1):
        for j in (math.floor(columns), math.floor(columns) + 1):
            share = (1 - abs(rows - i)) * (1 - abs(columns - j))
            inside = min(max(i, 0), level.shape[1] - 1), min(max(j, 0), level.shape[2] - 1)
            value += share * level[:, inside[0], inside[1]]
    return value


def column_at(levels: Levels, row_px: float, column_px: float) -> np.ndarray:
    """The hypercolumn at a place, map by map."""
    height_px = levels.maps[0].shape[1] * 2
    return np.concatenate(
        [
            bilinear(level.double().numpy(), row_px, column_px, height_px / level.shape[1])
            for level in levels.maps
        ]
    )


def test_a_hypercolumn_is_every_map_interpolated_at_the_centre_of_the_pixel(
    trunk: Hypercolumn,
) -> None:
    levels = trunk.levels(picture(50, 70))
    points = np.array([(0, 0), (49, 69), (0, 69), (17, 33), (20, 8), (31, 32)])
    found = hypercolumn.at(levels, points)
    assert found.shape == (6, sum(trunk.channels)) and found.dtype == np.float32
    for (row, column), values in zip(points, found, strict=True):
        expected = column_at(levels, row + 0.5, column + 0.5)
        np.testing.assert_allclose(values, expected, atol=2e-4)
    assert np.ptp(found, axis=0).mean() > 0.1


def test_the_maps_are_those_of_the_encoder_at_full_half_and_quarter_resolution(
    trunk: Hypercolumn,
) -> None:
    image = picture(64, 96)
    levels = trunk.levels(image)
    assert tuple(len(level) for level in levels.maps) == trunk.channels
    rest = list(levels.maps[1:])
    for halving in range(3):
        size = 96 // 2**halving, 64 // 2**halving
        smaller = cv2.resize(image.astype(np.float64), size, interpolation=cv2.INTER_AREA)
        x = torch.from_numpy((smaller / 255 - MEAN) / STD).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            expected = trunk.encoder(x)[1:]
        for stage, level in enumerate(expected):
            assert level.shape[2:] == (size[1] // 2 ** (stage + 1), size[0] // 2 ** (stage + 1))
            torch.testing.assert_close(rest.pop(0), level[0], atol=1e-3, rtol=1e-3)
    assert not rest


def test_colours_are_lab_of_the_pixel_and_its_surroundings() -> None:
    image = picture(48, 64)
    image[8:40, 20:40] = 250, 60, 20
    lab = skimage.color.rgb2lab(image)
    lab = (lab * (2.55, 1, 1) + (0, 128, 128)) / 255
    light = lab[..., 0]

    def blurred(plane: np.ndarray, sigma: float) -> np.ndarray:
        return np.asarray(scipy.ndimage.gaussian_filter(plane, sigma, mode="mirror", truncate=4))

    planes = [lab[..., n] for n in range(3)]
    for sigma in (2, 6):
        planes += [blurred(lab[..., n], sigma) for n in range(3)]
    for sigma in (3, 9):
        mean = blurred(light, sigma)
        planes += [np.sqrt(np.maximum(blurred(light**2, sigma) - mean**2, 0)), light - mean]
    planes.append(light - scipy.ndimage.median_filter(light, 31, mode="nearest"))
    expected = np.stack(planes).reshape(COLOURS, 24, 2, 32, 2).mean(axis=(2, 4))
    found = hypercolumn.colours(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1.6 / 255)  # bytes are rounded
    assert min(np.ptp(plane) for plane in found) > 6 / 255


def test_the_dense_probability_is_that_of_hypercolumns_at_half_of_the_resolution(
    trunk: Hypercolumn,
) -> None:
    """Exact at the corners of 2 x 2 pixels, linear between them."""
    image = picture(42, 58)
    levels, head = trunk.levels(image), head_for(trunk)
    rows, columns = np.mgrid[1:64:2, 1:64:2]
    places = zip(rows.flat, columns.flat, strict=True)
    inputs = np.stack([column_at(levels, row, column) for row, column in places])
    mean, spread = head.mean.double().numpy(), head.spread.double().numpy()
    s = {key: value.double().numpy() for key, value in head.state_dict().items()}
    x = np.maximum((inputs - mean) / spread @ s["first.weight"].T + s["first.bias"], 0)
    members = []
    for m in range(3):
        own = x[:, m * 32 : m * 32 + 32]
        own = np.maximum(own @ s["second"][m] + s["second_bias"][m], 0)
        members.append(1 / (1 + np.exp(-(own @ s["last"][m] + s["last_bias"][m])[:, 0])))
    coarse = np.mean(members, axis=0).reshape(1, 32, 32)
    expected = [[bilinear(coarse, r + 0.5, c + 0.5, 2)[0] for c in range(58)] for r in range(42)]
    found = head.probability(levels)
    assert found.shape == (42, 58) and found.dtype == np.float32 and found.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(members[0] - members[1]).max() > 0.1  # members differ


def test_a_head_on_single_pixels_is_the_head_of_the_dense_pass(trunk: Hypercolumn) -> None:
    """Between the corners the dense pass interpolates; on smooth pictures that matters little."""
    image = cv2.GaussianBlur(picture(64, 64), (0, 0), 6)
    levels, head = trunk.levels(image), head_for(trunk)
    points = np.argwhere(np.ones((64, 64), bool))[::5]
    with torch.no_grad():
        logits = head(torch.from_numpy(hypercolumn.at(levels, points)))
    alone = torch.sigmoid(logits).mean(dim=0).numpy()
    dense = head.probability(levels)[points[:, 0], points[:, 1]]
    assert np.abs(alone - dense).mean() < 0.01 and alone.std() > 0.05


def test_the_halo_is_the_reach_of_the_coarsest_map(trunk: Hypercolumn) -> None:
    """What a NaN spreads to, through the quarter resolution and both enlargements."""
    reach_px = []
    for column in range(512, 512 + 32):
        x = torch.zeros(1, 3, 32, 1024)
        x[..., column] = torch.nan
        with torch.no_grad():
            coarsest = trunk.encoder(functional.avg_pool2d(x, 4))[3].mean(dim=1, keepdim=True)
            half = functional.interpolate(coarsest, (16, 512), mode="bilinear")
            full = functional.interpolate(half, scale_factor=2.0, mode="bilinear")
        seen = full[0, 0].isnan().any(dim=0).nonzero()[:, 0]
        reach_px += [column - int(seen.min()), int(seen.max()) - column]
    assert trunk.halo_px - 32 < max(reach_px) <= trunk.halo_px
    assert trunk.halo_px % 32 == 0


@pytest.mark.training
@pytest.mark.parametrize(("height_px", "width_px"), [(40, 801), (701, 33)])
def test_tiles_equal_the_whole_image(
    trunk: Hypercolumn, monkeypatch: pytest.MonkeyPatch, height_px: int, width_px: int
) -> None:
    image, heads = picture(height_px, width_px), [head_for(trunk, n) for n in range(2)]
    resident = trunk.resident(device="cpu", bf16=False)
    sides: list[int] = []
    whole = scan(resident, heads, image, tile_px=1024)
    levels = Hypercolumn.levels

    def seen(self: Hypercolumn, part: Image) -> Levels:
        sides.append(max(part.shape))
        return levels(self, part)

    monkeypatch.setattr(Hypercolumn, "levels", seen)
    tiled = scan(resident, heads, image, tile_px=192)
    assert len(sides) > 3 and min(sides) < 600  # context was cut off
    for one, other in zip(whole.probabilities, tiled.probabilities, strict=True):
        assert one.shape == (height_px, width_px) and one.std() > 0.05
        np.testing.assert_allclose(other, one, atol=2e-4)
    for one, other in zip(whole.passes, tiled.passes, strict=True):
        np.testing.assert_allclose(other, one, atol=2e-4)
    np.testing.assert_allclose(tiled.embedding, whole.embedding, atol=1e-4)
    assert whole.embedding.shape == (256,)


@pytest.mark.parametrize(("height_px", "width_px"), [(1, 1), (1, 40), (33, 1), (7, 13), (32, 32)])
def test_any_size_works_as_if_the_last_pixels_were_repeated(
    trunk: Hypercolumn, height_px: int, width_px: int
) -> None:
    image, head = picture(height_px, width_px), head_for(trunk)
    padding = ((0, -height_px % 32), (0, -width_px % 32), (0, 0))
    whole = head.probability(trunk.levels(np.pad(image, padding, mode="edge")))
    found = scan(trunk, [head], image, tile_px=64).probabilities[0]
    assert found.shape == (height_px, width_px) and np.isfinite(found).all()
    np.testing.assert_allclose(found, whole[:height_px, :width_px], atol=1e-6)


def test_passes_are_what_each_member_says(trunk: Hypercolumn) -> None:
    image, head = picture(64, 96), head_for(trunk)
    found = scan(trunk, [head], image, tile_px=64)
    levels = trunk.levels(image)
    points = np.stack(np.mgrid[0:64, 0:96], axis=-1).reshape(-1, 2)
    with torch.inference_mode():
        said = torch.sigmoid(head(torch.from_numpy(hypercolumn.at(levels, points))))
    cells = said.numpy().reshape(head.members, 16, 4, 24, 4).mean(axis=(2, 4))
    inner = found.passes[0][:, 1:-1, 1:-1], cells[:, 1:-1, 1:-1]
    assert np.corrcoef(inner[0].ravel(), inner[1].ravel())[0, 1] > 0.99
    mean = found.probabilities[0].reshape(16, 4, 24, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(found.passes[0].mean(axis=0), mean, atol=0.05)
    assert found.passes[0].std(axis=0).max() > 0.01, "members differ"


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_constant_image_gives_numbers(trunk: Hypercolumn, grey: int) -> None:
    found = scan(trunk, [head_for(trunk)], np.full((40, 40, 3), grey, np.uint8), tile_px=64)
    assert np.isfinite(found.probabilities[0]).all() and np.isfinite(found.embedding).all()
    assert found.probabilities[0].min() >= 0 and found.probabilities[0].max() <= 1


def test_another_kind_of_image_is_refused(trunk: Hypercolumn) -> None:
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="give uint8"):
            scan(trunk, [], image, tile_px=64)


def test_without_a_head_nothing_is_looked_at(
    trunk: Hypercolumn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Hypercolumn, "levels")
    found = scan(trunk, [], picture(8, 8), tile_px=64)
    assert found.probabilities == () and found.embedding.shape == (0,)


def test_probabilities_that_are_no_numbers_are_refused(trunk: Hypercolumn) -> None:
    head = head_for(trunk)
    with torch.no_grad():
        head.last_bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="damaged: activate an older one"):
        scan(trunk, [head], picture(8, 8), tile_px=64)


def test_the_copy_to_compute_with_gives_the_same_maps(trunk: Hypercolumn) -> None:
    image, before = picture(40, 40), state(trunk)
    maps = trunk.levels(image).maps
    for bf16, tolerance in ((False, 1e-3), (True, 0.1)):
        copied = trunk.resident(device="cpu", bf16=bf16).levels(image).maps
        for one, other in zip(maps, copied, strict=True):
            difference = (one - other.float()).abs().mean() / one.abs().mean()
            assert difference < tolerance
    assert all(torch.equal(value, before[key]) for key, value in state(trunk).items())


def test_the_encoder_is_frozen_while_a_head_learns(trunk: Hypercolumn) -> None:
    before, image, head = state(trunk), picture(32, 32), PixelHead(sum(trunk.channels))
    assert not any(p.requires_grad for p in trunk.parameters())
    assert not any(module.training for module in trunk.modules())
    levels = trunk.levels(image)
    assert not any(level.requires_grad for level in levels.maps)
    columns = hypercolumn.at(levels, np.argwhere(image[..., 0] >= 0)[:40]).astype(np.float16)
    labelled = Pixels(columns, np.arange(40) % 2 == 0, np.ones(40, np.float32), "")
    learned = state(head)
    train(head, [labelled], steps=2, seed=0, report=lambda *_: None)
    assert all(torch.equal(value, before[key]) for key, value in state(trunk).items())
    assert all(p.grad is None for p in trunk.parameters())
    moved = {key for key, value in state(head).items() if not torch.equal(value, learned[key])}
    assert moved == {name for name, _ in head.named_parameters()}


def test_a_head_sees_pixels_in_units_of_their_spread() -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.normal(5, (1, 100, 0.01, 0), (200, 4)).astype(np.float32))
    head = PixelHead(4).eval()
    head.set_range(pixels)
    seen: list[torch.Tensor] = []
    head.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        head(pixels)
    np.testing.assert_allclose(seen[0].mean(dim=0), 0, atol=1e-3)
    np.testing.assert_allclose(seen[0].std(dim=0)[:2], 1, atol=0.01)
    assert 0.8 < seen[0].std(dim=0)[2] < 1  # of a spread close to the floor
    assert seen[0][:, 3].abs().max() < 1e-2  # what never varies says nothing


def test_the_mean_of_the_members_is_steadier_than_each() -> None:
    torch.manual_seed(0)
    head = PixelHead(6).eval()
    with torch.no_grad():
        logits = head(torch.randn(50, 6))
    assert logits.shape == (3, 50)
    assert all((one - other).abs().max() > 0.05 for one, other in pairwise(logits))
