"""Crops around weak points: what they show, how they are balanced, and what is not invented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from models import crops
from models.base import Image, Mask, NotEnoughLabels, Sample, WeakPoint
from models.crops import Click, CropSource

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


def source(samples: Sequence[Sample], clicks: crops.Clicks) -> CropSource:
    there = crops.surroundings(samples, clicks.positives, CROP, crops.CLICK_REACH)
    clean = crops.surroundings(samples, clicks.negatives, CROP, crops.JITTER)
    return CropSource(there, clean, 5)


@pytest.mark.parametrize("at", [(40, 30), (0, 0), (79, 59), (3, 58), (80.0, 60.0)])
def test_every_crop_is_a_part_of_the_image_that_holds_its_click(at: tuple[float, float]) -> None:
    x, y = (min(int(at[0]), 79), min(int(at[1]), 59))
    clicks = [Click(0, int(at[0]), int(at[1]), 1.0)]
    around = crops.surroundings([sample()], clicks, CROP, crops.CLICK_REACH)
    rng = np.random.default_rng(1)
    offsets = rng.uniform(-crops.CLICK_REACH, crops.CLICK_REACH, (200, 2))
    cut = around.crops(np.zeros(200, np.int64), offsets).astype(int)
    assert cut.shape == (200, CROP, CROP, 3)
    assert (np.diff(cut[..., 0], axis=1) == 1).all()  # rows of the image, in order
    assert (np.diff(cut[..., 1], axis=2) == 1).all()
    assert (cut[..., 2] == 7).all()
    assert ((cut[..., 0] == y) & (cut[..., 1] == x)).any(axis=(1, 2)).all()


def test_the_click_moves_within_the_stated_reach_and_uses_it() -> None:
    around = crops.surroundings([sample()], [Click(0, 40, 30, 1.0)], CROP, crops.CLICK_REACH)
    reach = round(crops.CLICK_REACH * CROP)
    offsets = np.array([[0, 0], [crops.CLICK_REACH] * 2, [-crops.CLICK_REACH] * 2])
    cut = around.crops(np.zeros(3, np.int64), offsets).astype(int)
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
    cut = around.crops(np.array([0]), np.array([[0.3, -0.3]]))[0]
    padded = np.pad(coordinates(5, 9), ((0, 11), (0, 7), (0, 0)), mode="reflect")
    assert np.array_equal(cut, padded)


def test_each_image_is_decoded_once_and_large_sets_go_to_a_file() -> None:
    decoded: list[str] = []

    def load() -> Image:
        decoded.append("once")
        return coordinates()

    one = Sample("1", load, ())
    clicks = [Click(0, x, 30, 1.0) for x in range(20, 60)]
    kept = crops.surroundings([one], clicks, CROP, 0.2)
    assert decoded == ["once"]
    paged = crops.surroundings([one], clicks, CROP, 0.2, memory_bytes=1000)
    assert isinstance(paged.pixels, np.memmap)
    assert np.array_equal(kept.pixels, paged.pixels)


def test_batches_are_balanced_and_give_each_positive_its_crops_per_epoch() -> None:
    spots = [(10, 10), (30, 10), (50, 10)]
    points = [point(x, y, True) for x, y in spots]
    points += [point(70, 50, False), point(20, 50, False)]
    samples = [sample(*points)]
    stream = source(samples, collect(*samples)).batches(6, np.random.default_rng(0))
    shown = [next(stream) for _ in range(5)]  # 15 positives: one epoch
    assert all(batch.labels.tolist() == [1, 1, 1, 0, 0, 0] for batch in shown)
    seen = np.concatenate([batch.pixels[:3] for batch in shown]).astype(int)
    holds = [((seen[..., 0] == y) & (seen[..., 1] == x)).any(axis=(1, 2)).sum() for x, y in spots]
    assert holds == [5, 5, 5]


def test_negative_crops_stay_on_their_clean_patch() -> None:
    samples = [sample(point(10, 10, True), point(60, 40, False))]
    clicks = collect(*samples)
    wide = crops.surroundings(samples, clicks.negatives, CROP, crops.CLICK_REACH)
    made = replace(source(samples, clicks), negatives=wide)
    clean = next(made.batches(80, np.random.default_rng(0))).pixels[40:].astype(int)
    middles = clean[..., :2].mean(axis=(1, 2))
    assert (np.abs(middles - (40, 60)) <= 0.5 + 1).all()  # jitter of 0.06 x 16 px


def test_negatives_are_drawn_by_weight_and_positives_carry_theirs() -> None:
    samples = [
        sample(
            point(10, 10, True, weight=0.5),
            point(60, 40, False, weight=3),
            point(20, 45, False, weight=1),
            point(30, 45, False, weight=0),
        )
    ]
    clicks = collect(*samples)
    assert [click.weight for click in clicks.negatives] == [3, 1]
    stream = source(samples, clicks).batches(400, np.random.default_rng(0))
    batch = next(stream)
    heavy = (batch.pixels[200:, ..., 1].astype(int).mean(axis=(1, 2)) > 40).mean()
    assert heavy == pytest.approx(0.75, abs=0.08)
    assert np.unique(batch.weights[:200]).tolist() == [0.5]
    assert np.unique(batch.weights[200:]).tolist() == [1.0]


def test_the_same_seed_gives_the_same_batches() -> None:
    samples = [sample(point(10, 10, True), point(60, 40, False))]
    made = source(samples, collect(*samples))
    one, other, third = (
        next(made.batches(8, np.random.default_rng(seed))).pixels for seed in (3, 3, 4)
    )
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_turning_gives_all_eight_symmetries_and_nothing_else() -> None:
    crop = coordinates(4, 4)
    turned = crops.turn(np.repeat(crop[None], 400, axis=0), np.random.default_rng(0))
    possible = {np.rot90(c, k).tobytes() for c in (crop, crop[:, ::-1]) for k in range(4)}
    assert {one.tobytes() for one in turned} == possible


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


def test_broken_points_and_images_are_named() -> None:
    with pytest.raises(ValueError, match="sample 1: weak point .* is not finite"):
        collect(sample(point(float("nan"), 10, True)))
    grey = Sample("7", lambda: np.zeros((9, 9), np.uint8), ())
    with pytest.raises(ValueError, match=r"sample 7: image is uint8 \(9, 9\)"):
        crops.surroundings([grey], [Click(0, 1, 1, 1.0)], CROP, 0.1)
