"""Synthetic concrete surfaces with true defect masks, and a reader of real ones.

A surface is painted like a small scene: features change maps of albedo and height, then light falls
from one side. So pores, cracks, joints and broken edges get their bright and dark rims from the
same sun. Shadows, damp, joints, form marks and smudges belong to no class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from backend.demo.defects import PAINTERS
from backend.demo.scene import photograph
from backend.demo.walls import concrete, distract
from backend.errors import SettingsError
from models.base import Image, Mask

CLASSES = tuple(PAINTERS)
CLASSES_PER_SURFACE = (0.12, 0.45, 0.29, 0.14)  # probability of 0, 1, 2, 3
LEAST_SIDE_PX = 64
JPEG_QUALITY = 92
SUFFIXES = (".jpg", ".jpeg")
ORIENTATION = 0x0112  # EXIF tag; from 5 on width and height are exchanged


@dataclass(frozen=True)
class Surface:
    """image: (H, W, 3) uint8 RGB; masks: class name -> (H, W) bool, one for every class asked."""

    image: Image
    masks: dict[str, Mask]


@dataclass(frozen=True)
class LabelledImage:
    """An image file and the mask file of one class; decoded only when asked.

    width_px, height_px: of the upright image (EXIF orientation applied), equal to the mask's.
    """

    stem: str
    image_path: Path
    mask_path: Path
    class_name: str
    width_px: int
    height_px: int

    def image(self) -> Image:
        """Decode the image upright; (H, W, 3) uint8 RGB."""
        with PillowImage.open(self.image_path) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))

    def mask(self) -> Mask:
        """Decode the mask; (H, W) bool. SettingsError unless its values are 0 and 255."""
        with PillowImage.open(self.mask_path) as opened:
            grey = np.asarray(opened.convert("L"))
        if other := set(np.unique(grey).tolist()) - {0, 255}:
            raise SettingsError(
                f"{self.mask_path} holds the values {sorted(other)[:5]}; a mask is 8 bit, "
                "0 = nothing, 255 = defect"
            )
        return np.asarray(grey == 255)


def surface(
    seed: int, width_px: int = 480, height_px: int = 320, classes: Sequence[str] = CLASSES
) -> Surface:
    """Paint one surface with none to three of the classes; equal arguments give equal pixels.

    Raises ValueError for a class that cannot be painted and for sides below 64 px.
    """
    if unknown := set(classes) - set(CLASSES):
        raise ValueError(f"cannot paint {sorted(unknown)}; known: {', '.join(CLASSES)}")
    if min(width_px, height_px) < LEAST_SIDE_PX:
        raise ValueError(f"{width_px} x {height_px} px; both sides need {LEAST_SIDE_PX} px")
    rng = np.random.default_rng(seed)
    scene = concrete(height_px, width_px, rng)
    distract(scene)
    count = min(len(classes), int(rng.choice(4, p=CLASSES_PER_SURFACE)))
    chosen = set(rng.permutation(np.array(classes))[:count].tolist())
    masks: dict[str, Mask] = {name: np.zeros(scene.shape, bool) for name in classes}
    for name in (name for name in PAINTERS if name in chosen):
        masks[name] = PAINTERS[name](scene)
    if {"crack", "spalling"} <= chosen:
        masks["crack"] &= ~masks["spalling"]  # what broke away took the crack with it
    return Surface(photograph(scene), masks)


def write_dataset(
    folder: Path,
    n: int,
    seed: int,
    *,
    width_px: int = 480,
    height_px: int = 320,
    classes: Sequence[str] = CLASSES,
) -> list[Path]:
    """Write `images/<stem>.jpg` and `masks/<class>/<stem>.png` (0/255); returns the image paths.

    Surface i depends on the seed and i alone, so a larger set contains the smaller one.
    """
    paths = []
    for number in range(n):
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        made = surface(own_seed, width_px, height_px, classes)
        stem = f"surface_{number + 1:04d}"
        for name, mask in made.masks.items():
            _write(folder / "masks" / name / f"{stem}.png", mask.astype(np.uint8) * 255)
        paths.append(folder / "images" / f"{stem}.jpg")
        _write(paths[-1], cv2.cvtColor(made.image, cv2.COLOR_RGB2BGR))
    return paths


def read_dataset(
    images_dir: Path, masks_dir: Path, class_name: str, limit: int | None = None, seed: int = 0
) -> list[LabelledImage]:
    """Pair `images_dir/*.jpg` with `masks_dir/*.png` of the same stem, sorted by stem.

    limit: how many, chosen by the seed. Raises SettingsError when a folder has no such files, when
    an image or a mask has no partner, and when a pair's sizes differ.
    """
    images = _by_stem(images_dir, SUFFIXES)
    masks = _by_stem(masks_dir, (".png",))
    if alone := sorted(images.keys() ^ masks.keys()):
        raise SettingsError(
            f"{len(alone)} files of {images_dir} and {masks_dir} have no partner, among them "
            f"{', '.join(alone[:3])}; an image and its mask need the same stem"
        )
    stems = sorted(images)
    if limit is not None and limit < len(stems):
        stems = sorted(np.random.default_rng(seed).permutation(np.array(stems))[:limit].tolist())
    return [_pair(images[stem], masks[stem], class_name) for stem in stems]


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path for path in files if path.suffix.lower() in suffixes]
    if not found:
        raise SettingsError(f"no {' or '.join(suffixes)} files in {folder}")
    by_stem = {path.stem: path for path in found}
    if len(by_stem) < len(found):
        raise SettingsError(f"{folder} holds several files of one stem; rename or remove some")
    return by_stem


def _pair(image: Path, mask: Path, class_name: str) -> LabelledImage:
    size, mask_size = _size(image), _size(mask)
    if size != mask_size:
        raise SettingsError(
            f"{image} has {size[0]} x {size[1]} px, but {mask} has {mask_size[0]} x {mask_size[1]}"
        )
    return LabelledImage(image.stem, image, mask, class_name, *size)


def _size(path: Path) -> tuple[int, int]:
    """Return (width, height) in px of the upright image, from the file's header."""
    try:
        with PillowImage.open(path) as opened:
            width_px, height_px = opened.size
            # Only photos are turned; asking a PNG for its EXIF would read all of it.
            sideways = opened.format == "JPEG" and opened.getexif().get(ORIENTATION, 1) >= 5
    except (OSError, UnidentifiedImageError) as error:
        raise SettingsError(f"{path} cannot be read as an image: {error}") from error
    return (height_px, width_px) if sideways else (width_px, height_px)


def _write(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix in SUFFIXES else []
    done, encoded = cv2.imencode(path.suffix, pixels, quality)
    if not done:
        raise OSError(f"{path} cannot be encoded")
    path.write_bytes(encoded.tobytes())
