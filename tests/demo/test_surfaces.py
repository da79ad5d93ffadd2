"""Generated surfaces: reproducible, truly labelled, varied, hard enough; and the folder reader."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage

from backend.demo.surfaces import CLASSES, Surface, read_dataset, surface, write_dataset
from backend.errors import SettingsError
from models.base import Mask

SEEDS = range(30)
DATA = Path(os.environ.get("LABELCLIMB_DATA", "../shared/data"))


@cache
def painted(seed: int) -> Surface:
    return surface(seed)


def with_class(name: str) -> list[Surface]:
    return [painted(seed) for seed in SEEDS if painted(seed).masks[name].any()]


def ring(mask: Mask, inner: int = 4, outer: int = 12) -> Mask:
    """Give the sound wall around a defect."""
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray((away > inner) & (away <= outer))


def test_equal_arguments_give_equal_pixels_and_another_seed_others() -> None:
    again, other = surface(5), surface(6)
    assert np.array_equal(painted(5).image, again.image)
    assert all(np.array_equal(painted(5).masks[n], again.masks[n]) for n in CLASSES)
    assert not np.array_equal(painted(5).image, other.image)


def test_painting_neither_reads_nor_moves_the_global_generator() -> None:
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    surface(3, 64, 64)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize(("width_px", "height_px"), [(64, 64), (200, 97), (97, 200)])
def test_shapes_and_types(width_px: int, height_px: int) -> None:
    for seed in range(6):
        made = surface(seed, width_px, height_px)
        assert made.image.shape == (height_px, width_px, 3)
        assert made.image.dtype == np.uint8
        assert {(m.shape, m.dtype.str) for m in made.masks.values()} == {
            ((height_px, width_px), "|b1")
        }


def test_only_asked_classes_are_painted_and_unknown_ones_refused() -> None:
    assert all(set(surface(seed, classes=("rust",)).masks) == {"rust"} for seed in range(4))
    with pytest.raises(ValueError, match=r"'moss'.*known: crack, spalling, rust"):
        surface(0, classes=("moss",))
    with pytest.raises(ValueError, match="64 px"):
        surface(0, 63, 300)


def test_every_number_of_classes_occurs_and_each_class_often() -> None:
    counts = [sum(m.any() for m in painted(seed).masks.values()) for seed in SEEDS]
    assert set(counts) == {0, 1, 2, 3}
    assert all(len(with_class(name)) >= len(SEEDS) // 5 for name in CLASSES)


def test_cracks_are_thin_long_and_darker_than_the_wall_beside_them() -> None:
    for made in with_class("crack"):
        mask = made.masks["crack"]
        depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
        assert np.percentile(depth[mask], 95) <= 4.5
        assert np.ptp(np.argwhere(mask), axis=0).max() > 60
        beside = ring(mask) & ~np.logical_or(made.masks["spalling"], made.masks["rust"])
        grey = made.image.mean(-1)
        assert grey[mask].mean() < 0.85 * grey[beside].mean()


def test_spalling_is_compact_and_rougher_than_the_wall() -> None:
    rougher = []
    for made in with_class("spalling"):
        mask = made.masks["spalling"]
        assert mask.sum() > 300
        contrast = np.abs(cv2.Laplacian(made.image.mean(-1).astype(np.float32), cv2.CV_32F))
        beside = ring(mask, 6, 25) & ~np.logical_or(made.masks["crack"], made.masks["rust"])
        rougher.append(contrast[mask].mean() / contrast[beside].mean())
    assert np.median(rougher) > 1.5


def test_rust_is_redder_than_the_wall() -> None:
    for made in with_class("rust"):
        mask = made.masks["rust"]
        redness = made.image[..., 0].astype(float) - made.image[..., 2]
        assert redness[mask].mean() > 25 + redness[ring(mask, 8, 30)].mean()


def test_what_broke_away_took_its_crack_with_it() -> None:
    both = [m for m in with_class("crack") if m.masks["spalling"].any()]
    assert both
    assert not any((m.masks["crack"] & m.masks["spalling"]).any() for m in both)


def test_darkness_alone_does_not_find_cracks() -> None:
    """Shadows, damp, joints and pores must be as dark, or the demo would prove nothing."""
    alarms = []
    for made in with_class("crack"):
        grey, mask = made.image.mean(-1), made.masks["crack"]
        dark = grey <= np.percentile(grey[mask], 75)
        alarms.append((dark & ~mask).sum() / dark.sum())
    assert np.median(alarms) > 0.3


def test_light_varies_from_surface_to_surface() -> None:
    means = [painted(seed).image.mean() for seed in SEEDS]
    assert np.ptp(means) > 50
    assert 40 < min(means) < max(means) < 235


def test_a_surface_takes_less_than_a_third_of_a_second() -> None:
    spent = []
    for seed in range(8):
        began = time.process_time()
        surface(seed)
        spent.append(time.process_time() - began)
    assert np.median(spent) < 0.3


# --- folders ---


def test_a_written_set_reads_back_and_a_larger_one_contains_it(tmp_path: Path) -> None:
    small = write_dataset(tmp_path / "small", 2, seed=4, width_px=96, height_px=80)
    large = write_dataset(tmp_path / "large", 3, seed=4, width_px=96, height_px=80)
    assert [path.name for path in small] == ["surface_0001.jpg", "surface_0002.jpg"]
    assert [p.read_bytes() for p in small] == [p.read_bytes() for p in large[:2]]
    for name in CLASSES:
        items = read_dataset(tmp_path / "small" / "images", tmp_path / "small/masks" / name, name)
        assert [item.image_path for item in items] == small
        for number, item in enumerate(items):
            own_seed = int(np.random.SeedSequence([4, number]).generate_state(1)[0])
            truth = surface(own_seed, 96, 80)
            assert np.array_equal(item.mask(), truth.masks[name])
            assert np.abs(item.image().astype(int) - truth.image).mean() < 6


def a_pair(folder: Path, stem: str = "a", size: tuple[int, int] = (30, 20)) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    PillowImage.new("RGB", size, (9, 99, 199)).save(folder / "images" / f"{stem}.jpg")
    PillowImage.new("L", size, 255).save(folder / "masks" / f"{stem}.png")


def read(folder: Path, **options: int) -> list[str]:
    items = read_dataset(folder / "images", folder / "masks", "crack", **options)
    return [item.stem for item in items]


def test_nothing_is_decoded_before_it_is_asked_for(tmp_path: Path) -> None:
    a_pair(tmp_path)
    cut = (tmp_path / "masks" / "a.png").read_bytes()[:45]
    (tmp_path / "masks" / "a.png").write_bytes(cut)
    (item,) = read_dataset(tmp_path / "images", tmp_path / "masks", "crack")
    assert (item.width_px, item.height_px, item.class_name) == (30, 20, "crack")
    with pytest.raises(OSError):
        item.mask()


def test_a_limit_chooses_by_the_seed(tmp_path: Path) -> None:
    for stem in "abcdefgh":
        a_pair(tmp_path, stem)
    first, again, other = (read(tmp_path, limit=4, seed=seed) for seed in (1, 1, 2))
    assert first == again == sorted(first) != other
    assert read(tmp_path, limit=99) == list("abcdefgh") == read(tmp_path)


def test_files_without_partner_are_named(tmp_path: Path) -> None:
    a_pair(tmp_path)
    (tmp_path / "masks" / "b.png").write_bytes((tmp_path / "masks" / "a.png").read_bytes())
    with pytest.raises(SettingsError, match=r"1 files .*partner, among them b"):
        read(tmp_path)


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    a_pair(tmp_path)
    PillowImage.new("L", (30, 21)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(SettingsError, match=r"30 x 20 px.*30 x 21"):
        read(tmp_path)


def test_a_sideways_photo_is_turned_before_it_is_compared(tmp_path: Path) -> None:
    a_pair(tmp_path, size=(20, 30))
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.new("RGB", (30, 20)).save(tmp_path / "images" / "a.jpg", exif=exif)
    (item,) = read_dataset(tmp_path / "images", tmp_path / "masks", "crack")
    assert item.image().shape == (30, 20, 3) == (*item.mask().shape, 3)


def test_masks_with_other_values_and_broken_files_are_refused(tmp_path: Path) -> None:
    a_pair(tmp_path)
    PillowImage.new("L", (30, 20), 1).save(tmp_path / "masks" / "a.png")
    (item,) = read_dataset(tmp_path / "images", tmp_path / "masks", "crack")
    with pytest.raises(SettingsError, match=r"values \[1\].*255 = defect"):
        item.mask()
    (tmp_path / "images" / "a.jpg").write_bytes(b"not an image")
    with pytest.raises(SettingsError, match="cannot be read as an image"):
        read(tmp_path)


def test_empty_and_absent_folders_are_named(tmp_path: Path) -> None:
    a_pair(tmp_path)
    with pytest.raises(SettingsError, match="no .jpg or .jpeg files in .*nowhere"):
        read_dataset(tmp_path / "nowhere", tmp_path / "masks", "crack")
    with pytest.raises(SettingsError, match="no .png files in .*images"):
        read_dataset(tmp_path / "images", tmp_path / "images", "crack")


@pytest.mark.skipif(
    not (DATA / "cfd").is_dir(), reason=f"no real images in {DATA} (LABELCLIMB_DATA)"
)
@pytest.mark.parametrize("name", ["cfd", "deepcrack_train"])
def test_real_sets_are_read(name: str) -> None:
    items = read_dataset(DATA / name / "images", DATA / name / "masks", "crack", limit=3, seed=1)
    for item in items:
        assert item.image().shape[:2] == item.mask().shape == (item.height_px, item.width_px)
        assert 0 < item.mask().mean() < 0.3
