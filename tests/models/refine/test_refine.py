"""Heat to masks: local Otsu against skimage, and what each refinement may and may not keep."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from skimage.filters import threshold_multiotsu

from models import refine
from models.base import HeatMap, Image, Mask
from models.metrics import f_measure
from models.refine import fusion, fusion_bright, threshold
from models.refine.fusion import Scale

SHAPES = [(1, 1), (1, 50), (5, 3), (63, 65), (70, 45)]


def texture(height_px: int, width_px: int, seed: int = 0, spread: float = 25) -> Image:
    """Smooth noise around mid-grey, as concrete has."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(height_px, width_px, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return np.asarray(np.clip(140 + 4 * spread * smooth, 0, 255), dtype=np.uint8)


def crack(height_px: int = 128, width_px: int = 160) -> tuple[Image, Mask, HeatMap]:
    """A dark line, its mask, and a heat band of 21 px around it as a CAM gives."""
    line, band = np.zeros((2, height_px, width_px), np.uint8)
    ends = (10, 20), (width_px - 10, height_px - 30)
    cv2.line(line, *ends, 1, 3)
    cv2.line(band, *ends, 1, 21)
    image = texture(height_px, width_px, spread=6)
    image[line > 0] = 45
    return image, line > 0, cv2.GaussianBlur(band.astype(np.float32), (0, 0), 3)


def dark_by_patches(grey: npt.NDArray[np.uint8], size: int, stride: int) -> Mask:
    """The definition: skimage on every patch, and all patches over a pixel must agree."""
    dark = np.ones(grey.shape, dtype=bool)
    for top in range(0, grey.shape[0] - size + 1, stride):
        for left in range(0, grey.shape[1] - size + 1, stride):
            part = slice(top, top + size), slice(left, left + size)
            patch = grey[part].astype(float)
            low, high = patch.min(), patch.max()
            if len(np.unique(patch)) < 3:
                dark[part] = False
                continue
            scaled = (patch - low) / (high - low)
            dark[part] &= scaled < threshold_multiotsu(scaled, classes=3, nbins=256)[0]
    return dark


@pytest.mark.parametrize(("size", "stride"), [(32, 8), (64, 16), (32, 32)])
@pytest.mark.parametrize(("seed", "spread"), [(0, 25), (1, 60), (2, 1.2)])
def test_local_dark_is_the_patch_loop_of_skimage(
    seed: int, spread: float, size: int, stride: int
) -> None:
    grey = texture(96, 128, seed, spread)[..., 0]
    dark = fusion.local_dark(grey, patch_px=size, stride_px=stride)
    differing = dark ^ dark_by_patches(grey, size, stride)
    assert dark.any()
    assert differing.mean() <= 3e-3  # a patch or two whose best sums tie, decided by rounding


def test_local_dark_with_three_levels_takes_the_darkest_only() -> None:
    grey = np.full((64, 64), 200, np.uint8)
    grey[:, 8:12], grey[:, 20:26] = 30, 110
    assert np.array_equal(fusion.local_dark(grey), grey == 30)


@pytest.mark.parametrize("levels", [(90,), (90, 91), (0, 255)])
def test_fewer_than_three_levels_hold_nothing_dark(levels: tuple[int, ...]) -> None:
    grey = np.random.default_rng(0).choice(np.array(levels, np.uint8), size=(64, 64))
    assert not fusion.local_dark(grey).any()


