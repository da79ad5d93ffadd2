"""Crops around weak points: which points count, what crops show, and what is not invented."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from models.base import Image, Mask, NotEnoughLabels, Sample, WeakPoint
from models.learning import crops
from models.learning.crops import Click, Ints, Wanted

CROP = 16


def coordinates(height_px: int = 60, width_px: int = 80) -> Image:
    """An image whose pixels say where they are: (row, column, 7)."""
    rows, columns = np.indices((height_px, width_px))
    return np.dstack((rows, columns, np.full_like(rows, 7))).astype(np.uint8)


def point(x: float, y: float, positive: bool, name: str = "crack", weight: float = 1) -> WeakPoint:
    return WeakPoint(name, x, y, positive, weight)


def sample(*points: WeakPoint, key: str = "1", mask: Mask | None = None) -> Sample:
    masks: dict[str, Callable[[], Mask]] = {} if mask is None else {"crack": lambda: mask}
    return Sample(key, coordinates, points, masks)


def collect(*samples: Sample) -> crops.Clicks:
    return crops.collect(samples, "crack", CROP, np.random.default_rng(0))


def at_points(cut: crops.Cut) -> Ints:
    """Rows and columns that the pixels at the points of crops say: (B, 2)."""
    rows, columns = cut.points.T
    return cut.pixels[np.arange(len(cut.points)), rows, columns, :2].astype(np.int64)


@pytest.mark.parametrize("at", [(40, 30), (0, 0), (79, 59), (3, 58), (80.0, 60.0)])
def test_every_crop_is_a_part_of_the_image_that_holds_its_click(at: tuple[float, float]) -> None:
    x, y = (min(int(at[0]), 79), min(int(at[1]), 59))
    clicks = [Click(0, int(at[0]), int(at[1]), 1.0)]
    around = crops.surroundings([sample()], clicks, CROP, crops.CLICK_REACH)
    rng = np.random.default_rng(1)
    offsets = rng.uniform(-crops.CLICK_REACH, crops.CLICK_REACH, (200, 2))
    made = around.cut(np.zeros(200, np.int64), offsets)
    cut = made.pixels.astype(int)
    assert cut.shape == (200, CROP, CROP, 3)
    assert (np.diff(cut[..., 0], axis=1) == 1).all()  # rows of the image, in order
    assert (np.diff(cut[..., 1], axis=2) == 1).all()
    assert (cut[..., 2] == 7).all()
    assert at_points(made).tolist() == [[y, x]] * 200


def test_the_click_moves_within_the_stated_reach_and_uses_it() -> None:
    around = crops.surroundings([sample()], [Click(0, 40, 30, 1.0)], CROP, crops.CLICK_REACH)
    reach = round(crops.CLICK_REACH * CROP)
    offsets = np.array([[0, 0], [crops.CLICK_REACH] * 2, [-crops.CLICK_REACH] * 2])
    cut = around.cut(np.zeros(3, np.int64), offsets).pixels.astype(int)
    centres = cut[:, CROP // 2, CROP // 2, :2]
    assert centres.tolist() == [[30, 40], [30 + reach, 40 + reach], [30 - reach, 40 - reach]]


@pytest.mark.parametrize("reach", [0.0, crops.JITTER])
def test_clicks_at_the_edge_have_whole_crops_at_any_reach(reach: float) -> None:
    corners = [Click(0, x, y, 1.0) for x in (0, 79) for y in (0, 59)]
    around = crops.surroundings([sample()], corners, CROP, reach)
    cut = crops.centred(around, 99).astype(int)
    assert cut[:, 0, 0, :2].tolist() == [[0, 0], [44, 0], [0, 64], [44, 64]]


def test_images_smaller_than_the_crop_continue_by_reflection() -> None:
    tiny = Sample("1", lambda: coordinates(5, 9), ())
    around = crops.surroundings([tiny], [Click(0, 4, 2, 1.0)], CROP, crops.CLICK_REACH)
    cut = around.cut(np.array([0]), np.array([[0.3, -0.3]])).pixels[0]
    padded = np.pad(coordinates(5, 9), ((0, 11), (0, 7), (0, 0)), mode="reflect")
    assert np.array_equal(cut, padded)


def test_each_image_is_decoded_once_for_all_that_want_crops_of_it() -> None:
    decoded: list[str] = []

    def loading(key: str) -> Callable[[], Image]:
        def load() -> Image:
            decoded.append(key)
            return coordinates()

        return load

    samples = [Sample(key, loading(key), ()) for key in ("a", "b", "unused")]
    wanted = [Wanted([Click(n % 2, x, 30, 1.0) for x in range(20, 60)], 0.2) for n in range(6)]
    made = crops.cut_out(samples, wanted, CROP)
    assert decoded == ["a", "b"]
    assert [len(around) for around in made] == [40] * 6


def test_all_crops_together_stay_within_the_memory_bound_and_the_rest_is_paged() -> None:
    wanted = [Wanted([Click(0, x, 30, 1.0) for x in range(20, 20 + n)], 0.2) for n in (9, 4, 8, 2)]
    kept = crops.cut_out([sample()], wanted, CROP)
    sizes = [around.pixels.nbytes for around in kept]
    paged = crops.cut_out([sample()], wanted, CROP, memory_bytes=sizes[0] + sizes[1] + sizes[3])
    assert [isinstance(around.pixels, np.memmap) for around in paged] == [False, False, True, False]
    none = crops.cut_out([sample()], wanted, CROP, memory_bytes=1000)
    assert all(isinstance(around.pixels, np.memmap) for around in none)
    for some in (paged, none):
        pairs = zip(some, kept, strict=True)
        assert all(np.array_equal(one.pixels, other.pixels) for one, other in pairs)


def test_nothing_to_cut_gives_nothing() -> None:
    assert len(crops.surroundings([sample()], [], CROP, 0.1, memory_bytes=0)) == 0


def test_turning_gives_all_eight_symmetries_and_nothing_else() -> None:
    crop = coordinates(4, 4)
    turned = crops.turn(np.repeat(crop[None], 400, axis=0), np.random.default_rng(0))
    possible = {np.rot90(c, k).tobytes() for c in (crop, crop[:, ::-1]) for k in range(4)}
    assert {one.tobytes() for one in turned} == possible


def test_points_move_with_the_turned_crop() -> None:
    places = np.array([[r, c] for r in range(4) for c in range(4) for _ in range(8)])
    crop = np.repeat(coordinates(4, 4)[None], len(places), axis=0)
    turns, mirrored = np.tile(np.arange(8) % 4, 16), np.tile(np.arange(8) // 4, 16)
    turned = crops.turned(crops.Cut(crop, places), turns, mirrored)
    assert np.array_equal(at_points(turned), places)


def test_zooming_keeps_the_point_and_shows_nothing_beyond_the_crop() -> None:
    columns = np.tile(np.arange(0, 160, 10, dtype=np.uint8)[:, None], (16, 1, 3))
    cut = crops.Cut(np.stack([columns] * 3), np.array([[3, 4], [8, 8], [8, 8]]))
    same, large, small = crops.zoomed(cut, np.array([1.0, 1.25, 0.8])).pixels.astype(int)
    assert np.array_equal(same, columns)
    for zoomed, slope in ((large, 8), (small, 12.5)):
        assert zoomed[8, 8, 0] == 80
        inner = zoomed[8, 4:12, 0]
        assert np.diff(inner).mean() == pytest.approx(slope, abs=0.5)
    assert small.max() <= 150  # reflected, not invented
    assert small[8, 0, 0] == pytest.approx(20, abs=1)  # 10 columns left of 8 is -2, that is 2


def test_positives_of_another_class_are_no_negatives() -> None:
    with pytest.raises(NotEnoughLabels, match="'crack' has no usable negative point"):
        collect(sample(point(10, 10, True), point(60, 40, True, name="rust")))


def test_a_class_without_positives_cannot_start() -> None:
    with pytest.raises(NotEnoughLabels, match="'crack' has no positive point"):
        collect(sample(point(60, 40, False), point(10, 10, True, name="rust")))


def test_a_negative_whose_patch_holds_a_defect_is_left_out() -> None:
    mask = np.zeros((60, 80), bool)
    mask[40, 66] = True
    marked = sample(
        point(10, 10, True),
        point(10 + CROP // 2, 10, False),  # a positive lies in its patch
        point(60, 40, False),  # a verified defect does
        point(40, 20, False),
        mask=mask,
    )
    clicks = collect(marked)
    assert (20, 40) in [(click.y_px, click.x_px) for click in clicks.negatives]
    assert clicks.contradicted == 2
    with pytest.raises(NotEnoughLabels, match="1 lie within a patch that holds a defect"):
        collect(sample(point(10, 10, True), point(12, 12, False)))


def test_verified_masks_give_clean_patches_of_low_weight() -> None:
    mask = np.zeros((60, 80), bool)
    mask[:, :30] = True
    clicks = collect(sample(point(10, 10, True), mask=mask), sample(point(70, 50, True), key="2"))
    assert len(clicks.negatives) == crops.BACKGROUND_PER_SAMPLE
    for click in clicks.negatives:
        assert click.sample == 0  # nothing is known of the other one
        assert click.weight == crops.BACKGROUND_WEIGHT
        assert click.x_px >= 30 + CROP // 2


def test_equal_points_count_once_with_the_largest_weight() -> None:
    twice = sample(point(10, 10, True), point(10.4, 10, True, weight=3), point(60, 40, False))
    clicks = collect(twice, sample(point(10, 10, True), key="2"))
    assert [(click.sample, click.weight) for click in clicks.positives] == [(0, 3), (1, 1)]


def test_only_the_chosen_samples_are_looked_at() -> None:
    mask = np.zeros((60, 80), bool)
    samples = [
        sample(point(10, 10, True), point(60, 40, False), key="1"),
        sample(point(20, 10, True), point(50, 40, False), key="2", mask=mask),
    ]
    rng = np.random.default_rng(0)
    clicks = crops.collect(samples, "crack", CROP, rng, among={0})
    assert {click.sample for click in clicks.positives + clicks.negatives} == {0}
    clicks = crops.collect(samples, "crack", CROP, rng, among=[1])
    assert {click.sample for click in clicks.positives + clicks.negatives} == {1}
    assert len(clicks.negatives) == 1 + crops.BACKGROUND_PER_SAMPLE


def test_broken_points_and_images_are_named() -> None:
    with pytest.raises(ValueError, match="sample 1: weak point .* is not finite"):
        collect(sample(point(float("nan"), 10, True)))
    grey = Sample("7", lambda: np.zeros((9, 9), np.uint8), ())
    with pytest.raises(ValueError, match=r"sample 7: image is uint8 \(9, 9\)"):
        crops.surroundings([grey], [Click(0, 1, 1, 1.0)], CROP, 0.1)
    broken = Sample("8", lambda: np.full((9, 9, 3), np.nan), ())
    with pytest.raises(ValueError, match=r"sample 8: image is float64"):
        crops.surroundings([broken], [Click(0, 1, 1, 1.0)], CROP, 0.1)
