"""Read the images to learn from, and click them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from backend.errors import ImageError, SettingsError
from backend.evaluation import clicks
from backend.evaluation.folders import Pair
from models.base import Mask, Sample, WeakPoint

LEAST_PATCH_PX = 16


@dataclass(frozen=True)
class Clicked:
    """An image with its clicks; its truth stays on disk."""

    pair: Pair
    points: tuple[WeakPoint, ...]
    held_out: bool

    def sample(self, class_name: str, *, verified: bool) -> Sample:
        """Give it to a training, with its true mask if `verified`."""
        masks: dict[str, Callable[[], Mask]] = {}
        if verified:
            masks[class_name] = lambda: self.pair.read().truth
        return Sample(self.pair.name, self.pair.load, self.points, masks, self.held_out)

    def count(self, *, positive: bool) -> int:
        """Count its clicks of one sign."""
        return sum(point.positive == positive for point in self.points)


@dataclass(frozen=True)
class Reading:
    """All clicked images, and what was found on the way.

    patch_px: side of the patches whose centres were clicked as clean; left_out: why, per image.
    """

    clicked: tuple[Clicked, ...]
    patch_px: int
    resized: int
    left_out: tuple[str, ...]

    def clicks(self, *, positive: bool) -> int:
        """Count the clicks of one sign that are learnt from."""
        return sum(one.count(positive=positive) for one in self.clicked if not one.held_out)


@dataclass(frozen=True)
class Clicking:
    """How images are clicked; each image by a random generator of its own."""

    class_name: str
    per_image: int
    patch_px: int
    seed: int

    def points(self, name: str, truth: Mask) -> tuple[WeakPoint, ...]:
        """Click one image: (H, W) bool."""
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        return clicks.clicks(truth, self.class_name, self.per_image, self.patch_px, rng)


def read(
    train: Callable[[], Iterable[Pair]],
    validation: Callable[[], Iterable[Pair]],
    clicking: Clicking,
) -> Reading:
    """Click all images; where none has a clean patch, patches are halved until one has.

    Unreadable images are left out. Raises SettingsError when no image shows the class, and when
    none can be read.
    """
    reading = _read(train(), validation(), clicking)
    if not reading.clicked:
        raise SettingsError(f"no image can be read: {'; '.join(reading.left_out[:3])}")
    if not reading.clicks(positive=True):
        raise SettingsError(
            "no mask of the images to train on shows a defect; are they black, or of another class?"
        )
    if reading.clicks(positive=False) or clicking.patch_px // 2 < LEAST_PATCH_PX:
        return reading
    smaller = Clicking(
        clicking.class_name, clicking.per_image, clicking.patch_px // 2, clicking.seed
    )
    return read(train, validation, smaller)


def _read(train: Iterable[Pair], validation: Iterable[Pair], clicking: Clicking) -> Reading:
    clicked, left_out, resized = [], [], 0
    for pairs, held_out in ((train, False), (validation, True)):
        for pair in pairs:
            try:
                labelled = pair.read()
            except ImageError as error:
                left_out.append(str(error))
                continue
            resized += labelled.resized
            points = clicking.points(pair.name, labelled.truth)
            clicked.append(Clicked(pair, points, held_out))
    return Reading(tuple(clicked), clicking.patch_px, resized, tuple(left_out))