@pytest.mark.parametrize(("height_px", "width_px"), SHAPES)
def test_local_dark_of_odd_sizes_is_that_of_the_reflected_image(
    height_px: int, width_px: int
) -> None:
    grey = texture(height_px, width_px)[..., 0]
    wanted = [max(64, -(-side // 16) * 16) - side for side in grey.shape]
    reflected = np.pad(grey, [(0, more) for more in wanted], mode="reflect")
    assert np.array_equal(
        fusion.local_dark(grey), fusion.local_dark(reflected)[:height_px, :width_px]
    )


def test_patches_that_strides_do_not_tile_are_refused() -> None:
    with pytest.raises(ValueError, match="patch_px 30 is no multiple of stride_px 16"):
        fusion.local_dark(np.zeros((40, 40), np.uint8), patch_px=30)


def test_fusion_thins_the_band_to_the_crack() -> None:
    image, truth, heat = crack()
    proposed = fusion.refine(image, heat, threshold=0.3, min_area_px=30)
    band = threshold.refine(image, heat, threshold=0.3, min_area_px=30)
    assert f_measure(proposed, truth) > 0.85
    assert f_measure(band, truth) < 0.4


def test_fusion_leaves_dark_things_without_heat_alone() -> None:
    image, _, heat = crack()
    image[100:104, 10:60] = 40  # a joint that the classifier knows
    proposed = fusion.refine(image, heat, threshold=0.3, min_area_px=1)
    assert not proposed[96:108, :50].any()


def test_bright_lines_are_dark_in_the_negative() -> None:
    image, truth, heat = crack()
    negative = 255 - image
    proposed = fusion_bright.refine(negative, heat, threshold=0.3, min_area_px=30)
    assert np.array_equal(proposed, fusion.refine(image, heat, threshold=0.3, min_area_px=30))
    wrong = fusion.refine(negative, heat, threshold=0.3, min_area_px=30)
    assert f_measure(wrong, truth) < 0.2


def test_one_preparation_serves_thresholds_in_any_order() -> None:
    image, _, heat = crack(250, 260)
    heat[100:] = 0
    cut = fusion.prepare(image, heat)
    for level in (0.8, 0.1, 0.5):
        alone = fusion.prepare(image, heat)(level)
        assert alone.any()
        assert np.array_equal(cut(level), alone)


@pytest.mark.parametrize(
    ("width_px", "scale"),
    [
        (None, Scale()),
        (3.0, Scale()),  # as wide as the cracks that the sizes were found with
        (12.0, Scale(96, 24, 12, 9)),
        (500.0, Scale(256, 64, 12, 9)),
        (0.5, Scale()),
    ],
)
def test_sizes_follow_the_width_within_bounds(width_px: float | None, scale: Scale) -> None:
    assert fusion.scale_for(width_px) == scale


def test_wide_cracks_need_patches_that_show_both_sides() -> None:
    band = np.zeros((400, 400), np.uint8)
    cv2.line(band, (0, 130), (399, 270), 1, 80)
    image = texture(400, 400, spread=3)
    image[band > 0] //= 3
    heat = cv2.GaussianBlur(band.astype(np.float32), (0, 0), 8)
    scores = [
        f_measure(
            fusion.refine(image, heat, threshold=0.1, min_area_px=20, width_px=width_px), band > 0
        )
        for width_px in (None, 80)
    ]
    assert scores[1] > 0.9 > scores[0] + 0.05


def test_tiles_see_what_the_whole_image_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _, heat = crack(250, 260)
    whole = fusion.refine(image, heat, threshold=0.2, min_area_px=1)
    monkeypatch.setattr(fusion, "_TILE_PX", 50)
    assert whole.any()
    assert np.array_equal(fusion.refine(image, heat, threshold=0.2, min_area_px=1), whole)


def test_fusion_sees_around_the_heat_what_it_sees_of_the_whole_image() -> None:
    image, heat = texture(250, 260), np.zeros((250, 260), np.float32)
    heat[120:150, 101:153] = 1
    part = fusion.prepare(image, heat, scale=Scale(reach_px=0, smoothing_px=1))(0.3)
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    assert part.any()
    assert np.array_equal(part, (heat > 0.3) & fusion.local_dark(grey))


def test_threshold_closes_gaps_and_drops_specks() -> None:
    heat = np.zeros((60, 60), np.float32)
    heat[20:40, 10:25], heat[20:40, 28:45], heat[5:8, 50:53] = 0.9, 0.9, 1.0
    proposed = threshold.refine(texture(60, 60), heat, threshold=0.5, min_area_px=10)
    whole = np.zeros((60, 60), bool)
    whole[20:40, 10:45] = True
    assert f_measure(proposed, whole) > 0.98
    assert proposed[22:38, 25:28].all()
    assert not proposed[:10].any()


def test_closing_does_not_eat_or_grow_at_the_edge() -> None:
    mask = np.zeros((20, 20), bool)
    mask[:6, :6] = True
    assert np.array_equal(threshold.close(mask, 5), mask)


@pytest.mark.parametrize(("even_px", "odd_px"), [(0, 1), (4, 5), (8, 9)])
def test_an_even_closing_is_the_next_odd_one_and_shifts_nothing(even_px: int, odd_px: int) -> None:
    mask = np.random.default_rng(0).random((40, 40)) > 0.7
    closed = threshold.close(mask, even_px)
    assert np.array_equal(closed, threshold.close(mask, odd_px))
    assert (closed >= mask).all()


@pytest.mark.parametrize("area", [1, 9, 10, 25, 26])
def test_small_regions_are_those_below_the_area(area: int) -> None:
    mask = np.zeros((30, 30), bool)
    mask[2:5, 2:5], mask[10:15, 10:15] = True, True  # 9 and 25 pixels
    kept = threshold.drop_small(mask, area)
    assert (kept[3, 3], kept[12, 12]) == (area <= 9, area <= 25)


@pytest.mark.parametrize("name", refine.names())
@pytest.mark.parametrize(("height_px", "width_px"), SHAPES)
def test_every_refinement_takes_any_size(name: str, height_px: int, width_px: int) -> None:
    image, heat = texture(height_px, width_px), np.ones((height_px, width_px), np.float32)
    before = image.copy(), heat.copy()
    method = refine.get(name)
    proposed = method.refine(image, heat, threshold=0.5, min_area_px=1)
    assert proposed.shape == (height_px, width_px)
    assert proposed.dtype == np.bool_
    assert np.array_equal(image, before[0])
    assert np.array_equal(heat, before[1])


@pytest.mark.parametrize("name", refine.names())
@pytest.mark.parametrize("width_px", [None, 0.2, 7, 3000])
def test_every_refinement_is_its_cut_closed_and_cleaned(name: str, width_px: float | None) -> None:
    image, _, heat = crack(90, 100)
    method = refine.get(name)
    cut = method.prepare(image, heat, width_px=width_px)(0.2)
    closing_px = method.closing_for(width_px)
    assert (closing_px % 2, 3 <= closing_px <= 15) == (1, True)
    wanted = threshold.finish(cut, closing_px, 25)
    found = method.refine(image, heat, threshold=0.2, min_area_px=25, width_px=width_px)
    assert np.array_equal(found, wanted)
    open_px = method.refine(
        image, heat, threshold=0.2, min_area_px=0, closing_px=0, width_px=width_px
    )
    assert np.array_equal(open_px, cut)


@pytest.mark.parametrize("name", refine.names())
def test_constant_images_are_no_special_case(name: str) -> None:
    image, heat = np.full((70, 60, 3), 128, np.uint8), np.zeros((70, 60), np.float32)
    heat[20:50, 15:45] = 0.97
    mask = refine.get(name).refine(image, heat, threshold=0.3, min_area_px=10)
    assert not mask[:10].any()
    assert mask[35, 30] == (name not in {"fusion", "fusion_bright", "crf"})  # see each


@pytest.mark.parametrize("name", refine.names())
def test_no_refinement_finds_anything_without_heat(name: str) -> None:
    image, _, heat = crack()
    method = refine.get(name)
    cold = np.zeros_like(heat)
    for level in (0.0, method.default_threshold):
        assert not method.refine(image, cold, threshold=level, min_area_px=1).any()


@pytest.mark.parametrize("name", refine.names())
def test_a_higher_threshold_never_adds_pixels_before_closing(name: str) -> None:
    image, _, heat = crack()
    method = refine.get(name)
    sizes = [
        method.refine(image, heat, threshold=level, min_area_px=1).sum()
        for level in (0.1, 0.5, 0.9)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_an_unknown_refinement_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown refinement 'magic'; known: crf, fusion, "):
        refine.get("magic")
