"""The demo's images with their true masks: generated surfaces, or a folder of real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from backend.demo import surfaces
from backend.errors import SettingsError
from models.base import Mask

CLASSES = ("crack", "spalling", "rust")


@dataclass(frozen=True)
class DemoImage:
    """An image file and, per class, a function that decodes its true mask."""

    path: Path
    masks: Mapping[str, Callable[[], Mask]]

    def truth(self) -> dict[str, Mask]:
        """Decode the true masks; class -> (H, W) bool."""
        return {name: decode() for name, decode in self.masks.items()}


def generated(folder: Path, count: int, seed: int) -> list[DemoImage]:
    """Return `count` generated surfaces, painting those that are not on disk yet."""
    paths = sorted((folder / "images").glob("*.jpg"))
    if len(paths) != count:
        paths = surfaces.write_dataset(folder, count, seed, classes=CLASSES)
    return [DemoImage(path, _mask_files(folder, path.stem)) for path in paths]


def real(
    images: Path, masks: Path | None, class_name: str, count: int, seed: int
) -> list[DemoImage]:
    """Return a seeded choice of `count` images with masks of one class.

    `images` may be a folder that holds `images` and `masks`. Raises SettingsError without masks.
    """
    if masks is None and (images / "images").is_dir():
        images, masks = images / "images", images / "masks"
    if masks is None:
        raise SettingsError(
            f"{images} comes without masks; add --masks DIR: the demo's annotator needs the truth"
        )
    chosen = surfaces.read_dataset(images, masks, class_name, limit=count, seed=seed)
    return [DemoImage(item.image_path, {class_name: item.mask}) for item in chosen]


def _mask_files(folder: Path, stem: str) -> dict[str, Callable[[], Mask]]:
    return {name: _decoder(folder / "masks" / name / f"{stem}.png") for name in CLASSES}


def _decoder(path: Path) -> Callable[[], Mask]:
    def decode() -> Mask:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if grey is None:
            raise SettingsError(f"{path} cannot be read; delete the demo's folder to start anew")
        return np.asarray(grey > 127)

    return decode
