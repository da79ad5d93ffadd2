"""Folders of images with a folder of masks, as people have them: paired, named, read."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from backend.errors import ImageError, SettingsError
from backend.evaluation import masks as mask_files
from backend.labelstudio.images import decoding
from models.base import Image, Mask

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MASK_ENDINGS = re.compile(
    r"[_\-. ](masks?|labels?|gt|groundtruth|seg|segmentation)$", re.IGNORECASE
)
CLASS_WORDS = (  # class, what a part of a folder's name contains or begins with
    ("crack", r"crack|fissure|^cfd$"),
    ("spalling", r"^spall"),
    ("rust", r"^rust|corro"),
)
UNKNOWN_CLASS = "defect"
NAMED_PARENTS = 2  # folders above the two given ones whose names are read


class Labelled(NamedTuple):
    """An image (H, W, 3) uint8 RGB with its truth (H, W) bool; resized: the mask did not fit."""

    image: Image
    truth: Mask
    resized: bool


@dataclass(frozen=True)
class Pair:
    """An image file and the file of its true mask; `name` is the image's stem."""

    name: str
    image: Path
    mask: Path
    max_pixels: int

    def load(self) -> Image:
        """Decode the image; raises ImageError naming the file."""
        try:
            return decoding.decode(self.image.read_bytes(), max_pixels=self.max_pixels)
        except (ImageError, OSError) as error:
            raise ImageError(f"{self.image}: {error}") from error

    def read(self) -> Labelled:
        """Decode both; a mask of another size is stretched to the image; raises ImageError."""
        image = self.load()
        try:
            mask = mask_files.decode_mask(self.mask.read_bytes(), max_pixels=self.max_pixels)
        except (ImageError, OSError) as error:
            raise ImageError(f"{self.mask}: {error}") from error
        shape = (image.shape[0], image.shape[1])
        return Labelled(image, mask_files.fitted(mask, shape), mask.shape != shape)


def read_folder(images: Path, masks: Path, *, max_pixels: int) -> list[Pair]:
    """Pair every image with its mask, in the order of a hash of their names.

    A mask has the stem of its image, or that with an ending as _mask, _label or _gt. Hidden files,
    other files, folders and masks without an image are ignored. Raises SettingsError when there is
    no image, when images lack a mask, and when several files share a stem.
    """
    found, mask_paths = _files(images), _files(masks)
    if images.resolve() == masks.resolve():
        found = [path for path in found if not MASK_ENDINGS.search(path.stem)]
        mask_paths = [path for path in mask_paths if path not in found]
    _one_of_each_stem(found, images)
    _one_of_each_stem(mask_paths, masks)
    by_stem = _by_image_stem(mask_paths)
    alone = [path.name for path in found if path.stem not in by_stem]
    if alone:
        raise SettingsError(
            f"{len(alone)} of {len(found)} images of {images} have no mask in {masks}: "
            f"{_first(alone)}; a mask needs the stem of its image, alone or with an ending as "
            "_mask, and an image without the class an all-black one"
        )
    pairs = [Pair(path.stem, path, by_stem[path.stem], max_pixels) for path in found]
    return sorted(pairs, key=lambda pair: digest(pair.name))


def digest(name: str) -> str:
    """Hash a name, the same on every machine."""
    return hashlib.sha256(name.encode()).hexdigest()


def class_of(images: Path, masks: Path) -> str:
    """Guess the class from the folders' names, the nearest first; "defect" if they say nothing."""
    nearest = [masks.resolve(), images.resolve()]
    parents = [
        folder.parents[n]
        for n in range(NAMED_PARENTS)
        for folder in nearest
        if n < len(folder.parents)
    ]
    for folder in nearest + parents:
        words = re.split(r"[^a-z]+", folder.name.lower())
        for name, pattern in CLASS_WORDS:
            if any(re.search(pattern, word) for word in words):
                return name
    return UNKNOWN_CLASS


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder; give one that holds image files")
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise SettingsError(
            f"{folder} holds no {', '.join(SUFFIXES)} files; subfolders are not searched"
        )
    return found


def _by_image_stem(masks: Sequence[Path]) -> dict[str, Path]:
    """Map stems of images to masks; a mask of exactly that stem goes before one with an ending."""
    ended = {MASK_ENDINGS.sub("", path.stem): path for path in masks}
    return {**ended, **{path.stem: path for path in masks}}


def _one_of_each_stem(paths: Sequence[Path], folder: Path) -> None:
    counts = Counter(path.stem for path in paths)
    if several := [path.name for path in paths if counts[path.stem] > 1]:
        raise SettingsError(
            f"{folder} holds several files of one stem: {_first(several)}; rename or remove some"
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
