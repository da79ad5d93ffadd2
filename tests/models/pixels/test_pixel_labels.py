"""Which pixels clicks and masks speak of, and that they are computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from models.base import Image, Mask, Sample
from models.learning.crops import Click, Clicks
from models.networks import hypercolumn
from models.networks.hypercolumn import Hypercolumn, Levels
from models.pixels import pixel_memory
from models.pixels.pixel_labels import Pixels, Places, places
from models.pixels.pixel_memory import Wanted, gather, look

NONE = Clicks((), ())


def image_of(seed: int, height_px: int = 60, width_px: int = 80) -> Image:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height_px, width_px, 3)).astype(np.uint8)


def sample(key: str, mask: Mask | None = None) -> Sample:
    masks = {} if mask is None else {"rust": lambda: mask}
    return Sample(key, lambda: image_of(0), (), masks)


def drawn(clicks: Clicks, *samples: Sample, among: tuple[int, ...] = ()) -> Mapping[int, Places]:
    return places(samples or (sample("a"),), "rust", clicks, 20, among=among)


def blot(height_px: int = 60, width_px: int = 80) -> Mask:
    mask = np.zeros((height_px, width_px), dtype=bool)
    mask[20:40, 30:50] = True
    return mask


def test_a_positive_click_speaks_of_its_disc() -> None:
    (found,) = drawn(Clicks((Click(0, 40, 30, 0.5),), ())).values()
    assert len(found) == 9 and found.labels.all() and np.all(found.weights == 0.5)
    away = np.hypot(*(found.points - (30, 40)).T)  # row, column
    assert away.max() <= 2 + np.sqrt(0.5)  # of the disc of 2 px, in whole pixels
    assert len(np.unique(found.points, axis=0)) > 3


def test_a_negative_click_speaks_of_its_patch_but_for_the_rim() -> None:
    clicks = tuple(Click(0, 40, 30, 1.0) for _ in range(40))
    (found,) = drawn(Clicks((), clicks)).values()
    assert len(found) == 24 * 40 and not found.labels.any()
    away = np.abs(found.points - (30, 40)).max(axis=1)
    assert away.max() == 9  # 0.95 of half of 20 px, in whole pixels
    assert np.ptp(found.points, axis=0).min() == 18


def test_places_beyond_the_edges_are_moved_onto_them(encoder_weights: str) -> None:
    (found,) = drawn(Clicks((Click(0, 0, 59, 1.0),), (Click(0, 79, 0, 1.0),))).values()
    assert found.points.min() == 0 and found.points.max() > 79
    trunk, image = Hypercolumn("resnet18", encoder_weights), image_of(1)
    (pixels,) = look(trunk, image, [found], tile_px=1024)
    inside = np.clip(found.points, 0, (59, 79))
    expected = hypercolumn.at(trunk.levels(image), inside)
    np.testing.assert_array_equal(pixels.columns, expected.astype(np.float16))


def test_a_mask_speaks_of_both_sides_of_its_outline_and_of_far_away() -> None:
    mask = blot()
    (found,) = drawn(NONE, sample("a", mask), among=(0,)).values()
    at = tuple(found.points.T)
    assert np.array_equal(mask[at], found.labels)
    assert (found.labels.sum(), (~found.labels).sum()) == (192, 192)
    assert np.all(found.weights == 1)
    outside_px = distance_transform_edt(~mask)[at][~found.labels]
    assert outside_px.min() > 2  # what lies closer is uncertain
    near = (outside_px <= 12).sum()
    share = (distance_transform_edt(~mask) <= 12)[~mask].mean()
    assert 96 <= near <= 96 + 96 * share + 20 and outside_px.max() > 20


@pytest.mark.parametrize("full", [False, True])
def test_a_mask_of_one_kind_speaks_of_that_alone(full: bool) -> None:
    mask = np.full((60, 80), full)
    (found,) = drawn(NONE, sample("a", mask), among=(0,)).values()
    assert len(found) == 192 and np.all(found.labels == full)


def test_a_mask_that_fills_all_but_the_rim_has_no_negatives() -> None:
    mask = np.ones((20, 20), dtype=bool)
    mask[0] = False  # within 2 px of the defect
    (found,) = drawn(NONE, sample("a", mask), among=(0,)).values()
    assert found.labels.all()


def test_held_out_masks_are_not_even_looked_at() -> None:
    def mask() -> Mask:
        raise AssertionError("a held-out mask was decoded")

    unseen = replace(sample("a"), masks={"rust": mask})
    assert not drawn(NONE, unseen)
    assert set(drawn(NONE, unseen, sample("b", blot()), among=(1,))) == {1}
    of_another = replace(sample("a"), masks={"crack": mask})
    assert not drawn(NONE, of_another, among=(0,))


def test_the_pixels_of_a_sample_depend_on_it_alone() -> None:
    def clicks(index: int) -> Clicks:
        return Clicks((Click(index, 40, 30, 1.0),), (Click(index, 9, 9, 1.0),))

    alone = drawn(clicks(0), sample("b", blot()), among=(0,))[0]
    both = Clicks(
        (Click(0, 4, 3, 1.0), *clicks(1).positives), (*clicks(1).negatives, Click(0, 50, 9, 1.0))
    )
    others = sample("a", ~blot()), sample("b", blot()), sample("c", blot())
    beside = drawn(both, *others, among=(0, 1, 2))
    assert beside[1].digest == alone.digest
    assert np.array_equal(beside[1].points, alone.points)
    assert len({found.digest for found in beside.values()}) == 3
    assert not np.array_equal(beside[2].points, alone.points[-384:])  # another key, other pixels
    other_class = places([sample("b")], "crack", clicks(0), 20, among=())[0]
    assert other_class.digest != drawn(clicks(0), sample("b"))[0].digest


def test_the_digest_tells_places_labels_and_weights_apart() -> None:
    base = Places(np.array([[1, 2]]), np.array([True]), np.ones(1, np.float32))
    changed = [
        replace(base, points=np.array([[2, 1]])),
        replace(base, labels=np.array([False])),
        replace(base, weights=np.full(1, 0.5, np.float32)),
    ]
    assert len({base.digest, *(one.digest for one in changed)}) == 4
    assert replace(base).digest == base.digest


@pytest.mark.training
def test_a_large_image_is_looked_at_by_tiles_around_its_places(
    encoder_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = Hypercolumn("resnet18", encoder_weights)
    image = cv2.GaussianBlur(image_of(2, 40, 1100), (0, 0), 2)
    ends = Places(np.array([[5, 20], [39, 1099]]), np.ones(2, bool), np.ones(2, np.float32))
    middle = replace(ends, points=np.array([[5, 20], [9, 40]]))
    levels, sides = Hypercolumn.levels, []

    def seen(self: Hypercolumn, part: Image) -> Levels:
        sides.append(part.shape[1])
        return levels(self, part)

    (whole,) = look(trunk, image, [ends], tile_px=2048)
    monkeypatch.setattr(Hypercolumn, "levels", seen)
    found = look(trunk, image, [ends, middle], tile_px=256)
    assert len(sides) == 2 and max(sides) < 600  # of five tiles
    reference = np.abs(whole.columns.astype(np.float32)).mean()
    assert np.abs(found[0].columns - whole.columns).max() < 0.01 * reference
    assert np.array_equal(found[1].columns[0], found[0].columns[0])
    assert found[0].digest == ends.digest


class Counted:
    """Samples that count how often they are decoded."""

    def __init__(self, *keys: str) -> None:
        self.loads: list[str] = []
        self.samples = [Sample(key, lambda key=key: self.load(key), ()) for key in keys]

    def load(self, key: str) -> Image:
        self.loads.append(key)
        return image_of(len(key))


def wanted(known: Mapping[str, Pixels], *rows: int) -> Wanted:
    clicks = Clicks(tuple(Click(n, 10, row, 1.0) for n, row in enumerate(rows)), ())
    samples = [sample(key) for key in ("a", "bb", "ccc")[: len(rows)]]
    return Wanted(places(samples, "rust", clicks, 20, among=()), known)


def test_each_image_is_decoded_once_and_only_if_something_is_new(encoder_weights: str) -> None:
    trunk = Hypercolumn("resnet18", encoder_weights)
    counted, seen = Counted("a", "bb", "ccc"), list[int]()
    first, second = gather(
        counted.samples,
        [wanted({}, 5, 6, 7), wanted({}, 8, 9)],
        trunk,
        tile_px=1024,
        report=seen.append,
    )
    assert counted.loads == ["a", "bb", "ccc"] and seen == [1, 2, 3]
    assert (list(first), list(second)) == (["a", "bb", "ccc"], ["a", "bb"])
    counted.loads.clear()
    again, moved = gather(
        counted.samples,
        [wanted(first, 5, 6, 7), wanted(second, 8, 20)],
        trunk,
        tile_px=1024,
        report=seen.append,
    )
    assert counted.loads == ["bb"]
    assert all(again[key] is first[key] for key in first)
    assert moved["a"] is second["a"] and moved["bb"].digest != second["bb"].digest


def test_an_image_of_another_kind_is_named(encoder_weights: str) -> None:
    trunk = Hypercolumn("resnet18", encoder_weights)
    grey = Sample("task-7", lambda: np.zeros((9, 9), np.uint8), ())
    with pytest.raises(ValueError, match=r"sample task-7: image is uint8 \(9, 9\); give uint8"):
        gather([grey], [wanted({}, 5)], trunk, tile_px=1024, report=lambda _: None)


def test_what_is_written_is_read_back_when_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def pixels(count: int, digest: str) -> Pixels:
        columns = rng.normal(size=(count, 5)).astype(np.float16)
        return Pixels(columns, rng.random(count) > 0.5, rng.random(count, np.float32), digest)

    memories = [{"7": pixels(3, "ab"), "Bild/ä 1.jpg": pixels(2, "cd")}, {}, {"7": pixels(1, "e")}]
    pixel_memory.write(tmp_path / "pixels", memories)
    found = pixel_memory.read(tmp_path / "pixels", 3)
    assert [set(memory) for memory in found] == [set(memory) for memory in memories]
    for memory, stored in zip(memories, found, strict=True):
        assert len(stored) == len(memory) and "unknown" not in stored
        for key, own in memory.items():
            assert stored[key].digest == own.digest
            for one, other in zip(
                (own.columns, own.labels, own.weights),
                (stored[key].columns, stored[key].labels, stored[key].weights),
                strict=True,
            ):
                assert one.dtype == other.dtype and np.array_equal(one, other)


def test_the_file_may_be_deleted_once_it_is_open(tmp_path: Path) -> None:
    labelled = Pixels(np.ones((1, 2), np.float16), np.ones(1, bool), np.ones(1, np.float32), "d")
    pixel_memory.write(tmp_path / "pixels", [{"a": labelled}])
    (found,) = pixel_memory.read(tmp_path / "pixels", 1)
    (tmp_path / "pixels").unlink()
    assert np.array_equal(found["a"].columns, labelled.columns)
