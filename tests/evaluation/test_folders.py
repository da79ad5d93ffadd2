"""Folders as people have them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from backend.errors import ImageError, SettingsError
from backend.evaluation import folders
from backend.evaluation.folders import Pair
from tests.evaluation.making import folder, surface, write

LIMIT = 1_000_000
IMAGE, TRUTH = surface(0, 40)


def read(root: Path) -> list[Pair]:
    return folders.read_folder(root / "images", root / "masks", max_pixels=LIMIT)


def test_images_come_with_their_masks_in_the_order_of_a_hash(tmp_path: Path) -> None:
    folder(tmp_path, 6)
    pairs = read(tmp_path)
    wanted = sorted(
        (f"{n:03}" for n in range(6)), key=lambda stem: hashlib.sha256(stem.encode()).hexdigest()
    )
    assert [pair.name for pair in pairs] == wanted != sorted(wanted)
    image, truth = surface(int(pairs[0].name))
    labelled = pairs[0].read()
    np.testing.assert_array_equal(labelled.image, image)
    np.testing.assert_array_equal(labelled.truth, truth)
    assert not labelled.resized


@pytest.mark.parametrize("suffix", [".jpg", ".PNG", ".tif", ".bmp", ".webp", ".jpeg"])
@pytest.mark.parametrize(
    "mask", ["a.png", "a_mask.png", "a_label.bmp", "a_GT.tif", "a-masks.jpg", "a.mask.png"]
)
def test_formats_and_endings(tmp_path: Path, suffix: str, mask: str) -> None:
    write(tmp_path / "images" / f"a{suffix}", IMAGE)
    write(tmp_path / "masks" / mask, TRUTH)
    (pair,) = read(tmp_path)
    assert pair.name == "a"
    assert pair.read().truth.shape == (40, 40)


def test_the_same_stem_goes_before_one_with_an_ending(tmp_path: Path) -> None:
    folder(tmp_path, 1)
    write(tmp_path / "masks" / "000_label.png", ~TRUTH)
    assert read(tmp_path)[0].mask.name == "000.png"


def test_hidden_files_other_files_folders_and_lone_masks_are_ignored(tmp_path: Path) -> None:
    folder(tmp_path, 1)
    (tmp_path / "images" / "._000.png").write_bytes(b"resource fork")
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "images" / "more.png").mkdir()
    write(tmp_path / "masks" / "unused.png", TRUTH)
    assert [pair.name for pair in read(tmp_path)] == ["000"]


def test_missing_masks_are_named(tmp_path: Path) -> None:
    folder(tmp_path, 6)
    for n in range(1, 6):
        (tmp_path / "masks" / f"{n:03}.png").unlink()
    with pytest.raises(SettingsError, match=r"5 of 6 images .* 001.png, 002.png, 003.png, \.\.\."):
        read(tmp_path)


def test_an_image_of_the_same_stem_is_not_guessed_at(tmp_path: Path) -> None:
    folder(tmp_path, 1)
    write(tmp_path / "images" / "000.jpg", IMAGE)
    with pytest.raises(SettingsError, match="several files of one stem: 000.jpg, 000.png"):
        read(tmp_path)


def test_one_folder_may_hold_both(tmp_path: Path) -> None:
    write(tmp_path / "a.png", IMAGE)
    write(tmp_path / "a_mask.png", TRUTH)
    (pair,) = folders.read_folder(tmp_path, tmp_path, max_pixels=LIMIT)
    assert (pair.image.name, pair.mask.name) == ("a.png", "a_mask.png")


def test_without_images_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="images is no folder"):
        read(tmp_path)
    (tmp_path / "images" / "deeper").mkdir(parents=True)
    with pytest.raises(SettingsError, match="subfolders are not searched"):
        read(tmp_path)


def test_a_mask_of_another_size_is_stretched_and_says_so(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", IMAGE)
    write(tmp_path / "masks" / "a.png", TRUTH[::2, ::2])
    labelled = read(tmp_path)[0].read()
    assert labelled.resized
    assert labelled.truth.shape == (40, 40)


@pytest.mark.parametrize("broken", ["images", "masks"])
def test_a_broken_file_is_named(tmp_path: Path, broken: str) -> None:
    folder(tmp_path, 1)
    (tmp_path / broken / "000.png").write_bytes(b"broken")
    with pytest.raises(ImageError, match=rf"{broken}/000.png: .*6 bytes"):
        read(tmp_path)[0].read()


@pytest.mark.parametrize(
    ("images", "masks", "expected"),
    [
        ("deepcrack/images", "deepcrack/masks", "crack"),
        ("CFD/images", "CFD/masks", "crack"),
        ("spalling_train/images", "spalling_train/masks", "spalling"),
        ("spalling_train/images", "spalling_train/masks_crack", "crack"),
        ("Corrosion-v2/test/img", "Corrosion-v2/test/lab", "rust"),
        ("rusty/images", "rusty/masks", "rust"),
        ("trust_me/images", "trust_me/masks", "defect"),
        ("crack/a/b/images", "crack/a/b/masks", "defect"),  # too far away to mean it
    ],
)
def test_the_class_is_read_off_the_nearest_folder(
    tmp_path: Path, images: str, masks: str, expected: str
) -> None:
    assert folders.class_of(Path("/data/x/y/z") / images, Path("/data/x/y/z") / masks) == expected
